/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* XDP of an uplink (receive mode xdp): takes packets out of the tunnel before GRO, so that GRO
 * merges the machines' own flows. uplink.c decides; this program only says whose packet it was.
 */
#include "lib/tunnel.h"

/* xdp_drop looks up the port only now: a packet that goes on does not need it here. */
static __always_inline int xdp_drop(__u32 ifindex, __u32 reason)
{
	struct port *port = bpf_map_lookup_elem(&ports, &ifindex);

	drop(port ? port->slot : 0, reason);
	return XDP_DROP;
}

static __always_inline int merge4(struct iphdr *ip, __u8 tos)
{
	int mark, reason = merge_ecn(tos, ip->tos, &mark);

	if (mark) {
		ip->check = replace_tos(ip->check, ip->tos, ip->tos | ECN_CE);
		ip->tos |= ECN_CE;
	}
	return reason;
}

static __always_inline int merge6(struct ipv6hdr *ip, __u8 tos)
{
	int mark, reason = merge_ecn(tos, outer_tos(ip), &mark);

	if (mark)
		ip->flow_lbl[0] |= ECN_CE << 4;
	return reason;
}

SEC("xdp")
int from_wire(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct ether saved;
	struct ipv6hdr *ip = data + ETH_HLEN;
	void *inner = ip + 1;
	struct tunnel_meta *meta;
	struct addr source;
	__u32 ifindex, *found;
	int reason;

	if (inner > end || eth->h_proto != bpf_htons(ETH_P_IPV6) ||
	    (ip->nexthdr != IPPROTO_IPV4 && ip->nexthdr != IPPROTO_IPV6))
		return XDP_PASS;
	found = find_endpoint(ip);
	if (!found)
		return is_underlay(ip) ? xdp_drop(0, DROP_UNKNOWN_ENDPOINT) : XDP_PASS;
	ifindex = *found;
	copy(&saved.h, eth, sizeof(saved.h));
	__builtin_memcpy(&source, &ip->saddr, sizeof(source));
	if (ip->nexthdr == IPPROTO_IPV4) {
		if (inner + sizeof(struct iphdr) > end)
			return xdp_drop(ifindex, DROP_MALFORMED);
		reason = merge4(inner, outer_tos(ip));
		saved.h.h_proto = bpf_htons(ETH_P_IP);
	} else {
		if (inner + sizeof(struct ipv6hdr) > end)
			return xdp_drop(ifindex, DROP_MALFORMED);
		reason = merge6(inner, outer_tos(ip));
	}
	if (reason)
		return xdp_drop(ifindex, reason);
	if (bpf_xdp_adjust_head(ctx, OUTER_LEN) || bpf_xdp_adjust_meta(ctx, -(int)sizeof(*meta)))
		return xdp_drop(ifindex, DROP_REWRITE);
	meta = (void *)(long)ctx->data_meta;
	eth = (void *)(long)ctx->data;
	if ((void *)(meta + 1) > (void *)eth || (void *)(eth + 1) > (void *)(long)ctx->data_end)
		return XDP_DROP;
	copy(eth, &saved.h, sizeof(saved.h));
	meta->magic = TUNNEL_MAGIC;
	meta->ifindex = ifindex;
	meta->source = source;
	return XDP_PASS;
}

char __license[] SEC("license") = "Dual BSD/GPL";
