/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Every map. Sizes marked "set by the loader" are the configuration's. */
#pragma once

#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include "types.h"

const volatile struct config conf;

/* copy_conf reads a field byte by byte: a cast that drops volatile would let the compiler take
 * the zeros that it sees for the value.
 */
static __always_inline void copy_conf(void *to, const volatile __u8 *from, int n)
{
	for (int i = 0; i < n; i++)
		((__u8 *)to)[i] = from[i];
}

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, __u32); /* ifindex */
	__type(value, struct port);
	__uint(max_entries, 1024); /* set by the loader */
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__type(key, struct addr); /* underlay address */
	__type(value, __u32);	  /* ifindex */
	__uint(max_entries, 1024); /* set by the loader */
} underlays SEC(".maps");

/* Slot 0 counts what belongs to no port. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__type(key, __u32); /* slot */
	__type(value, struct port_counters);
	__uint(max_entries, 1024); /* set by the loader */
} counters SEC(".maps");

/* Live flows of a slot = created - removed: programs write the first, user space the second,
 * because user space cannot change a map value atomically.
 */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* slot */
	__type(value, __u64);
	__uint(max_entries, 1024); /* set by the loader */
} flows_created SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32); /* slot */
	__type(value, __u64);
	__uint(max_entries, 1024); /* set by the loader */
} flows_removed SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct flow_key);
	__type(value, struct flow);
	__uint(max_entries, 1 << 20); /* set by the loader */
} flows SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct host_key);
	__type(value, struct route);
	__uint(max_entries, 1 << 20); /* set by the loader */
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, struct route);
	__uint(max_entries, 1 << 20); /* set by the loader */
} prefixes SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u32); /* group */
	__type(value, struct multipath);
	__uint(max_entries, 1 << 16);
} multipaths SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix_key);
	__type(value, struct bitvector);
	__uint(max_entries, 1 << 20);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct service_key);
	__type(value, struct bitvector);
	__uint(max_entries, 1 << 20);
} services SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct vector_key);
	__type(value, __u64);
	__uint(max_entries, 1 << 22);
} vectors SEC(".maps");

/* Of user space only: what must never run backwards, even over a restart. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__type(key, __u32);
	__type(value, struct serial_numbers);
	__uint(max_entries, 1);
} serials SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__type(key, struct fragment_key);
	__type(value, struct fragment);
	__uint(max_entries, 1 << 14);
} fragments SEC(".maps");
