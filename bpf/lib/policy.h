/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Rule sets. Two look-ups give the bit vectors of the rules that match the peer and those that
 * match the service; the first bit both have is the deciding rule (Lakshman and Stiliadis 1998;
 * the nonzero summary is Baboescu and Varghese's aggregation, 2001). Nothing scans rules.
 */
#pragma once

#include "parse.h"

#define MAX_WORDS 256

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

/* search looks for the first word that has a bit of both vectors. */
struct search {
	__u32 ruleset, peer, service; /* ids of the vectors */
	__u32 allowed;
	__u64 words[4]; /* where both have bits */
};

/* search_word is a step of bpf_loop, which the verifier follows once and not for every word. */
static long search_word(__u32 i, struct search *s)
{
	__u32 n, word;
	__u64 both;

	for (n = 0; n < 4 && !s->words[n]; n++)
		;
	if (n == 4)
		return 1;
	word = n << 6 | lowest_bit(s->words[n]);
	s->words[n] &= s->words[n] - 1;
	both = vector_word(s->ruleset, s->peer, word) & vector_word(s->ruleset, s->service, word);
	if (!both)
		return 0;
	s->allowed = vector_word(s->ruleset, 0, word) >> lowest_bit(both) & 1;
	return 1;
}

static __always_inline struct bitvector *match_peer(__u32 ruleset, const struct policy_query *q)
{
	struct prefix_key key = {
		.prefixlen = 32 + 128, .scope = scope(ruleset, q->family), .addr = q->peer,
	};

	return bpf_map_lookup_elem(&peers, &key);
}

static __always_inline struct bitvector *match_service(__u32 ruleset, const struct policy_query *q)
{
	struct service_key key = {
		.prefixlen = 32 + 24, .ruleset = ruleset, .protocol = q->protocol,
		.port = { q->port[0], q->port[1] },
	};

	return bpf_map_lookup_elem(&services, &key);
}

/* policy_allows tells whether the rule set lets the connection begin. */
__noinline int policy_allows(__u32 ruleset, const struct policy_query *q)
{
	struct bitvector *a, *b;
	__u64 both;

	if (!q)
		return 0;
	if (!ruleset)
		return 1;
	a = match_peer(ruleset, q);
	if (!a)
		return 0;
	b = match_service(ruleset, q);
	if (!b)
		return 0;
	both = a->word0 & b->word0;
	if (both)
		return vector_word(ruleset, 0, 0) >> lowest_bit(both) & 1;

	struct search s = { .ruleset = ruleset, .peer = a->id, .service = b->id };

	for (int i = 0; i < 4; i++)
		s.words[i] = a->nonzero[i] & b->nonzero[i];
	bpf_loop(MAX_WORDS, search_word, &s, 0);
	return s.allowed;
}
