// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only
/*
 * Network admission of one cgroup: default deny outwards, by address, port and protocol; a hard budget of bytes a day.
 * The address hooks refuse early and tell the caller (EPERM); egress refuses again whatever comes by another way
 * (a socket connected before the programs were attached, or before the policy was narrowed), and counts.
 */
#include "compat.h"
#include "fedge.h"
#include "log2.h"

#define FEDGE_EVENTS_PER_S 16
#define NSEC_PER_SEC 1000000000ULL

/* Verdicts of cgroup programs. */
#define PASS 1
#define DROP 0

/* Not in the UAPI headers of every distribution that we compile on. */
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define TCP 6
#define UDP 17
#define PEER_BITS (32 + 128)
#define FRAGMENT_OFFSET 0x1fff
#define IPV4_MIN_BYTES 20
#define IPV6_BYTES 40

/* Always admitted, also past the budget: or a connection could neither close nor keep alive. */
#define SMALL_BYTES 128
/* IP, TCP and time stamps of every further segment of a packet that the network card cuts up. */
#define IPV4_SEGMENT_BYTES 52
#define IPV6_SEGMENT_BYTES 72

/* setsockopt(2) and tcp(7); the same on every architecture that we load on. */
#define SOL_SOCKET 1
#define SO_MAX_PACING_RATE 47
#define SRTT_FRACTION_BITS 3 /* the kernel keeps eighths of us */

LPM(fedge_allow, struct fedge_peer, __u32, 1024); /* value: number of the rule in the policy, from 1 */
MAP(PERCPU_ARRAY, fedge_count, __u32, struct fedge_counts, 1);
MAP(ARRAY, fedge_pace, __u32, struct fedge_window, 1);
MAP(ARRAY, fedge_rule, __u32, struct fedge_rule, 1);
MAP(ARRAY, fedge_budget, __u32, struct fedge_budget, 1);
MAP(PERCPU_ARRAY, fedge_srtt, __u32, __u64, FEDGE_SLOTS);
RING(fedge_deny);

static __always_inline struct fedge_counts *this_cpu_counts(void)
{
	__u32 zero = 0;

	return map_get(fedge_count, &zero);
}

/* Tells of a refusal, at most FEDGE_EVENTS_PER_S times a second; two CPUs at once may overshoot by one each. */
static __always_inline void report(struct fedge_counts *counts, const struct fedge_peer *peer, __u8 hook, __u8 reason,
				   __u8 audited)
{
	struct fedge_denial denial = {};
	struct fedge_window *window;
	__u64 now_ns = bpf_ktime_get_ns();
	__u32 zero = 0;

	window = map_get(fedge_pace, &zero);
	if (!window)
		return;
	if (now_ns - window->start_ns >= NSEC_PER_SEC) {
		window->start_ns = now_ns;
		window->sent = 0;
	}
	if (window->sent >= FEDGE_EVENTS_PER_S) {
		window->suppressed++;
		counts->total[FEDGE_EVENTS_SUPPRESSED]++;
		return;
	}
	window->sent++;

	denial.stamp_ns = now_ns;
	denial.suppressed = window->suppressed;
	denial.port = peer->port;
	denial.protocol = peer->protocol;
	denial.hook = hook;
	denial.reason = reason;
	denial.audited = audited;
	__builtin_memcpy(denial.addr, peer->addr, sizeof(denial.addr));
	if (ring_out(fedge_deny, &denial, sizeof(denial))) {
		counts->total[FEDGE_EVENTS_LOST]++;
		return;
	}
	window->suppressed = 0;
	counts->total[FEDGE_EVENTS_SENT]++;
}

static __always_inline struct fedge_rule *the_rule(void)
{
	__u32 zero = 0;

	return map_get(fedge_rule, &zero);
}

/* Reports a refusal; the verdict is PASS when the owner only wants to know (audit mode). */
static __always_inline int refuse(struct fedge_counts *counts, const struct fedge_peer *peer, __u8 hook, __u8 reason)
{
	struct fedge_rule *rule = the_rule();
	__u8 audited = rule && rule->audit;

	report(counts, peer, hook, reason, audited);
	if (!audited)
		return DROP;
	counts->total[FEDGE_AUDITED]++;
	return PASS;
}

