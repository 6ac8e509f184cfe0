/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Structs that programs and user space share. IPv4 addresses fill the first four bytes of an
 * address field, the others are zero. Ports are in network order unless said otherwise.
 */
#pragma once

#include <linux/types.h>

#define MAX_REASONS 64
#define MAX_NEXTHOPS 16
#define NEXTHOP_SLOTS 64

/* aligned, or the compiler would copy addresses byte by byte */
struct addr {
	__u8 b[16];
} __attribute__((aligned(4)));

/* A scope is a number that keeps look-ups of different owners apart in one trie:
 * VNI << 8 | family, or rule set << 8 | family. Family is 4 or 6.
 */

/* port is what a device means; keyed by ifindex. */
struct port {
	__u32 slot;  /* index of counters and usage; owner of flows */
	__u32 vni;
	__u32 epoch; /* flows of another epoch are evaluated again */
	__u32 born;  /* flows of an earlier epoch belong to a predecessor in this slot */
	__u32 ingress; /* rule set, 0: everything passes */
	__u32 egress;
	__u8 mac[6];
	__u8 peer_redirect; /* device is a veth whose other end is in another namespace */
	__u8 pad;
	struct addr underlay;
};

struct port_counters {
	__u64 from_packets;
	__u64 from_bytes;
	__u64 to_packets;
	__u64 to_bytes;
	__u64 drops[MAX_REASONS];
};

/* flow_key is seen from the port: local is the machine. */
struct flow_key {
	__u32 slot;
	__u8 family;
	__u8 protocol;
	__u8 remote_first; /* ICMP: the remote asked; else 0 */
	__u8 pad;
	struct addr local;
	struct addr remote;
	__be16 lport;
	__be16 rport;
	__u32 pad2;
} __attribute__((aligned(8)));

enum flow_state {
	FLOW_NEW = 0,
	FLOW_ESTABLISHED = 1,
	FLOW_CLOSING = 2,
	FLOW_CLOSED = 3,
};

enum flow_flags {
	FLOW_FROM_REMOTE = 1, /* the remote sent the first packet */
	FLOW_ROUTED = 2,      /* local_ifindex and nexthop are valid */
	FLOW_FIN_LOCAL = 4,
	FLOW_FIN_REMOTE = 8,
	FLOW_PEER = 16,       /* peer is valid */
};

/* path is how packets to a next hop leave the host, as the kernel said at that tick. CPUs write
 * it without a lock: all would write the same but in the instant of a change, and the next tick
 * repairs that.
 */
struct path {
	__u32 tick; /* units of 2^26 ns, 67 ms */
	__u32 ifindex;
	__u8 dmac[6];
	__u8 smac[6];
};

struct flow {
	__u32 epoch;
	__u32 last;    /* time of the last packet, units of 2^30 ns of the monotonic clock */
	__u32 timeout; /* same units */
	__u32 local_ifindex; /* the remote's port on this host, or 0 */
	struct addr nexthop; /* outer destination */
	struct addr peer;    /* outer source seen and verified */
	__u8 state;
	__u8 flags;
	__u8 icmp_type;
	__u8 icmp_code;
	struct path path;
};

struct host_key {
	__u32 scope;
	struct addr addr;
};

struct prefix_key {
	__u32 prefixlen; /* 32 for the scope + length of the prefix */
	__u32 scope;
	struct addr addr;
};

/* route has two owners: local_ifindex is set by ports, the rest by the routing daemon. Local wins. */
struct route {
	__u32 local_ifindex;
	__u32 count; /* next hops */
	__u32 group; /* key of multipath, when count > 1 */
	struct addr nexthop; /* when count == 1 */
};

struct multipath {
	__u8 slot[NEXTHOP_SLOTS]; /* index into nexthop, by flow hash */
	struct addr nexthop[MAX_NEXTHOPS];
};

/* A rule set is two tries that yield bit vectors, one bit per rule in order of priority. */
struct service_key {
	__u32 prefixlen; /* 32 for the rule set, 8 protocol, 16 destination port or ICMP type and code */
	__u32 ruleset;
	__u8 protocol;
	__u8 port[2];
	__u8 pad;
};

struct bitvector {
	__u32 id;
	__u32 pad;
	__u64 word0;       /* bits of the first 64 rules */
	__u64 nonzero[4];  /* which of 256 words have bits; words from 1 on are in vectors */
};

struct vector_key {
	__u32 ruleset;
	__u32 word; /* vector id << 8 | word; id 0 is the vector of rules that allow */
};

struct fragment_key {
	__u32 slot;
	__u32 id;
	struct addr src;
	struct addr dst;
	__u8 protocol;
	__u8 family;
	__u8 to_machine;
	__u8 pad;
};

/* fragment is what the first fragment told about the later ones. */
struct fragment {
	__be16 lport;
	__be16 rport;
	__u8 remote_first;
	__u8 flags; /* of struct packet */
	__u8 icmp_type;
	__u8 icmp_code;
	__u32 seen; /* units as flow.last */
};

struct serial_numbers {
	__u32 epoch;
	__u32 ruleset;
	__u32 group;
};

/* tunnel_meta travels from the XDP to the tc stage of an uplink in front of the packet. */
struct tunnel_meta {
	__u32 magic;
	__u32 ifindex; /* the port */
	struct addr source; /* outer source */
};

/* config is fixed when the programs are loaded. */
struct config {
	struct addr underlay;
	__u32 underlay_len;
	__u32 mtu; /* of machines */
	__u32 flows_per_port;
	__u32 uplink; /* ifindex of the first */
	__u8 gateway_mac[6];
	__u8 pad[2];
	__u8 gateway4[4];
	struct addr gateway6;
};
