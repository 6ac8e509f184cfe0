/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* From bytes to struct packet. Headers are copied, so a packet whose head is not linear needs
 * no care and nothing here moves it.
 */
#pragma once

#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/icmpv6.h>
#include <bpf/bpf_endian.h>
#include "bytes.h"
#include "drop.h"

/* linux/icmp.h drags in libc */
#define ICMP_ECHOREPLY 0
#define ICMP_DEST_UNREACH 3
#define ICMP_ECHO 8
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETERPROB 12
#define ICMP_FRAG_NEEDED 4

#define PROTO_SCTP 132
#define PROTO_UDPLITE 136
#define PROTO_DCCP 33
#define PROTO_ICMPV6 58
#define MAX_EXTENSIONS 6

#define TCP_FIN 0x01
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10

enum packet_flags {
	PACKET_LATER_FRAGMENT = 1,
	PACKET_FIRST_FRAGMENT = 2,
	PACKET_ICMP_ERROR = 4, /* quotes a packet of the flow it is about */
	PACKET_STATELESS = 8,  /* makes and matches no flow of its own */
	PACKET_ECHO_REPLY = 16, /* matches a flow, never makes one */
};

/* packet is one inner packet, seen from one port. */
struct packet {
	struct flow_key key;
	__u64 arrived;	      /* ns of the coarse monotonic clock, read once: it costs 15 */
	struct addr tunnel;   /* outer source when tunneled, else outer destination once routed */
	__u32 local_ifindex;  /* result of routing: port on this host */
	__u32 fragment_id;
	__u16 l3;
	__u16 l4;
	__u16 payload;	      /* offset behind the transport header */
	__u8 to_machine;
	__u8 tunneled;
	__u8 flags;
	__u8 ttl;
	__u8 tos;
	__u8 tcp_flags;
	__u8 next_header;     /* IPv6: as the header has it */
	__u8 icmp_type;
	__u8 icmp_code;
	__u16 ttl_csum[2];    /* IPv4: bytes 8..11 of the header */
};

/* seconds are the flow table's unit of time, 2^30 ns. */
static __always_inline __u32 seconds(const struct packet *p)
{
	return p->arrived >> 30;
}

static __always_inline int addr_equal(const struct addr *a, const struct addr *b)
{
	const __u32 *x = (const __u32 *)a, *y = (const __u32 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2] && x[3] == y[3];
}

static __always_inline int addr_is_zero(const struct addr *a)
{
	const __u32 *x = (const __u32 *)a;

	return !(x[0] | x[1] | x[2] | x[3]);
}

static __always_inline int mac_equal(const __u8 *a, const __u8 *b)
{
	const __u16 *x = (const __u16 *)a, *y = (const __u16 *)b;

	return x[0] == y[0] && x[1] == y[1] && x[2] == y[2];
}

static __always_inline __u32 scope(__u32 owner, __u8 family)
{
	return owner << 8 | family;
}

/* set_addresses puts source and destination where the direction wants them. */
static __always_inline void set_addresses(struct packet *p, const void *src, const void *dst, int len)
{
	__builtin_memcpy(p->to_machine ? &p->key.remote : &p->key.local, src, len);
	__builtin_memcpy(p->to_machine ? &p->key.local : &p->key.remote, dst, len);
}

static __always_inline void set_ports(struct packet *p, __be16 src, __be16 dst)
{
	p->key.lport = p->to_machine ? dst : src;
	p->key.rport = p->to_machine ? src : dst;
}

static __always_inline int has_ports(__u8 protocol)
{
	return protocol == IPPROTO_TCP || protocol == IPPROTO_UDP || protocol == PROTO_SCTP ||
	       protocol == PROTO_UDPLITE || protocol == PROTO_DCCP;
}

static __always_inline int parse_icmp(struct __sk_buff *ctx, struct packet *p)
{
	struct {
		__u8 type, code;
		__be16 csum, id, sequence;
	} __attribute__((aligned(4))) h;
	int v4 = p->key.protocol == IPPROTO_ICMP;

	if (load_bytes(ctx, p->l4, &h, sizeof(h)) < 0)
		return DROP_MALFORMED;
	p->payload = p->l4 + sizeof(h);
	p->icmp_type = h.type;
	p->icmp_code = h.code;
	if (h.type == (v4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST)) {
		p->key.lport = h.id;
		p->key.remote_first = p->to_machine;
	} else if (h.type == (v4 ? ICMP_ECHOREPLY : ICMPV6_ECHO_REPLY)) {
		p->key.lport = h.id;
		p->key.remote_first = !p->to_machine;
		p->flags |= PACKET_ECHO_REPLY;
	} else {
		p->flags |= PACKET_STATELESS;
		if (v4 ? h.type == ICMP_DEST_UNREACH || h.type == ICMP_TIME_EXCEEDED ||
				 h.type == ICMP_PARAMETERPROB
		       : h.type < 128)
			p->flags |= PACKET_ICMP_ERROR;
	}
	return 0;
}

static __always_inline int parse_transport(struct __sk_buff *ctx, struct packet *p)
{
	__u8 protocol = p->key.protocol;

	p->payload = p->l4;
	if (p->flags & PACKET_LATER_FRAGMENT)
		return 0;
	if (protocol == IPPROTO_TCP) {
		struct {
			__be16 src, dst;
			__be32 seq, ack;
			__u8 offset, flags;
			__be16 window;
		} h;

		if (load_bytes(ctx, p->l4, &h, sizeof(h)) < 0)
			return DROP_MALFORMED;
		set_ports(p, h.src, h.dst);
		p->tcp_flags = h.flags;
		p->payload = p->l4 + (h.offset >> 4) * 4;
		return 0;
	}
	if (has_ports(protocol)) {
		__be16 h[2] __attribute__((aligned(4)));

		if (load_bytes(ctx, p->l4, h, sizeof(h)) < 0)
			return DROP_MALFORMED;
		set_ports(p, h[0], h[1]);
		p->payload = p->l4 + 8;
		return 0;
	}
	if (protocol == (p->key.family == 4 ? IPPROTO_ICMP : PROTO_ICMPV6))
		return parse_icmp(ctx, p);
	return 0;
}