/* Takes a packet's bytes off the day's budget; false when it is spent and the packet is not small. */
static __always_inline int afford(__u32 bytes)
{
	__u32 zero = 0;
	struct fedge_budget *budget = map_get(fedge_budget, &zero);

	if (!budget)
		return 0;
	if (!budget->limit)
		return 1;
	if (budget->left < (__s64)bytes && bytes > SMALL_BYTES)
		return 0;
	__sync_fetch_and_add(&budget->left, -(__s64)bytes);
	return 1;
}

/* What a packet weighs on the wire, after the network card has cut it into segments. */
static __always_inline __u32 wire_bytes(struct __sk_buff *ctx)
{
	__u32 segments = ctx->gso_segs;
	__u32 header;

	if (segments <= 1)
		return ctx->len;
	header = ctx->protocol == bpf_htons(ETH_P_IPV6) ? IPV6_SEGMENT_BYTES : IPV4_SEGMENT_BYTES;
	return ctx->len + (segments - 1) * header;
}

static __always_inline void set_ipv4(struct fedge_peer *peer, __be32 addr)
{
	peer->addr[10] = 0xff;
	peer->addr[11] = 0xff;
	__builtin_memcpy(peer->addr + 12, &addr, sizeof(addr));
}

static __always_inline int admit_address(struct bpf_sock_addr *ctx, struct fedge_peer *peer, __u8 hook, __u32 allowed,
					 __u32 denied)
{
	struct fedge_counts *counts = this_cpu_counts();

	if (!counts)
		return DROP;
	peer->prefixlen = PEER_BITS;
	peer->port = (__be16)ctx->user_port;
	peer->protocol = (__u8)ctx->protocol;
	if (map_get(fedge_allow, peer)) {
		counts->total[allowed]++;
		return PASS;
	}
	counts->total[denied]++;
	return refuse(counts, peer, hook, FEDGE_NOT_ALLOWED);
}

static __always_inline int admit_ipv4(struct bpf_sock_addr *ctx, __u8 hook, __u32 allowed, __u32 denied)
{
	struct fedge_peer peer = {};

	set_ipv4(&peer, ctx->user_ip4);
	return admit_address(ctx, &peer, hook, allowed, denied);
}

static __always_inline int admit_ipv6(struct bpf_sock_addr *ctx, __u8 hook, __u32 allowed, __u32 denied)
{
	struct fedge_peer peer = {};
	__u32 addr[4] = {ctx->user_ip6[0], ctx->user_ip6[1], ctx->user_ip6[2], ctx->user_ip6[3]};

	__builtin_memcpy(peer.addr, addr, sizeof(peer.addr));
	return admit_address(ctx, &peer, hook, allowed, denied);
}

/*
 * Fills in the peer of an outgoing IPv4 packet; what cannot be read stays zero and is in no allow-list:
 * later fragments carry no port, and only TCP and UDP have ports where we look.
 */
static __always_inline void read_ipv4(struct __sk_buff *ctx, struct fedge_peer *peer)
{
	__u8 header[IPV4_MIN_BYTES];
	__be16 port;
	__u32 addr;
	__u16 fragment;

	if (bpf_skb_load_bytes(ctx, 0, header, sizeof(header)))
		return;
	__builtin_memcpy(&addr, header + 16, sizeof(addr));
	set_ipv4(peer, addr);
	peer->protocol = header[9];
	fragment = ((__u16)header[6] << 8 | header[7]) & FRAGMENT_OFFSET;
	if (fragment || (peer->protocol != TCP && peer->protocol != UDP))
		return;
	if (bpf_skb_load_bytes(ctx, (header[0] & 0x0f) * 4 + 2, &port, sizeof(port)))
		return;
	peer->port = port;
}

/* As read_ipv4. A packet with extension headers is refused: its port is not where we look. */
static __always_inline void read_ipv6(struct __sk_buff *ctx, struct fedge_peer *peer)
{
	__u8 header[IPV6_BYTES];
	__be16 port;

	if (bpf_skb_load_bytes(ctx, 0, header, sizeof(header)))
		return;
	__builtin_memcpy(peer->addr, header + 24, sizeof(peer->addr));
	peer->protocol = header[6];
	if (peer->protocol != TCP && peer->protocol != UDP)
		return;
	if (bpf_skb_load_bytes(ctx, IPV6_BYTES + 2, &port, sizeof(port)))
		return;
	peer->port = port;
}

