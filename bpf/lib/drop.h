/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Counting: every packet that ends here ends with a reason. */
#pragma once

#include <linux/pkt_cls.h>
#include "../maps.h"
#include "drop_reasons.h"

static __always_inline int drop(__u32 slot, __u32 reason)
{
	struct port_counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c && reason < MAX_REASONS)
		c->drops[reason]++;
	return TC_ACT_SHOT;
}

static __always_inline void count_from(__u32 slot, __u32 bytes)
{
	struct port_counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c) {
		c->from_packets++;
		c->from_bytes += bytes;
	}
}

static __always_inline void count_to(__u32 slot, __u32 bytes)
{
	struct port_counters *c = bpf_map_lookup_elem(&counters, &slot);

	if (c) {
		c->to_packets++;
		c->to_bytes += bytes;
	}
}
