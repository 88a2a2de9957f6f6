/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The oldest kernel that we load on; bcc only asks whether it is newer than 4.8. */
#define KERNEL_VERSION(a, b, c) (((a) << 16) + ((b) << 8) + (c))
#define LINUX_VERSION_CODE KERNEL_VERSION(5, 15, 0)
