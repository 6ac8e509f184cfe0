/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rule sets. Two look-ups give the bit vectors of the rules that match the peer and those that
 * match the service; the first bit both have is the deciding rule (Lakshman and Stiliadis 1998;
 * the nonzero summary is Baboescu and Varghese's aggregation, 2001). Nothing scans rules.
 */
#pragma once

#include "parse.h"

struct policy_query {
	struct addr peer;
	__u8 family;
	__u8 protocol;
	__u8 port[2]; /* destination port, or ICMP type and code */
};

static __always_inline __u32 lowest_bit(__u64 v)
{
	__u32 n = 0;

	if (!(v & 0xffffffff))
		n += 32, v >>= 32;
	if (!(v & 0xffff))
		n += 16, v >>= 16;
	if (!(v & 0xff))
		n += 8, v >>= 8;
	if (!(v & 0xf))
		n += 4, v >>= 4;
	if (!(v & 0x3))
		n += 2, v >>= 2;
	return n + !(v & 1);
}

static __always_inline __u64 vector_word(__u32 ruleset, __u32 id, __u32 word)
{
	struct vector_key key = { .ruleset = ruleset, .word = id << 8 | word };
	__u64 *v = bpf_map_lookup_elem(&vectors, &key);

	return v ? *v : 0;
}

/* policy_allows tells whether the rule set lets the connection begin. */
__noinline int policy_allows(__u32 ruleset, const struct policy_query *q)
{
	struct prefix_key peer = { .prefixlen = 32 + 128 };
	struct service_key service = { .prefixlen = 32 + 24, .ruleset = ruleset };
	struct bitvector *a, *b;
	__u64 both;

	if (!q)
		return 0;
	if (!ruleset)
		return 1;
	peer.scope = scope(ruleset, q->family);
	peer.addr = q->peer;
	service.protocol = q->protocol;
	service.port[0] = q->port[0];
	service.port[1] = q->port[1];
	a = bpf_map_lookup_elem(&peers, &peer);
	if (!a)
		return 0;
	b = bpf_map_lookup_elem(&services, &service);
	if (!b)
		return 0;
	both = a->word0 & b->word0;
	if (both)
		return vector_word(ruleset, 0, 0) >> lowest_bit(both) & 1;
	for (__u32 i = 0; i < 4; i++) {
		__u64 words = a->nonzero[i] & b->nonzero[i];

		for (int n = 0; n < 64 && words; n++) {
			__u32 word = i << 6 | lowest_bit(words);

			words &= words - 1;
			both = vector_word(ruleset, a->id, word) & vector_word(ruleset, b->id, word);
			if (both)
				return vector_word(ruleset, 0, word) >> lowest_bit(both) & 1;
		}
	}
	return 0;
}