PROG("cgroup/connect4", fedge_connect4, struct bpf_sock_addr)
{
	return admit_ipv4(ctx, FEDGE_AT_CONNECT, FEDGE_ALLOWED_CONNECT, FEDGE_DENIED_CONNECT);
}

PROG("cgroup/connect6", fedge_connect6, struct bpf_sock_addr)
{
	return admit_ipv6(ctx, FEDGE_AT_CONNECT, FEDGE_ALLOWED_CONNECT, FEDGE_DENIED_CONNECT);
}

PROG("cgroup/sendmsg4", fedge_sendmsg4, struct bpf_sock_addr)
{
	return admit_ipv4(ctx, FEDGE_AT_SENDMSG, FEDGE_ALLOWED_SENDMSG, FEDGE_DENIED_SENDMSG);
}

PROG("cgroup/sendmsg6", fedge_sendmsg6, struct bpf_sock_addr)
{
	return admit_ipv6(ctx, FEDGE_AT_SENDMSG, FEDGE_ALLOWED_SENDMSG, FEDGE_DENIED_SENDMSG);
}

PROG("cgroup_skb/egress", fedge_egress, struct __sk_buff)
{
	struct fedge_counts *counts = this_cpu_counts();
	struct fedge_peer peer = {};
	__u32 bytes;

	if (!counts)
		return DROP;
	if (ctx->protocol == bpf_htons(ETH_P_IP))
		read_ipv4(ctx, &peer);
	else if (ctx->protocol == bpf_htons(ETH_P_IPV6))
		read_ipv6(ctx, &peer);
	peer.prefixlen = PEER_BITS;
	if (!peer.port || !map_get(fedge_allow, &peer)) {
		counts->total[FEDGE_DENIED_EGRESS]++;
		if (refuse(counts, &peer, FEDGE_AT_EGRESS, FEDGE_NOT_ALLOWED) == DROP)
			return DROP;
	}
	bytes = wire_bytes(ctx);
	if (!afford(bytes)) {
		counts->total[FEDGE_DENIED_BUDGET]++;
		if (refuse(counts, &peer, FEDGE_AT_EGRESS, FEDGE_BUDGET_SPENT) == DROP)
			return DROP;
	}
	counts->total[FEDGE_EGRESS_PACKETS]++;
	counts->total[FEDGE_EGRESS_BYTES] += bytes;
	return PASS;
}

PROG("cgroup_skb/ingress", fedge_ingress, struct __sk_buff)
{
	struct fedge_counts *counts = this_cpu_counts();
	__u32 bytes = wire_bytes(ctx);

	if (!counts)
		return PASS;
	if (!afford(bytes)) {
		struct fedge_peer peer = {};

		counts->total[FEDGE_DENIED_BUDGET]++;
		if (refuse(counts, &peer, FEDGE_AT_INGRESS, FEDGE_BUDGET_SPENT) == DROP)
			return DROP;
	}
	counts->total[FEDGE_INGRESS_PACKETS]++;
	counts->total[FEDGE_INGRESS_BYTES] += bytes;
	return PASS;
}

static __always_inline void pace(struct bpf_sock_ops *ctx)
{
	struct fedge_counts *counts = this_cpu_counts();
	struct fedge_rule *rule = the_rule();
	__u32 rate;

	if (!counts || !rule || !rule->rate_per_s)
		return;
	rate = rule->rate_per_s > 0xfffffffe ? 0xfffffffe : (__u32)rule->rate_per_s; /* all ones means unlimited */
	if (bpf_setsockopt(ctx, SOL_SOCKET, SO_MAX_PACING_RATE, &rate, sizeof(rate)))
		counts->total[FEDGE_PACE_FAILED]++;
	else
		counts->total[FEDGE_PACED]++;
}

PROG("sockops", fedge_sockops, struct bpf_sock_ops)
{
	__u64 *total;
	__u32 slot;

	switch (ctx->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		bpf_sock_ops_cb_flags_set(ctx, BPF_SOCK_OPS_RTT_CB_FLAG);
		pace(ctx);
		break;
	case BPF_SOCK_OPS_RTT_CB:
		slot = log2_slot(ctx->srtt_us >> SRTT_FRACTION_BITS);
		total = map_get(fedge_srtt, &slot);
		if (total)
			*total += 1;
		break;
	}
	return 1;
}

LICENSE("GPL");
