/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Records shared by the kernel programs and user space. User space's copy is
 * agent/fedge_agent/kernel/records.py; tests/unit/agent/kernel compares the two.
 */
#ifndef FEDGE_H
#define FEDGE_H

/* Where a packet or an address was refused; field `hook` of fedge_denial. */
enum fedge_hook {
	FEDGE_AT_CONNECT = 1, /* connect(2): EPERM to the caller */
	FEDGE_AT_SENDMSG = 2, /* sendmsg(2) with an address: EPERM to the caller */
	FEDGE_AT_EGRESS = 3,  /* a packet that came by another way, or over the budget: dropped */
	FEDGE_AT_INGRESS = 4, /* a packet over the budget: dropped */
};

/* Field `reason` of fedge_denial. */
enum fedge_reason {
	FEDGE_NOT_ALLOWED = 1,	/* the peer is not in the allow-list */
	FEDGE_BUDGET_SPENT = 2, /* the day's bytes are used up */
};

/* Every way in and out of the admission programs; monotonic totals, in slot 0 of map fedge_count. */
enum fedge_counter {
	FEDGE_EGRESS_BYTES,
	FEDGE_EGRESS_PACKETS,
	FEDGE_INGRESS_BYTES,
	FEDGE_INGRESS_PACKETS,
	FEDGE_ALLOWED_CONNECT,
	FEDGE_ALLOWED_SENDMSG,
	FEDGE_DENIED_CONNECT,
	FEDGE_DENIED_SENDMSG,
	FEDGE_DENIED_EGRESS,
	FEDGE_EVENTS_SENT,
	FEDGE_EVENTS_SUPPRESSED, /* over FEDGE_EVENTS_PER_S */
	FEDGE_EVENTS_LOST,	 /* the ring was full: nobody reads */
	FEDGE_DENIED_BUDGET,	 /* packets over the day's bytes, both ways */
	FEDGE_AUDITED,		 /* of the denied ones above, those that audit mode let pass */
	FEDGE_PACED,		 /* connections that got a rate */
	FEDGE_PACE_FAILED,	 /* the kernel refused the rate */
	FEDGE_COUNTERS,
};

/* One record a CPU, so that a packet costs one look-up. */
struct fedge_counts {
	__u64 total[FEDGE_COUNTERS];
};

/* Slots of map fedge_tel: machine-wide totals of the telemetry programs. */
enum fedge_tel_counter {
	FEDGE_EXEC,
	FEDGE_RETRANSMITS,
	FEDGE_WAKE_LOST,  /* fedge_wake was full: that wait is not in the histogram */
	FEDGE_BLOCK_LOST, /* as above, fedge_io */
	FEDGE_RECLAIMS,	  /* direct reclaims: a task had to free memory before it got some */
	FEDGE_OOM_KILLS,
	FEDGE_TEL_COUNTERS,
};

/* Histograms fedge_runq, fedge_blk and fedge_srtt: slot i counts latencies of [2^i, 2^(i+1)) us; slot 0 from 0, the last without end. */
#define FEDGE_SLOTS 32

/* Slots of map fedge_peers, a power of two: enough for some thousand peers a window; more are told as these. */
#define FEDGE_PEER_SLOTS 256

/* Key of the LPM trie fedge_allow. prefixlen counts the bits after itself: 32 (port, protocol, pad exact) + address bits. */
struct fedge_peer {
	__u32 prefixlen;
	__be16 port;
	__u8 protocol; /* IPPROTO_TCP, IPPROTO_UDP */
	__u8 pad;      /* 0 */
	__u8 addr[16]; /* IPv6; IPv4 as ::ffff:a.b.c.d */
};

/* One refusal, in ring buffer fedge_deny. */
struct fedge_denial {
	__u64 stamp_ns;	  /* CLOCK_MONOTONIC */
	__u32 suppressed; /* refusals before this one that were counted but not sent */
	__be16 port;	  /* 0: not readable (fragment, extension header, neither TCP nor UDP) */
	__u8 protocol;
	__u8 hook; /* enum fedge_hook */
	__u8 addr[16];
	__u8 reason;  /* enum fedge_reason */
	__u8 audited; /* 1: audit mode, nothing was refused */
	__u8 pad[6];  /* 0 */
};

/* Slot 0 of map fedge_rule: what is not the allow-list. Written by root alone. */
struct fedge_rule {
	__u64 rate_per_s; /* bytes a second of every TCP connection; 0: not paced */
	__u32 audit;	  /* 1: report what would be refused, refuse nothing */
	__u32 pad;	  /* 0 */
};

/* Slot 0 of map fedge_budget: bytes, both ways, headers of segmented packets included. Only `fedge-bpf` fills it up. */
struct fedge_budget {
	__s64 left;  /* falls below 0 by what small packets use past the end */
	__s64 limit; /* of a day; 0: there is none, and nothing is counted down */
	__u64 day;   /* days since 1970 (UTC) for which `left` holds */
};

/* Slot 0 of map fedge_pace: the present one-second window of denial events. */
struct fedge_window {
	__u64 start_ns;
	__u32 sent;
	__u32 suppressed; /* since the last event that was sent */
};

#endif
