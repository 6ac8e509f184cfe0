/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* tcx ingress of a port's device: packets from the machine. */
#include "lib/respond.h"

#define DHCP_SERVER 67
#define DHCP_CLIENT 68
#define DHCPV6_CLIENT 546
#define DHCPV6_SERVER 547
#define ICMP_REDIRECT_V4 5
#define ROUTER_SOLICITATION 133
#define ROUTER_ADVERTISEMENT 134
#define REDIRECT_V6 137

/* to_agent lets AF_PACKET sockets see the packet, and nobody else: as somebody else's packet it
 * is no business of the host's IP stack.
 */
static __always_inline int to_agent(struct __sk_buff *ctx)
{
	bpf_skb_change_type(ctx, 3 /* PACKET_OTHERHOST */);
	return TC_ACT_OK;
}

static __always_inline int is_link_local(const struct addr *a)
{
	return a->b[0] == 0xfe && (a->b[1] & 0xc0) == 0x80;
}

static __always_inline int is_zero(const struct addr *a)
{
	const __u32 *w = (const __u32 *)a;

	return !(w[0] | w[1] | w[2] | w[3]);
}

/* special handles what is between the machine and its gateway only. Returns an action, or -1
 * when the packet is an ordinary one, or -1 - reason.
 */
static __always_inline int special(struct __sk_buff *ctx, struct packet *p, const struct port *port)
{
	const struct addr *src = &p->key.local, *dst = &p->key.remote;
	__u16 sport = bpf_ntohs(p->key.lport), dport = bpf_ntohs(p->key.rport);

	if (p->key.protocol == IPPROTO_UDP && !(p->flags & PACKET_LATER_FRAGMENT)) {
		if (p->key.family == 4) {
			if (sport == DHCP_SERVER && dport == DHCP_CLIENT)
				return -1 - DROP_ROGUE_SERVER;
			if (sport == DHCP_CLIENT && dport == DHCP_SERVER)
				return is_zero(src) || owned_by_port(ctx, port, 4, src) ?
					       to_agent(ctx) : -1 - DROP_SPOOFED_IP;
		} else {
			if (sport == DHCPV6_SERVER && dport == DHCPV6_CLIENT)
				return -1 - DROP_ROGUE_SERVER;
			if (sport == DHCPV6_CLIENT && dport == DHCPV6_SERVER)
				return is_link_local(src) || owned_by_port(ctx, port, 6, src) ?
					       to_agent(ctx) : -1 - DROP_SPOOFED_IP;
		}
	}
	if (p->key.family == 4) {
		if (p->key.protocol == IPPROTO_ICMP && p->icmp_type == ICMP_REDIRECT_V4 &&
		    p->flags & PACKET_STATELESS)
			return -1 - DROP_ROGUE_SERVER;
		if (dst->b[0] >= 224)
			return -1 - DROP_MULTICAST;
		if (dst->b[0] == 169 && dst->b[1] == 254)
			return -1 - DROP_LINK_LOCAL;
		return -1;
	}
	if (p->key.protocol == PROTO_ICMPV6 && p->flags & PACKET_STATELESS) {
		switch (p->icmp_type) {
		case SOLICITATION:
			return answer_solicitation(ctx, port);
		case ROUTER_SOLICITATION:
			return is_link_local(src) || is_zero(src) ? to_agent(ctx) : -1 - DROP_SPOOFED_IP;
		case ROUTER_ADVERTISEMENT:
		case REDIRECT_V6:
			return -1 - DROP_ROGUE_SERVER;
		case ADVERTISEMENT:
			return -1 - DROP_UNANSWERED_ARP;
		}
	}
	if (dst->b[0] == 0xff)
		return -1 - DROP_MULTICAST;
	if (is_link_local(dst))
		return -1 - DROP_LINK_LOCAL;
	return -1;
}

/* decide is the slow path of a packet from the machine: 0, or a reason. */
__noinline int decide(struct __sk_buff *ctx, struct packet *p, const struct port *port)
{
	int reason;

	if (!p || !port)
		return DROP_MALFORMED;
	if (!owns(p, port->vni, ctx->ifindex))
		return DROP_SPOOFED_IP;
	reason = route_packet(p, port->vni);
	if (reason)
		return reason;
	if (p->flags & PACKET_ICMP_ERROR && !related(ctx, p, port))
		return 0;
	return track(p, port);
}

