/* SPDX-License-Identifier: Apache-2.0 OR GPL-2.0-only */
/*
 * The one place that knows the compiler and the kernel.
 * clang compiles the sources as they are. For bcc they are expanded first (clang -E -P -DBCC_SEC): its rewriter refuses
 * map calls inside macros, and its own macros (BPF_TABLE) stay in the text for it to expand on the device.
 * UAPI types only: no vmlinux.h, no CO-RE, no kernel headers; loads on any kernel from 5.15, with BTF or without.
 */
#ifndef FEDGE_COMPAT_H
#define FEDGE_COMPAT_H

#ifdef BCC_SEC

#define __always_inline inline __attribute__((always_inline))
#define PROG(sec, name, ctx_t) int name(ctx_t *ctx)
#define BCC_KIND_ARRAY "array"
#define BCC_KIND_PERCPU_ARRAY "percpu_array"
#define BCC_KIND_HASH "hash"
#define BCC_KIND_LRU_HASH "lru_hash"
#define MAP(kind, name, K, V, N) BPF_TABLE(BCC_KIND_##kind, K, V, name, N)
#define LPM(name, K, V, N) BPF_F_TABLE("lpm_trie", K, V, name, N, BPF_F_NO_PREALLOC)
#define RING(name) BPF_RINGBUF_OUTPUT(name, 16) /* 64 KiB, see bcc/include/asm/page.h */
#define map_get(m, k) m.lookup(k)
#define map_put(m, k, v) m.update(k, v)
#define map_del(m, k) m.delete(k)
#define ring_out(m, p, n) m.ringbuf_output(p, n, 0)
#define LICENSE(text) /* bcc says GPL */

#else

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define PROG(sec, name, ctx_t)                                                                                         \
	SEC(sec)                                                                                                       \
	int name(ctx_t *ctx)

#define MAP(kind, name, K, V, N)                                                                                       \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_##kind);                                                                     \
		__uint(max_entries, N);                                                                                \
		__type(key, K);                                                                                        \
		__type(value, V);                                                                                      \
	} name SEC(".maps")

#define LPM(name, K, V, N)                                                                                             \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE);                                                                   \
		__uint(map_flags, BPF_F_NO_PREALLOC);                                                                  \
		__uint(max_entries, N);                                                                                \
		__type(key, K);                                                                                        \
		__type(value, V);                                                                                      \
	} name SEC(".maps")

/* 64 KiB: a power-of-two multiple of the page on 4, 16 and 64 KiB page kernels. */
#define RING(name)                                                                                                     \
	struct {                                                                                                       \
		__uint(type, BPF_MAP_TYPE_RINGBUF);                                                                    \
		__uint(max_entries, 65536);                                                                            \
	} name SEC(".maps")

#define map_get(m, k) bpf_map_lookup_elem(&m, k)
#define map_put(m, k, v) bpf_map_update_elem(&m, k, v, BPF_ANY)
#define map_del(m, k) bpf_map_delete_elem(&m, k)
#define ring_out(m, p, n) bpf_ringbuf_output(&m, p, n, 0)

#define LICENSE(text) char fedge_license[] SEC("license") = text

#endif

#endif
