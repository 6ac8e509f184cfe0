/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What the gateway answers itself: ARP, neighbour discovery, time exceeded, too big. Answers go
 * back through the device the question came from.
 */
#pragma once

#include "encap.h"

/* linux/if_arp.h drags in libc */
#define ARPHRD_ETHER 1
#define ARPOP_REQUEST 1
#define ARPOP_REPLY 2

#define QUOTE_MAX 128

static __always_inline __u16 fold(__u64 sum)
{
	sum = (sum & 0xffffffff) + (sum >> 32);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

static __always_inline int reply(struct __sk_buff *ctx)
{
	return bpf_redirect(ctx->ifindex, 0);
}

static __always_inline int owned_by_port(struct __sk_buff *ctx, const struct port *port,
					 __u8 family, const struct addr *addr)
{
	struct route *r = find_route(port->vni, family, addr);

	return r && r->local_ifindex == ctx->ifindex;
}

struct arp {
	struct ethhdr eth;
	struct {
		__be16 ar_hrd, ar_pro;
		__u8 ar_hln, ar_pln;
		__be16 ar_op;
	} __attribute__((packed)) h;
	__u8 sha[6];
	__u8 spa[4];
	__u8 tha[6];
	__u8 tpa[4];
} __attribute__((packed));

/* answer_arp: everything but the machine itself is behind the gateway. Probes (RFC 5227) and
 * announcements stay unanswered, so that the machine may keep its address.
 */
__noinline int answer_arp(struct __sk_buff *ctx, const struct port *port)
{
	struct addr sender = {}, target = {};
	struct arp a;

	if (!port)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(ctx, 0, &a, sizeof(a)) < 0)
		return drop(port->slot, DROP_MALFORMED);
	if (a.h.ar_hrd != bpf_htons(ARPHRD_ETHER) || a.h.ar_pro != bpf_htons(ETH_P_IP) ||
	    a.h.ar_hln != 6 || a.h.ar_pln != 4)
		return drop(port->slot, DROP_MALFORMED);
	if (!mac_equal(a.sha, port->mac))
		return drop(port->slot, DROP_SPOOFED_MAC);
	if (a.h.ar_op != bpf_htons(ARPOP_REQUEST))
		return drop(port->slot, DROP_UNANSWERED_ARP);
	__builtin_memcpy(&sender, a.spa, 4);
	__builtin_memcpy(&target, a.tpa, 4);
	if (!*(__u32 *)&sender || owned_by_port(ctx, port, 4, &target))
		return drop(port->slot, DROP_UNANSWERED_ARP);
	if (!owned_by_port(ctx, port, 4, &sender))
		return drop(port->slot, DROP_SPOOFED_IP);
	__builtin_memcpy(a.eth.h_dest, port->mac, 6);
	copy_conf(a.eth.h_source, conf.gateway_mac, 6);
	a.h.ar_op = bpf_htons(ARPOP_REPLY);
	copy_conf(a.sha, conf.gateway_mac, 6);
	__builtin_memcpy(a.spa, &target, 4);
	__builtin_memcpy(a.tha, port->mac, 6);
	__builtin_memcpy(a.tpa, &sender, 4);
	if (bpf_skb_store_bytes(ctx, 0, &a, sizeof(a), 0))
		return drop(port->slot, DROP_REWRITE);
	return reply(ctx);
}

/* In what follows pad aligns the IP header. neighbour is a solicitation's first part, or a whole advertisement with its one option. */
struct neighbour {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type, code;
	__u16 csum;
	__be32 flags;
	struct addr target;
	__u8 option, option_len;
	__u8 mac[6];
};

#define SOLICITATION 135
#define ADVERTISEMENT 136
#define ADVERTISEMENT_LEN 32
#define FLAGS_ROUTER_SOLICITED_OVERRIDE 0xe0000000

/* checksum6 is the ICMPv6 checksum over len bytes at data, 128 at most, zero padded. */
static __always_inline __u16 checksum6(struct ipv6hdr *ip, void *data, __u32 padded, __u32 len)
{
	__be32 pseudo[2] = { bpf_htonl(len), bpf_htonl(PROTO_ICMPV6) };
	__s64 sum = bpf_csum_diff(0, 0, (void *)&ip->saddr, 32, 0);

	sum = bpf_csum_diff(0, 0, pseudo, sizeof(pseudo), sum);
	return fold(bpf_csum_diff(0, 0, data, padded, sum));
}