static __always_inline int parse_v4(struct __sk_buff *ctx, struct packet *p)
{
	struct iphdr h;
	__u16 fragment;

	if (load_bytes(ctx, p->l3, &h, sizeof(h)) < 0)
		return DROP_MALFORMED;
	if (h.version != 4 || h.ihl < 5 ||
	    (h.tot_len && bpf_ntohs(h.tot_len) < h.ihl * 4))
		return DROP_MALFORMED;
	p->key.family = 4;
	p->key.protocol = h.protocol;
	set_addresses(p, &h.saddr, &h.daddr, 4);
	p->ttl = h.ttl;
	p->tos = h.tos;
	__builtin_memcpy(p->ttl_csum, &h.ttl, 4);
	p->l4 = p->l3 + h.ihl * 4;
	fragment = bpf_ntohs(h.frag_off) & 0x3fff;
	if (fragment) {
		p->fragment_id = h.id;
		p->flags |= (fragment & 0x1fff) ? PACKET_LATER_FRAGMENT : PACKET_FIRST_FRAGMENT;
	}
	return 0;
}

static __always_inline int parse_v6(struct __sk_buff *ctx, struct packet *p)
{
	struct ipv6hdr h;
	__u8 next;
	int i;

	if (load_bytes(ctx, p->l3, &h, sizeof(h)) < 0 || h.version != 6)
		return DROP_MALFORMED;
	p->key.family = 6;
	set_addresses(p, &h.saddr, &h.daddr, 16);
	p->ttl = h.hop_limit;
	p->next_header = h.nexthdr;
	p->tos = h.priority << 4 | h.flow_lbl[0] >> 4;
	p->l4 = p->l3 + sizeof(h);
	next = h.nexthdr;
	for (i = 0; i < MAX_EXTENSIONS; i++) {
		__u8 e[8] __attribute__((aligned(4)));

		if (next != IPPROTO_HOPOPTS && next != IPPROTO_ROUTING && next != IPPROTO_DSTOPTS &&
		    next != IPPROTO_FRAGMENT && next != IPPROTO_AH)
			break;
		if (load_bytes(ctx, p->l4, e, sizeof(e)) < 0)
			return DROP_MALFORMED;
		if (next == IPPROTO_FRAGMENT) {
			int later = e[2] || (e[3] & 0xf8);

			if (later || (e[3] & 1)) {
				p->flags |= later ? PACKET_LATER_FRAGMENT : PACKET_FIRST_FRAGMENT;
				__builtin_memcpy(&p->fragment_id, e + 4, 4);
			}
			p->l4 += 8;
			next = e[0];
			if (later)
				break;
			continue;
		}
		p->l4 += next == IPPROTO_AH ? (e[1] + 2) * 4 : (e[1] + 1) * 8;
		next = e[0];
	}
	if (i == MAX_EXTENSIONS)
		return DROP_MALFORMED;
	p->key.protocol = next;
	return 0;
}

#define FRAGMENT_TIMEOUT 30

/* join_fragment gives a later fragment the ports of the first one, which it remembers. */
__noinline int join_fragment(struct packet *p)
{
	struct fragment_key key = {};
	struct fragment *found;

	if (!p)
		return DROP_MALFORMED;
	key.slot = p->key.slot;
	key.id = p->fragment_id;
	key.src = p->key.local;
	key.dst = p->key.remote;
	key.family = p->key.family;
	key.to_machine = p->to_machine;
	/* RFC 8200: the identification alone tells IPv6 packets of one pair apart */
	key.protocol = p->key.family == 6 ? 0 : p->key.protocol;
	if (p->flags & PACKET_FIRST_FRAGMENT) {
		struct fragment f = {
			.lport = p->key.lport,
			.rport = p->key.rport,
			.remote_first = p->key.remote_first,
			.flags = p->flags & (PACKET_STATELESS | PACKET_ECHO_REPLY),
			.icmp_type = p->icmp_type,
			.icmp_code = p->icmp_code,
			.seen = seconds(p),
		};

		bpf_map_update_elem(&fragments, &key, &f, BPF_ANY);
		return 0;
	}
	found = bpf_map_lookup_elem(&fragments, &key);
	if (!found || (__s32)(seconds(p) - found->seen) > FRAGMENT_TIMEOUT)
		return DROP_FRAGMENT_UNKNOWN;
	p->key.lport = found->lport;
	p->key.rport = found->rport;
	p->key.remote_first = found->remote_first;
	p->flags |= found->flags;
	p->icmp_type = found->icmp_type;
	p->icmp_code = found->icmp_code;
	return 0;
}

/* parse reads the IP packet at p->l3. The caller has set l3, to_machine, key.slot, zero the rest.
 * Returns 0 or a reason.
 */
static __always_inline int parse(struct __sk_buff *ctx, struct packet *p, int v4)
{
	int reason = v4 ? parse_v4(ctx, p) : parse_v6(ctx, p);

	p->arrived = bpf_ktime_get_coarse_ns();
	if (!reason)
		reason = parse_transport(ctx, p);
	if (!reason && p->flags & (PACKET_FIRST_FRAGMENT | PACKET_LATER_FRAGMENT))
		reason = join_fragment(p);
	return reason;
}
