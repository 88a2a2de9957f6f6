/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/* The unit in which bcc gives a ring buffer's size; the kernel takes bytes, so it is one number everywhere. */
#define PAGE_SIZE 4096
