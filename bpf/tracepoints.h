/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Where the tracepoint fields lie. Tracepoint structs are not UAPI: the loader compares these with
 * /sys/kernel/tracing/events/.../format (agent/fedge_agent/kernel/tracepoints.py). On a mismatch bcc compiles the
 * sources on the device, with every OFF_ and TYPE_ given by -D; without bcc the program is left out.
 */
#ifndef FEDGE_TRACEPOINTS_H
#define FEDGE_TRACEPOINTS_H

#ifndef BCC_SEC
/* sched_wakeup and sched_wakeup_new */
#define OFF_SCHED_WAKEUP_PID 24
#define TYPE_SCHED_WAKEUP_PID __u32
#define OFF_SCHED_WAKEUP_PRIO 28
#define TYPE_SCHED_WAKEUP_PRIO __u32

#define OFF_SCHED_SWITCH_PREV_PID 24
#define TYPE_SCHED_SWITCH_PREV_PID __u32
#define OFF_SCHED_SWITCH_PREV_PRIO 28
#define TYPE_SCHED_SWITCH_PREV_PRIO __u32
#define OFF_SCHED_SWITCH_PREV_STATE 32
#define TYPE_SCHED_SWITCH_PREV_STATE __u64
#define OFF_SCHED_SWITCH_NEXT_PID 56
#define TYPE_SCHED_SWITCH_NEXT_PID __u32
#define OFF_SCHED_SWITCH_NEXT_PRIO 60
#define TYPE_SCHED_SWITCH_NEXT_PRIO __u32

/* block_rq_issue and block_rq_complete */
#define OFF_BLOCK_RQ_DEV 8
#define TYPE_BLOCK_RQ_DEV __u32
#define OFF_BLOCK_RQ_SECTOR 16
#define TYPE_BLOCK_RQ_SECTOR __u64

/* inet_sock_set_state; an IPv4 address stands there as ::ffff:a.b.c.d */
#define OFF_SOCK_NEWSTATE 20
#define TYPE_SOCK_NEWSTATE __u32
#define OFF_SOCK_DADDR_V6 56
#define TYPE_SOCK_DADDR_V6 __u32 /* read by words: the verifier takes no larger load at 4 bytes' alignment */
#endif

#define FIELD(ctx, name) (*(TYPE_##name *)((char *)(ctx) + (OFF_##name)))
#define FIELD_WORD(ctx, name, i) (*(TYPE_##name *)((char *)(ctx) + (OFF_##name) + 4 * (i)))

#endif
