/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Where an address of a tenant network is: hosts by hash, then prefixes by trie. */
#pragma once

#include "parse.h"

static __always_inline struct route *find_route(__u32 vni, __u8 family, const struct addr *addr)
{
	struct host_key host = { .scope = scope(vni, family), .addr = *addr };
	struct prefix_key prefix = { .prefixlen = 32 + 128, .scope = host.scope, .addr = *addr };
	struct route *r = bpf_map_lookup_elem(&hosts, &host);

	return r ?: bpf_map_lookup_elem(&prefixes, &prefix);
}

/* flow_hash spreads flows over next hops, and by the flow label over the fabric's paths. */
static __always_inline __u32 flow_hash(const struct packet *p)
{
	const __u64 *w = (const __u64 *)&p->key;
	__u64 h = (__u64)p->key.lport << 16 | p->key.rport | (__u64)p->key.protocol << 32;

	/* key.slot and local..remote; multiplication is Knuth's, by 2^64/phi */
	h = (h ^ w[1]) * 0x9e3779b97f4a7c15ULL;
	h = (h ^ w[2] ^ h >> 29) * 0x9e3779b97f4a7c15ULL;
	h = (h ^ w[3] ^ h >> 29) * 0x9e3779b97f4a7c15ULL;
	h = (h ^ w[4] ^ h >> 29) * 0x9e3779b97f4a7c15ULL;
	return h >> 32;
}

/* route_packet finds the remote's place and writes it into p. Returns 0 or a reason. */
__noinline int route_packet(struct packet *p, __u32 vni)
{
	struct route *r;
	struct multipath *m;
	__u32 group, slot;

	if (!p)
		return DROP_NO_ROUTE;
	r = find_route(vni, p->key.family, &p->key.remote);
	if (!r)
		return DROP_NO_ROUTE;
	p->local_ifindex = r->local_ifindex;
	if (r->local_ifindex)
		return 0;
	if (r->count == 1) {
		p->tunnel = r->nexthop;
		return 0;
	}
	group = r->group;
	m = bpf_map_lookup_elem(&multipaths, &group);
	if (!m)
		return DROP_NO_ROUTE;
	slot = flow_hash(p) & (NEXTHOP_SLOTS - 1);
	p->tunnel = m->nexthop[m->slot[slot] & (MAX_NEXTHOPS - 1)];
	return 0;
}

/* source_is_forged tells whether p->tunnel cannot be the sender of p: the inner source is
 * routed, and not to there.
 */
__noinline int source_is_forged(struct packet *p, __u32 vni)
{
	struct route *r;
	struct multipath *m;
	__u32 group;

	if (!p)
		return 1;
	r = find_route(vni, p->key.family, &p->key.remote);
	if (!r)
		return 0;
	if (r->local_ifindex)
		return 1;
	if (r->count == 1)
		return !addr_equal(&r->nexthop, &p->tunnel);
	group = r->group;
	m = bpf_map_lookup_elem(&multipaths, &group);
	if (!m)
		return 1;
	/* The list ends with the unspecified address, which is nobody's. */
	for (int i = 0; i < MAX_NEXTHOPS; i++)
		if (addr_equal(&m->nexthop[i], &p->tunnel))
			return addr_is_zero(&p->tunnel);
	return 1;
}

/* owns tells whether the port behind ifindex has the machine's side of p. */
static __always_inline int owns(const struct packet *p, __u32 vni, __u32 ifindex)
{
	struct route *r = find_route(vni, p->key.family, &p->key.local);

	return r && r->local_ifindex == ifindex;
}
