/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * Where the tracepoint fields lie. Tracepoint structs are not UAPI: the loader compares these offsets with
 * /sys/kernel/tracing/events/.../format (agent/fedge_agent/kernel/tracepoints.py) and leaves a program out on a mismatch.
 * Each can be given with -D for a kernel with another layout.
 */
#ifndef FEDGE_TRACEPOINTS_H
#define FEDGE_TRACEPOINTS_H

#ifndef OFF_SCHED_WAKEUP_PID /* sched_wakeup and sched_wakeup_new */
#define OFF_SCHED_WAKEUP_PID 24
#define OFF_SCHED_WAKEUP_PRIO 28
#endif

#ifndef OFF_SCHED_SWITCH_PREV_PID
#define OFF_SCHED_SWITCH_PREV_PID 24
#define OFF_SCHED_SWITCH_PREV_PRIO 28
#define OFF_SCHED_SWITCH_PREV_STATE 32
#define OFF_SCHED_SWITCH_NEXT_PID 56
#define OFF_SCHED_SWITCH_NEXT_PRIO 60
#endif

#ifndef OFF_BLOCK_RQ_DEV /* block_rq_issue and block_rq_complete */
#define OFF_BLOCK_RQ_DEV 8
#define OFF_BLOCK_RQ_SECTOR 16
#endif

#define FIELD(ctx, type, offset) (*(type *)((char *)(ctx) + (offset)))

#endif
