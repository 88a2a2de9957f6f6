/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
#ifndef FEDGE_LOG2_H
#define FEDGE_LOG2_H

/* Floor of log2, 0 for 0; no loop, so that old verifiers agree. */
static __always_inline __u32 log2_slot(__u64 value)
{
	__u32 low = value >> 32 ? 0xffffffff : (__u32)value;
	__u32 slot = 0, shift;

	shift = (low > 0xffff) << 4;
	low >>= shift;
	slot |= shift;
	shift = (low > 0xff) << 3;
	low >>= shift;
	slot |= shift;
	shift = (low > 0xf) << 2;
	low >>= shift;
	slot |= shift;
	shift = (low > 0x3) << 1;
	low >>= shift;
	slot |= shift;
	slot |= low >> 1;
	return slot;
}

#endif
