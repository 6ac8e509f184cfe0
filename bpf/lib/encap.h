/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The tunnel, ipip6 (RFC 2473), and the last steps of a packet towards the fabric or a machine. */
#pragma once

#include <stddef.h>
#include "flow.h"

#define OUTER_LEN 40
#define AF_INET6 10
#define IPPROTO_IPV4 4

/* not in the headers of older distributions; kernel >= 6.5 */
#define ADJ_ROOM_DECAP_L3_IPV4 (1ULL << 7)
#define ADJ_ROOM_DECAP_L3_IPV6 (1ULL << 8)

#ifndef ENCAP_FLAGS
#define ENCAP_FLAGS (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_ENCAP_L3_IPV6 | \
		     BPF_F_ADJ_ROOM_NO_CSUM_RESET)
#endif

#define ECN_MASK 3
#define ECN_CE 3

/* age decrements TTL or hop limit in the packet; the caller has seen that it is above 1. */
static __always_inline int age(struct __sk_buff *ctx, const struct packet *p)
{
	if (p->key.family == 4) {
		/* RFC 1624: one less in the first byte of a word is 0x100 more in the sum */
		__u16 word[2] __attribute__((aligned(4))) = { p->ttl_csum[0], p->ttl_csum[1] };
		__u32 sum = word[1] + bpf_htons(0x0100);

		word[0] -= 1; /* the first byte; it does not borrow */
		word[1] = sum + (sum >> 16);
		return store_bytes(ctx, p->l3 + offsetof(struct iphdr, ttl), word, 4);
	} else {
		__u8 word[2] __attribute__((aligned(2))) = { p->next_header, p->ttl - 1 };

		return store_bytes(ctx, p->l3 + offsetof(struct ipv6hdr, nexthdr), word, 2);
	}
}

/* outer is what a tunnel packet begins with; pad aligns the IP header. */
struct outer {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
};

#define OUTER_HEAD (ETH_HLEN + OUTER_LEN)

/* encapsulate puts p, whose Ethernet header is at 0, into a tunnel to p->tunnel. */
static __always_inline int encapsulate(struct __sk_buff *ctx, const struct packet *p,
				       const struct port *port, struct outer *o)
{
	__u32 label = flow_hash(p) & 0xfffff;

	if (bpf_skb_adjust_room(ctx, OUTER_LEN, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS))
		return DROP_REWRITE;
	o->eth.h_proto = bpf_htons(ETH_P_IPV6);
	/* version; the inner's ECN (RFC 6040 normal mode), and not its DSCP: which queue of the
	 * fabric a tenant gets is not the tenant's choice; flow label (RFC 6438)
	 */
	*(__be32 *)&o->ip = bpf_htonl(6 << 28 | (__u32)(p->tos & ECN_MASK) << 20 | label);
	o->ip.payload_len = bpf_htons(ctx->len - OUTER_HEAD);
	o->ip.nexthdr = p->key.family == 4 ? IPPROTO_IPV4 : IPPROTO_IPV6;
	o->ip.hop_limit = 64;
	__builtin_memcpy(&o->ip.saddr, &port->underlay, 16);
	__builtin_memcpy(&o->ip.daddr, &p->tunnel, 16);
	return 0;
}

/* find_path asks the host's own routing and neighbour tables how to reach the outer destination. */
static __always_inline long find_path(struct __sk_buff *ctx, const struct outer *o,
				      struct bpf_fib_lookup *fib)
{
	fib->family = AF_INET6;
	fib->ifindex = conf.uplink;
	fib->l4_protocol = o->ip.nexthdr;
	fib->flowinfo = *(__be32 *)&o->ip & bpf_htonl(0x000fffff);
	__builtin_memcpy(fib->ipv6_src, &o->ip.saddr, 16);
	__builtin_memcpy(fib->ipv6_dst, &o->ip.daddr, 16);
	return bpf_fib_lookup(ctx, fib, sizeof(*fib), 0);
}

