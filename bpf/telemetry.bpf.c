// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * What the machine is doing, as totals and histograms: how long other people's tasks wait for a CPU, execs, TCP
 * retransmits and peers, memory reclaim, block I/O latency. Nothing here names a process, a file or a peer: of peers
 * there is a sketch, from which their number can be told and no address.
 */
#include "compat.h"
#include "fedge.h"
#include "log2.h"
#include "tracepoints.h"

#define LEAST_PRIO 139	  /* nice 19: the trainer waits by design, its waits are nobody's trouble */
#define NOT_RUNNABLE 0xff /* bits of sched_switch's prev_state; a preempted task has none of them */
#define NSEC_PER_USEC 1000

/* States of a TCP socket, the same since Linux 2.4. */
#define ESTABLISHED 1
#define SYN_SENT 2
#define ADDRESS_WORDS 4
#define V4_MAPPED bpf_htonl(0xffff)
#define LOOPBACK_V4 127
#define LOOPBACK_V6 bpf_htonl(1)
#define MIX 0x9e3779b97f4a7c15ULL /* 2^64 over the golden ratio */

struct request {
	__u64 sector;
	__u32 dev;
	__u32 pad;
};

/* Slot 0: CLOCK_MONOTONIC ns since when the scheduler probes count, 0 = off. The only map the daemon may write. */
MAP(ARRAY, fedge_on, __u32, __u64, 1);
MAP(HASH, fedge_wake, __u32, __u64, 8192); /* thread id -> when it became runnable, ns */
MAP(LRU_HASH, fedge_io, struct request, __u64, 1024);
MAP(PERCPU_ARRAY, fedge_runq, __u32, __u64, FEDGE_SLOTS);
MAP(PERCPU_ARRAY, fedge_blk, __u32, __u64, FEDGE_SLOTS);
MAP(PERCPU_ARRAY, fedge_tel, __u32, __u64, FEDGE_TEL_COUNTERS);
MAP(ARRAY, fedge_peers, __u32, __u64, FEDGE_PEER_SLOTS); /* hash of an address -> when one of them was last met, ns */

static __always_inline void count(__u32 slot)
{
	__u64 *total = map_get(fedge_tel, &slot);

	if (total)
		*total += 1;
}

static __always_inline __u64 counting_since_ns(void)
{
	__u32 zero = 0;
	__u64 *since_ns = map_get(fedge_on, &zero);

	return since_ns ? *since_ns : 0;
}

static __always_inline int runnable(__u32 tid, __u32 prio)
{
	__u64 now_ns;

	if (!tid || prio >= LEAST_PRIO)
		return 0;
	now_ns = bpf_ktime_get_ns();
	if (map_put(fedge_wake, &tid, &now_ns))
		count(FEDGE_WAKE_LOST);
	return 0;
}

PROG("tracepoint/sched/sched_wakeup", fedge_wakeup, void)
{
	if (!counting_since_ns())
		return 0;
	return runnable(FIELD(ctx, SCHED_WAKEUP_PID), FIELD(ctx, SCHED_WAKEUP_PRIO));
}

PROG("tracepoint/sched/sched_wakeup_new", fedge_wake_new, void)
{
	if (!counting_since_ns())
		return 0;
	return runnable(FIELD(ctx, SCHED_WAKEUP_PID), FIELD(ctx, SCHED_WAKEUP_PRIO));
}

PROG("tracepoint/sched/sched_switch", fedge_switch, void)
{
	__u64 since_ns = counting_since_ns();
	__u64 *stamp_ns, *total, woken_ns;
	__u32 tid, slot;

	if (!since_ns)
		return 0;
	if (!(FIELD(ctx, SCHED_SWITCH_PREV_STATE) & NOT_RUNNABLE))
		runnable(FIELD(ctx, SCHED_SWITCH_PREV_PID), FIELD(ctx, SCHED_SWITCH_PREV_PRIO));

	tid = FIELD(ctx, SCHED_SWITCH_NEXT_PID);
	if (!tid || FIELD(ctx, SCHED_SWITCH_NEXT_PRIO) >= LEAST_PRIO)
		return 0;
	stamp_ns = map_get(fedge_wake, &tid);
	if (!stamp_ns)
		return 0;
	woken_ns = *stamp_ns;
	map_del(fedge_wake, &tid);
	if (woken_ns < since_ns) /* left over from before the probes were last off */
		return 0;
	slot = log2_slot((bpf_ktime_get_ns() - woken_ns) / NSEC_PER_USEC);
	total = map_get(fedge_runq, &slot);
	if (total)
		*total += 1;
	return 0;
}