/* answer_solicitation is answer_arp for IPv6. Detection of duplicates (RFC 4862) has no source
 * address and stays unanswered.
 */
__noinline int answer_solicitation(struct __sk_buff *ctx, const struct port *port)
{
	struct neighbour n = {};
	struct addr sender, body[2];
	__u8 buf[ADVERTISEMENT_LEN] = {};

	if (!port)
		return TC_ACT_SHOT;
	if (bpf_skb_load_bytes(ctx, 0, &n.eth, offsetof(struct neighbour, option) - 2) < 0 ||
	    n.ip.hop_limit != 255 || n.code)
		return drop(port->slot, DROP_MALFORMED);
	__builtin_memcpy(&sender, &n.ip.saddr, 16);
	if (!(((__u32 *)&sender)[0] | ((__u32 *)&sender)[1] | ((__u32 *)&sender)[2] |
	      ((__u32 *)&sender)[3]))
		return drop(port->slot, DROP_UNANSWERED_ARP);
	body[0] = n.target;
	if (body[0].b[0] == 0xff || owned_by_port(ctx, port, 6, &body[0]))
		return drop(port->slot, DROP_UNANSWERED_ARP);
	if (!(sender.b[0] == 0xfe && (sender.b[1] & 0xc0) == 0x80) &&
	    !owned_by_port(ctx, port, 6, &sender))
		return drop(port->slot, DROP_SPOOFED_IP);
	if (bpf_skb_change_tail(ctx, sizeof(n) - 2, 0))
		return drop(port->slot, DROP_REWRITE);
	__builtin_memcpy(n.eth.h_dest, port->mac, 6);
	copy_conf(n.eth.h_source, conf.gateway_mac, 6);
	n.eth.h_proto = bpf_htons(ETH_P_IPV6);
	*(__be32 *)&n.ip = bpf_htonl(6 << 28);
	n.ip.payload_len = bpf_htons(ADVERTISEMENT_LEN);
	n.ip.nexthdr = PROTO_ICMPV6;
	__builtin_memcpy(&n.ip.saddr, &body[0], 16);
	__builtin_memcpy(&n.ip.daddr, &sender, 16);
	n.type = ADVERTISEMENT;
	n.csum = 0;
	n.flags = bpf_htonl(FLAGS_ROUTER_SOLICITED_OVERRIDE);
	n.option = 2; /* target link-layer address */
	n.option_len = 1;
	copy_conf(n.mac, conf.gateway_mac, 6);
	__builtin_memcpy(buf, &n.type, sizeof(buf));
	n.csum = checksum6(&n.ip, buf, sizeof(buf), sizeof(buf));
	if (bpf_skb_store_bytes(ctx, 0, &n.eth, sizeof(n) - 2, 0))
		return drop(port->slot, DROP_REWRITE);
	return reply(ctx);
}

struct error4 {
	__u8 pad[2];
	struct ethhdr eth;
	struct iphdr ip;
	__u8 type, code;
	__u16 csum;
	__be32 rest;
};

struct error6 {
	__u8 pad[2];
	struct ethhdr eth;
	struct ipv6hdr ip;
	__u8 type, code;
	__u16 csum;
	__be32 rest;
};

static __always_inline int send_error4(struct __sk_buff *ctx, const struct port *port,
				       __u8 type, __u8 code, __u32 rest, __u32 n, __u8 *quote)
{
	struct error4 e = {};

	if (bpf_skb_adjust_room(ctx, sizeof(e) - offsetof(typeof(e), ip), BPF_ADJ_ROOM_MAC, 0))
		return drop(port->slot, DROP_REWRITE);
	__builtin_memcpy(e.eth.h_dest, port->mac, 6);
	copy_conf(e.eth.h_source, conf.gateway_mac, 6);
	e.eth.h_proto = bpf_htons(ETH_P_IP);
	*(__u8 *)&e.ip = 0x45;
	e.ip.tot_len = bpf_htons(sizeof(e) - offsetof(typeof(e), ip) + n);
	e.ip.ttl = 64;
	e.ip.protocol = IPPROTO_ICMP;
	copy_conf(&e.ip.saddr, conf.gateway4, 4);
	__builtin_memcpy(&e.ip.daddr, quote + offsetof(struct iphdr, saddr), 4);
	e.ip.check = fold(bpf_csum_diff(0, 0, (void *)&e.ip, sizeof(e.ip), 0));
	e.type = type;
	e.code = code;
	e.rest = bpf_htonl(rest);
	e.csum = fold(bpf_csum_diff(0, 0, (void *)quote, QUOTE_MAX,
				    bpf_csum_diff(0, 0, (void *)&e.type, 8, 0)));
	if (bpf_skb_store_bytes(ctx, 0, &e.eth, sizeof(e) - 2, 0))
		return drop(port->slot, DROP_REWRITE);
	return reply(ctx);
}