static __always_inline int send_along(struct __sk_buff *ctx, const struct port *port,
				      struct outer *o, const struct path *path)
{
	__builtin_memcpy(o->eth.h_dest, path->dmac, 6);
	__builtin_memcpy(o->eth.h_source, path->smac, 6);
	if (store_bytes(ctx, 0, &o->eth, OUTER_HEAD))
		return drop(port->slot, DROP_REWRITE);
	return bpf_redirect(path->ifindex, 0);
}

/* send_to_fabric encapsulates the packet and sends it to its next hop. The flow, where there is
 * one, remembers the path for a tick.
 */
__noinline int send_to_fabric(struct __sk_buff *ctx, const struct packet *p,
			      const struct port *port, struct flow *f)
{
	__u32 tick;
	struct bpf_redir_neigh neigh = { .nh_family = AF_INET6 };
	struct bpf_fib_lookup fib = {};
	struct path path = {};
	struct outer o = {};
	int reason;
	long found;

	if (!p || !port)
		return TC_ACT_SHOT;
	tick = p->arrived >> 26;
	reason = encapsulate(ctx, p, port, &o);
	if (reason)
		return drop(port->slot, reason);
	if (f && f->path.tick == tick)
		return send_along(ctx, port, &o, &f->path);
	found = find_path(ctx, &o, &fib);
	if (found == BPF_FIB_LKUP_RET_SUCCESS) {
		path.tick = tick;
		path.ifindex = fib.ifindex;
		__builtin_memcpy(path.dmac, fib.dmac, 6);
		__builtin_memcpy(path.smac, fib.smac, 6);
		if (f)
			f->path = path;
		return send_along(ctx, port, &o, &path);
	}
	if (store_bytes(ctx, 0, &o.eth, OUTER_HEAD))
		return drop(port->slot, DROP_REWRITE);
	if (found == BPF_FIB_LKUP_RET_NO_NEIGH) {
		__builtin_memcpy(neigh.ipv6_nh, fib.ipv6_dst, 16);
		return bpf_redirect_neigh(fib.ifindex, &neigh, sizeof(neigh), 0);
	}
	if (found == BPF_FIB_LKUP_RET_FWD_DISABLED) /* the sysctl was changed behind our back */
		return bpf_redirect_neigh(conf.uplink, 0, 0, 0);
	return drop(port->slot, DROP_NO_UNDERLAY_ROUTE);
}

/* send_to_machine gives the packet its Ethernet header and hands it to the port's device. */
static __always_inline int send_to_machine(struct __sk_buff *ctx, const struct packet *p,
					   const struct port *port, __u32 ifindex)
{
	struct ether eth;

	__builtin_memcpy(eth.h.h_dest, port->mac, 6);
	copy_conf(eth.h.h_source, conf.gateway_mac, 6);
	eth.h.h_proto = p->key.family == 4 ? bpf_htons(ETH_P_IP) : bpf_htons(ETH_P_IPV6);
	if (store_bytes(ctx, 0, &eth.h, sizeof(eth.h)))
		return drop(port->slot, DROP_REWRITE);
	count_to(port->slot, ctx->len);
	if (port->peer_redirect)
		return bpf_redirect_peer(ifindex, 0);
	return bpf_redirect(ifindex, 0);
}

/* merge_ecn gives the inner packet the congestion mark of the outer one (RFC 6040, 4.2).
 * Returns 0 or a reason; *mark is 1 when the inner packet must be marked.
 */
static __always_inline int merge_ecn(__u8 outer, __u8 inner, int *mark)
{
	*mark = 0;
	if ((outer & ECN_MASK) != ECN_CE || (inner & ECN_MASK) == ECN_CE)
		return 0;
	if (!(inner & ECN_MASK))
		return DROP_ECN;
	*mark = 1;
	return 0;
}