PROG("tracepoint/sched/sched_process_exec", fedge_exec, void)
{
	count(FEDGE_EXEC);
	return 0;
}

PROG("tracepoint/tcp/tcp_retransmit_skb", fedge_retrans, void)
{
	count(FEDGE_RETRANSMITS);
	return 0;
}

/*
 * The number of other machines that this one speaks to: the share of the slots that were stamped in a window tells it
 * (linear counting), without a reset that could race and without keeping a single address.
 */
PROG("tracepoint/sock/inet_sock_set_state", fedge_peer, void)
{
	__u32 state = FIELD(ctx, SOCK_NEWSTATE);
	__u32 addr[ADDRESS_WORDS], slot;
	__u64 hash = 0, *stamp_ns;

	if (state != ESTABLISHED && state != SYN_SENT)
		return 0;
	addr[0] = FIELD_WORD(ctx, SOCK_DADDR_V6, 0);
	addr[1] = FIELD_WORD(ctx, SOCK_DADDR_V6, 1);
	addr[2] = FIELD_WORD(ctx, SOCK_DADDR_V6, 2);
	addr[3] = FIELD_WORD(ctx, SOCK_DADDR_V6, 3);
	if (!addr[0] && !addr[1] &&
	    ((addr[2] == V4_MAPPED && (addr[3] & 0xff) == LOOPBACK_V4) || (!addr[2] && addr[3] == LOOPBACK_V6)))
		return 0;
	hash = (hash ^ addr[0]) * MIX;
	hash = (hash ^ hash >> 32 ^ addr[1]) * MIX;
	hash = (hash ^ hash >> 32 ^ addr[2]) * MIX;
	hash = (hash ^ hash >> 32 ^ addr[3]) * MIX;
	slot = hash >> 32 & (FEDGE_PEER_SLOTS - 1);
	stamp_ns = map_get(fedge_peers, &slot);
	if (stamp_ns)
		*stamp_ns = bpf_ktime_get_ns();
	return 0;
}

PROG("tracepoint/vmscan/mm_vmscan_direct_reclaim_begin", fedge_reclaim, void)
{
	count(FEDGE_RECLAIMS);
	return 0;
}

PROG("tracepoint/oom/mark_victim", fedge_oom, void)
{
	count(FEDGE_OOM_KILLS);
	return 0;
}

PROG("tracepoint/block/block_rq_issue", fedge_blk_issue, void)
{
	struct request request = {};
	__u64 now_ns = bpf_ktime_get_ns();

	request.dev = FIELD(ctx, BLOCK_RQ_DEV);
	request.sector = FIELD(ctx, BLOCK_RQ_SECTOR);
	if (map_put(fedge_io, &request, &now_ns))
		count(FEDGE_BLOCK_LOST);
	return 0;
}

PROG("tracepoint/block/block_rq_complete", fedge_blk_done, void)
{
	struct request request = {};
	__u64 *stamp_ns, *total;
	__u32 slot;

	request.dev = FIELD(ctx, BLOCK_RQ_DEV);
	request.sector = FIELD(ctx, BLOCK_RQ_SECTOR);
	stamp_ns = map_get(fedge_io, &request);
	if (!stamp_ns)
		return 0;
	slot = log2_slot((bpf_ktime_get_ns() - *stamp_ns) / NSEC_PER_USEC);
	map_del(fedge_io, &request);
	total = map_get(fedge_blk, &slot);
	if (total)
		*total += 1;
	return 0;
}

LICENSE("GPL");