static __always_inline int send_error6(struct __sk_buff *ctx, const struct port *port,
				       __u8 type, __u8 code, __u32 rest, __u32 n, __u8 *quote)
{
	struct error6 e = {};
	__be32 head[4];

	if (bpf_skb_adjust_room(ctx, sizeof(e) - offsetof(typeof(e), ip), BPF_ADJ_ROOM_MAC, 0))
		return drop(port->slot, DROP_REWRITE);
	__builtin_memcpy(e.eth.h_dest, port->mac, 6);
	copy_conf(e.eth.h_source, conf.gateway_mac, 6);
	e.eth.h_proto = bpf_htons(ETH_P_IPV6);
	*(__u8 *)&e.ip = 0x60;
	e.ip.payload_len = bpf_htons(8 + n);
	e.ip.hop_limit = 64;
	e.ip.nexthdr = PROTO_ICMPV6;
	copy_conf(&e.ip.saddr, conf.gateway6.b, 16);
	__builtin_memcpy(&e.ip.daddr, quote + offsetof(struct ipv6hdr, saddr), 16);
	e.type = type;
	e.code = code;
	e.rest = bpf_htonl(rest);
	head[0] = bpf_htonl(8 + n);
	head[1] = bpf_htonl(PROTO_ICMPV6);
	__builtin_memcpy(head + 2, &e.type, 8);
	e.csum = fold(bpf_csum_diff(0, 0, (void *)quote, QUOTE_MAX,
		bpf_csum_diff(0, 0, head, sizeof(head),
			bpf_csum_diff(0, 0, (void *)&e.ip.saddr, 32, 0))));
	if (bpf_skb_store_bytes(ctx, 0, &e.eth, sizeof(e) - 2, 0))
		return drop(port->slot, DROP_REWRITE);
	return reply(ctx);
}

/* send_error turns the machine's packet at ETH_HLEN into an ICMP error of the gateway, and
 * counts the drop. A checksum that the machine left to its device stays so: the frame says that
 * checksums are to be trusted. Errors about errors and fragments are not sent (RFC 1122, 4443).
 */
__noinline int send_error(struct __sk_buff *ctx, struct packet *p,
					 const struct port *port, __u32 reason)
{
	int big = reason == DROP_TOO_BIG;
	__u8 quote[QUOTE_MAX] = {};
	__u32 n;

	if (!p || !port)
		return TC_ACT_SHOT;
	drop(port->slot, reason);
	if (p->flags & (PACKET_ICMP_ERROR | PACKET_LATER_FRAGMENT) || ctx->len <= ETH_HLEN + 20)
		return TC_ACT_SHOT;
	n = ctx->len - ETH_HLEN;
	if (n > QUOTE_MAX)
		n = QUOTE_MAX;
	if (bpf_skb_load_bytes(ctx, ETH_HLEN, quote, n) < 0 ||
	    bpf_skb_change_tail(ctx, ETH_HLEN + n, 0))
		return TC_ACT_SHOT;
	if (p->key.family == 4)
		return send_error4(ctx, port, big ? ICMP_DEST_UNREACH : ICMP_TIME_EXCEEDED,
				   big ? ICMP_FRAG_NEEDED : 0, big ? conf.mtu : 0, n, quote);
	return send_error6(ctx, port, big ? ICMPV6_PKT_TOOBIG : ICMPV6_TIME_EXCEED, 0,
			   big ? conf.mtu : 0, n, quote);
}
