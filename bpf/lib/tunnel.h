/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* What both stages of an uplink need to know of the outer header. */
#pragma once

#include "encap.h"

#define TUNNEL_MAGIC 0x494e474f /* "INGO" */

static __always_inline __u32 *find_endpoint(const struct ipv6hdr *ip)
{
	return bpf_map_lookup_elem(&underlays, &ip->daddr);
}

/* is_underlay tells whether the destination is in this host's underlay prefix. */
static __always_inline int is_underlay(const struct ipv6hdr *ip)
{
	const __u8 *a = (const __u8 *)&ip->daddr;
	int bits = conf.underlay_len;

	for (int i = 0; i < 16; i++) {
		int n = bits - i * 8;
		__u8 mask = n >= 8 ? 0xff : n <= 0 ? 0 : 0xff << (8 - n);

		if ((a[i] ^ conf.underlay.b[i]) & mask)
			return 0;
	}
	return 1;
}

static __always_inline __u8 outer_tos(const struct ipv6hdr *ip)
{
	return ip->priority << 4 | ip->flow_lbl[0] >> 4;
}

/* replace_tos updates an IPv4 header checksum (RFC 1624). */
static __always_inline __u16 replace_tos(__u16 check, __u8 old, __u8 new)
{
	/* the second byte of the first word: high in memory order */
	__u32 sum = (__u16)~check + (__u16)~(old << 8) + (__u16)(new << 8);

	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}