/* deliver hands the packet to another port of this host. */
__noinline int deliver(struct __sk_buff *ctx, struct packet *p)
{
	struct flow_key *key;
	struct port *port;
	struct addr addr;
	__be16 l4port;
	__u32 ifindex;
	int reason;

	if (!p)
		return TC_ACT_SHOT;
	ifindex = p->local_ifindex;
	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return drop(0, DROP_UNKNOWN_DEVICE);
	key = &p->key;
	addr = key->local, key->local = key->remote, key->remote = addr;
	l4port = key->lport, key->lport = key->rport, key->rport = l4port;
	if (key->protocol == (key->family == 4 ? IPPROTO_ICMP : PROTO_ICMPV6) &&
	    !(p->flags & PACKET_STATELESS)) {
		/* an echo's identifier is lport from both sides */
		key->lport = key->rport, key->rport = 0;
		key->remote_first = !key->remote_first;
	}
	key->slot = port->slot;
	p->to_machine = 1;
	reason = admit(ctx, p, port, ifindex);
	if (reason)
		return drop(port->slot, reason);
	if (age(ctx, p))
		return drop(port->slot, DROP_REWRITE);
	return send_to_machine(ctx, p, port, ifindex);
}

/* too_big tells whether a packet, or a segment of it, exceeds the MTU. */
static __always_inline int too_big(struct __sk_buff *ctx, const struct packet *p)
{
	if (ctx->gso_size)
		return p->payload - ETH_HLEN + ctx->gso_size > conf.mtu;
	return ctx->len - ETH_HLEN > conf.mtu;
}

static __always_inline int forward(struct __sk_buff *ctx, struct packet *p, const struct port *port,
				   struct flow *f)
{
	if (p->ttl <= 1)
		return send_error(ctx, p, port, DROP_TTL_EXCEEDED);
	if (too_big(ctx, p))
		return send_error(ctx, p, port, DROP_TOO_BIG);
	count_from(port->slot, ctx->len);
	if (p->local_ifindex)
		return deliver(ctx, p);
	if (age(ctx, p))
		return drop(port->slot, DROP_REWRITE);
	return send_to_fabric(ctx, p, port, f);
}

static __always_inline int handle(struct __sk_buff *ctx)
{
	__u32 ifindex = ctx->ifindex, t, slot;
	struct packet p;
	struct ether eth;
	struct port *port;
	struct flow *f;
	int verdict;

	port = bpf_map_lookup_elem(&ports, &ifindex);
	if (!port)
		return drop(0, DROP_UNKNOWN_DEVICE);
	slot = port->slot;
	if (load_bytes(ctx, 0, &eth.h, sizeof(eth.h)) < 0)
		return drop(slot, DROP_MALFORMED);
	if (ctx->vlan_present || eth.h.h_proto == bpf_htons(ETH_P_8021Q) ||
	    eth.h.h_proto == bpf_htons(ETH_P_8021AD))
		return drop(slot, DROP_VLAN);
	if (!mac_equal(eth.h.h_source, port->mac))
		return drop(slot, DROP_SPOOFED_MAC);
	if (eth.h.h_proto == bpf_htons(ETH_P_ARP))
		return answer_arp(ctx, port);
	if (eth.h.h_proto != bpf_htons(ETH_P_IP) && eth.h.h_proto != bpf_htons(ETH_P_IPV6))
		return drop(slot, DROP_UNSUPPORTED_ETHERTYPE);

	__builtin_memset(&p, 0, sizeof(p));
	p.key.slot = slot;
	p.l3 = ETH_HLEN;
	verdict = parse(ctx, &p, eth.h.h_proto == bpf_htons(ETH_P_IP));
	if (verdict)
		return drop(slot, verdict);

	/* a hit also proves the source: the flow was made by its owner, in this epoch */
	t = seconds(&p);
	f = p.flags & PACKET_STATELESS ? 0 : bpf_map_lookup_elem(&flows, &p.key);
	if (f && f->epoch == port->epoch && f->flags & FLOW_ROUTED && flow_matches(f, &p, t)) {
		advance(f, &p, t);
		p.local_ifindex = f->local_ifindex;
		p.tunnel = f->nexthop;
		return forward(ctx, &p, port, f);
	}
	verdict = special(ctx, &p, port);
	if (verdict >= 0)
		return verdict;
	if (verdict == -1)
		verdict = decide(ctx, &p, port);
	else
		verdict = -1 - verdict;
	if (verdict)
		return drop(slot, verdict);
	return forward(ctx, &p, port, 0);
}

SEC("tc")
int from_machine(struct __sk_buff *ctx)
{
	return handle(ctx);
}

char __license[] SEC("license") = "Dual BSD/GPL";
