/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The flow table: one entry per connection and port. It is connection tracking (replies of what
 * was allowed pass), and a cache (an entry of the port's epoch needs no policy, no route and no
 * source check). Only allowed connections have entries.
 */
#pragma once

#include "policy.h"
#include "route.h"

/* Timeouts in units of 2^30 ns. RFC 5382: established TCP at least 2 h 4 min; RFC 4787: UDP at
 * least 2 min.
 */
#define TIMEOUT_NEW 30
#define TIMEOUT_TCP_NEW 60
#define TIMEOUT_TCP_ESTABLISHED 7200
#define TIMEOUT_TCP_CLOSING 60
#define TIMEOUT_TCP_CLOSED 10
#define TIMEOUT_ESTABLISHED 180

static __always_inline int is_new_connection(const struct packet *p)
{
	return p->key.protocol == IPPROTO_TCP &&
	       (p->tcp_flags & (TCP_SYN | TCP_ACK | TCP_RST)) == TCP_SYN;
}

/* flow_matches tells whether f is really the flow of p and not what an earlier one left. */
static __always_inline int flow_matches(const struct flow *f, const struct packet *p, __u32 t)
{
	if ((__s32)(t - f->last) > (__s32)f->timeout)
		return 0;
	return !(f->state >= FLOW_CLOSING && is_new_connection(p));
}

/* advance notes the packet in the flow; it writes only what changes, so that CPUs that share a
 * flow do not fight for its cache line.
 */
static __always_inline void advance(struct flow *f, const struct packet *p, __u32 t)
{
	int reply = !!(f->flags & FLOW_FROM_REMOTE) != p->to_machine;

	if (f->last != t)
		f->last = t;
	if (p->key.protocol != IPPROTO_TCP) {
		if (reply && f->state == FLOW_NEW) {
			f->state = FLOW_ESTABLISHED;
			f->timeout = p->key.protocol == IPPROTO_ICMP || p->key.protocol == PROTO_ICMPV6 ?
					     TIMEOUT_NEW : TIMEOUT_ESTABLISHED;
		}
		return;
	}
	if (p->tcp_flags & TCP_RST) {
		f->state = FLOW_CLOSED;
		f->timeout = TIMEOUT_TCP_CLOSED;
	} else if (p->tcp_flags & TCP_FIN) {
		f->flags |= p->to_machine ? FLOW_FIN_REMOTE : FLOW_FIN_LOCAL;
		f->state = FLOW_CLOSING;
		f->timeout = (f->flags & FLOW_FIN_LOCAL) && (f->flags & FLOW_FIN_REMOTE) ?
				     TIMEOUT_TCP_CLOSED : TIMEOUT_TCP_CLOSING;
	} else if (f->state == FLOW_NEW && (reply || !(p->tcp_flags & TCP_SYN)) &&
		   p->tcp_flags & TCP_ACK) {
		f->state = FLOW_ESTABLISHED;
		f->timeout = TIMEOUT_TCP_ESTABLISHED;
	}
}

static __always_inline void remove_flow(const struct flow_key *key)
{
	__u32 slot = key->slot;
	__u64 *created;

	if (bpf_map_delete_elem(&flows, key))
		return;
	created = bpf_map_lookup_elem(&flows_created, &slot);
	if (created)
		__sync_fetch_and_add(created, -1);
}

static __always_inline int insert_flow(const struct flow_key *key, const struct flow *f)
{
	__u32 slot = key->slot;
	__u64 *created = bpf_map_lookup_elem(&flows_created, &slot);
	__u64 *removed = bpf_map_lookup_elem(&flows_removed, &slot);
	int err;

	if (!created || !removed || (__s64)(*created - *removed) >= conf.flows_per_port)
		return DROP_FLOW_QUOTA;
	err = bpf_map_update_elem(&flows, key, f, BPF_NOEXIST);
	if (!err)
		__sync_fetch_and_add(created, 1);
	else if (err != -17) /* EEXIST: another CPU was first with the same */
		return DROP_FLOW_TABLE_FULL;
	return 0;
}

/* evaluate asks the policy about a connection that the remote (or the machine) began. */
static __always_inline int evaluate(const struct port *port, const struct flow_key *key,
				    int from_remote, __u8 icmp_type, __u8 icmp_code)
{
	struct policy_query q = {
		.peer = key->remote,
		.family = key->family,
		.protocol = key->protocol,
	};

	if (key->protocol == IPPROTO_ICMP || key->protocol == PROTO_ICMPV6) {
		q.port[0] = icmp_type;
		q.port[1] = icmp_code;
	} else {
		__builtin_memcpy(q.port, from_remote ? &key->lport : &key->rport, 2);
	}
	if (policy_allows(from_remote ? port->ingress : port->egress, &q))
		return 0;
	return from_remote ? DROP_POLICY_INGRESS : DROP_POLICY_EGRESS;
}

/* allowed_again evaluates a flow of another epoch as it began. */
static __always_inline int allowed_again(const struct port *port, const struct flow_key *key,
					 const struct flow *f)
{
	return evaluate(port, key, f->flags & FLOW_FROM_REMOTE, f->icmp_type, f->icmp_code);
}

/* related looks up the flow that an ICMP error is about: it quotes a packet that went the
 * other way. Returns 0 when that flow exists and is allowed.
 */
