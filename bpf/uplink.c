/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* tcx ingress of an uplink: packets from the fabric, in the tunnel, or (receive mode xdp) taken
 * out of it by uplink_xdp.c and announced by struct tunnel_meta. All else is the host's.
 */
#include "lib/tunnel.h"

/* mark_congestion writes CE into the inner header at l3. */
static __always_inline int mark_congestion(struct __sk_buff *ctx, const struct packet *p)
{
	if (p->key.family == 4) {
		__u8 tos = p->tos | ECN_CE;
		__u16 check;

		if (bpf_skb_load_bytes(ctx, p->l3 + offsetof(struct iphdr, check), &check, 2) < 0)
			return DROP_REWRITE;
		check = replace_tos(check, p->tos, tos);
		if (bpf_skb_store_bytes(ctx, p->l3 + offsetof(struct iphdr, tos), &tos, 1, 0) ||
		    bpf_skb_store_bytes(ctx, p->l3 + offsetof(struct iphdr, check), &check, 2, 0))
			return DROP_REWRITE;
	} else {
		__u8 second;

		if (bpf_skb_load_bytes(ctx, p->l3 + 1, &second, 1) < 0)
			return DROP_REWRITE;
		second |= ECN_CE << 4;
		if (bpf_skb_store_bytes(ctx, p->l3 + 1, &second, 1, BPF_F_RECOMPUTE_CSUM))
			return DROP_REWRITE;
	}
	return 0;
}

/* receive takes the packet at p->l3 to its machine. */
static __always_inline int receive(struct __sk_buff *ctx, struct packet *p,
				   const struct port *port, __u32 ifindex, int v4, int outer_tos)
{
	int reason, mark = 0;

	p->key.slot = port->slot;
	p->to_machine = 1;
	p->tunneled = 1;
	reason = parse(ctx, p, v4);
	if (!reason)
		reason = admit(ctx, p, port, ifindex);
	if (!reason && outer_tos >= 0)
		reason = merge_ecn(outer_tos, p->tos, &mark);
	if (!reason && mark)
		reason = mark_congestion(ctx, p);
	if (reason)
		return drop(port->slot, reason);
	if (outer_tos >= 0 &&
	    bpf_skb_adjust_room(ctx, -OUTER_LEN, BPF_ADJ_ROOM_MAC,
				BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET |
				(v4 ? ADJ_ROOM_DECAP_L3_IPV4 : ADJ_ROOM_DECAP_L3_IPV6)))
		return drop(port->slot, DROP_REWRITE);
	return send_to_machine(ctx, p, port, ifindex);
}

SEC("tc")
int from_fabric(struct __sk_buff *ctx)
{
	struct tunnel_meta *meta = (void *)(long)ctx->data_meta;
	struct packet p;
	struct outer o;
	struct port *port;
	__u32 ifindex, *found;

	if ((void *)(meta + 1) <= (void *)(long)ctx->data && meta->magic == TUNNEL_MAGIC) {
		ifindex = meta->ifindex;
		port = bpf_map_lookup_elem(&ports, &ifindex);
		if (!port)
			return drop(0, DROP_UNKNOWN_ENDPOINT);
		__builtin_memset(&p, 0, sizeof(p));
		p.tunnel = meta->source;
		p.l3 = ETH_HLEN;
		return receive(ctx, &p, port, ifindex, ctx->protocol == bpf_htons(ETH_P_IP), -1);
	}
	if (ctx->protocol != bpf_htons(ETH_P_IPV6) || ctx->vlan_present ||
	    load_bytes(ctx, 0, &o.eth, OUTER_HEAD) < 0 ||
	    (o.ip.nexthdr != IPPROTO_IPV4 && o.ip.nexthdr != IPPROTO_IPV6))
		return TC_ACT_OK;
	found = find_endpoint(&o.ip);
	if (!found)
		return is_underlay(&o.ip) ? drop(0, DROP_UNKNOWN_ENDPOINT) : TC_ACT_OK;
	ifindex = *found;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return drop(0, DROP_UNKNOWN_ENDPOINT);
	__builtin_memset(&p, 0, sizeof(p));
	__builtin_memcpy(&p.tunnel, &o.ip.saddr, 16);
	p.l3 = OUTER_HEAD;
	return receive(ctx, &p, port, ifindex, o.ip.nexthdr == IPPROTO_IPV4, outer_tos(&o.ip));
}

char __license[] SEC("license") = "Dual BSD/GPL";