__noinline int related(struct __sk_buff *ctx, struct packet *p,
				      const struct port *port)
{
	struct flow_key key = {};
	struct flow *f;
	__be16 ports[4] = {};
	__u32 off;
	__u8 local_is_source, echo;

	if (!p || !port)
		return DROP_MALFORMED;
	local_is_source = p->to_machine;
	off = p->payload;
	key.slot = p->key.slot;
	key.family = p->key.family;
	if (key.family == 4) {
		struct iphdr h;

		if (bpf_skb_load_bytes(ctx, off, &h, sizeof(h)) < 0)
			return DROP_MALFORMED;
		key.protocol = h.protocol;
		__builtin_memcpy(local_is_source ? &key.local : &key.remote, &h.saddr, 4);
		__builtin_memcpy(local_is_source ? &key.remote : &key.local, &h.daddr, 4);
		off += h.ihl * 4;
	} else {
		struct ipv6hdr h;

		if (bpf_skb_load_bytes(ctx, off, &h, sizeof(h)) < 0)
			return DROP_MALFORMED;
		key.protocol = h.nexthdr;
		__builtin_memcpy(local_is_source ? &key.local : &key.remote, &h.saddr, 16);
		__builtin_memcpy(local_is_source ? &key.remote : &key.local, &h.daddr, 16);
		off += sizeof(h);
	}
	if (bpf_skb_load_bytes(ctx, off, ports, sizeof(ports)) < 0)
		return DROP_MALFORMED;
	if (has_ports(key.protocol)) {
		__be16 src = ports[0], dst = ports[1];

		key.lport = local_is_source ? src : dst;
		key.rport = local_is_source ? dst : src;
	} else if (key.protocol == (key.family == 4 ? IPPROTO_ICMP : PROTO_ICMPV6)) {
		key.lport = ports[2];
		echo = *(__u8 *)ports == (key.family == 4 ? ICMP_ECHO : ICMPV6_ECHO_REQUEST);
		key.remote_first = echo != local_is_source;
	}
	f = bpf_map_lookup_elem(&flows, &key);
	if (!f)
		return DROP_POLICY_INGRESS;
	return f->epoch == port->epoch ? 0 : allowed_again(port, &key, f);
}

/* track finds, makes or evaluates again the flow of p, and keeps in it what p has learned:
 * the route of a packet from the machine, the verified outer source of one from the fabric.
 * Returns 0 or a reason.
 */
__noinline int track(struct packet *p, const struct port *port)
{
	struct flow new = {};
	struct flow *f;
	__u32 t;
	int reason;

	if (!p || !port)
		return DROP_MALFORMED;
	t = seconds(p);
	f = p->flags & PACKET_STATELESS ? 0 : bpf_map_lookup_elem(&flows, &p->key);
	if (f && (!flow_matches(f, p, t) || (__s32)(f->epoch - port->born) < 0)) {
		remove_flow(&p->key);
		f = 0;
	}
	if (f) {
		new = *f;
		if (new.epoch != port->epoch) {
			reason = allowed_again(port, &p->key, &new);
			if (reason) {
				remove_flow(&p->key);
				return reason;
			}
			new.epoch = port->epoch;
			new.flags &= ~(FLOW_ROUTED | FLOW_PEER);
		}
	} else {
		reason = evaluate(port, &p->key, p->to_machine, p->icmp_type, p->icmp_code);
		if (reason || p->flags & (PACKET_STATELESS | PACKET_ECHO_REPLY))
			return reason;
		new.epoch = port->epoch;
		new.flags = p->to_machine ? FLOW_FROM_REMOTE : 0;
		new.timeout = p->key.protocol == IPPROTO_TCP ? TIMEOUT_TCP_NEW : TIMEOUT_NEW;
		new.icmp_type = p->icmp_type;
		new.icmp_code = p->icmp_code;
	}
	if (!p->to_machine) {
		new.flags |= FLOW_ROUTED;
		new.path.tick = 0;
		new.local_ifindex = p->local_ifindex;
		new.nexthop = p->tunnel;
	} else if (p->tunneled) {
		new.flags |= FLOW_PEER;
		new.peer = p->tunnel;
	}
	advance(&new, p, t);
	if (f && !bpf_map_update_elem(&flows, &p->key, &new, BPF_EXIST))
		return 0;
	return insert_flow(&p->key, &new);
}

/* admit is the way of p into the machine behind port: 0 or a reason. */
static __always_inline int admit(struct __sk_buff *ctx, struct packet *p, const struct port *port,
				 __u32 ifindex)
{
	struct flow *f = p->flags & PACKET_STATELESS ? 0 : bpf_map_lookup_elem(&flows, &p->key);
	__u32 t = seconds(p);

	if (f && f->epoch == port->epoch && flow_matches(f, p, t) &&
	    (!p->tunneled || (f->flags & FLOW_PEER && addr_equal(&f->peer, &p->tunnel)))) {
		advance(f, p, t);
		return 0;
	}
	if (!owns(p, port->vni, ifindex))
		return DROP_FOREIGN_DESTINATION;
	if (p->tunneled && source_is_forged(p, port->vni))
		return DROP_FORGED_SOURCE;
	if (p->flags & PACKET_ICMP_ERROR && !related(ctx, p, port))
		return 0;
	return track(p, port);
}
