/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* The port program for BPF_PROG_TEST_RUN with many repetitions, which reuse one packet: each
 * takes the tunnel off again. The kernel marks a packet as a tunnel once only, so the flags that
 * do that are left out here; they cost a few stores.
 */
#include <linux/bpf.h>

#define ENCAP_FLAGS (BPF_F_ADJ_ROOM_FIXED_GSO | BPF_F_ADJ_ROOM_NO_CSUM_RESET)
#include "port.c"

const volatile __u32 random_flows; /* 0: one flow; else a power of two */

struct start {
	__u8 pad[2];
	struct ethhdr eth;
	struct iphdr ip;
	__be16 ports[4];
};

/* what the packet is before each repetition; not on the stack, which handle() needs */
struct start s;

SEC("tc")
int bench_empty(struct __sk_buff *ctx)
{
	return TC_ACT_OK;
}

static __always_inline int restore(struct __sk_buff *ctx)
{
	if (random_flows) {
		__u32 n = bpf_get_prandom_u32() & (random_flows - 1);

		s.ip.daddr = bpf_htonl(0x0b000000 | n >> 8);
		s.ports[0] = bpf_htons(1024 + (n & 0xff));
	}
	return bpf_skb_store_bytes(ctx, 0, &s.eth, sizeof(s) - 2, 0);
}

/* bench_restore and bench_resize are what bench_port does besides: all of the one, half of the
 * other.
 */
SEC("tc")
int bench_restore(struct __sk_buff *ctx)
{
	if (bpf_skb_load_bytes(ctx, 0, &s.eth, sizeof(s) - 2) < 0 || restore(ctx))
		return TC_ACT_SHOT;
	return bpf_skb_store_bytes(ctx, 0, &s.eth, sizeof(s) - 2, 0) ? TC_ACT_SHOT : TC_ACT_OK;
}

SEC("tc")
int bench_resize(struct __sk_buff *ctx)
{
	if (bpf_skb_adjust_room(ctx, OUTER_LEN, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS) ||
	    bpf_skb_adjust_room(ctx, -OUTER_LEN, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS))
		return TC_ACT_SHOT;
	return TC_ACT_OK;
}

SEC("tc")
int bench_port(struct __sk_buff *ctx)
{
	int action;

	if (bpf_skb_load_bytes(ctx, 0, &s.eth, sizeof(s) - 2) < 0 || restore(ctx))
		return TC_ACT_SHOT;
	action = handle(ctx);
	if (action != TC_ACT_REDIRECT)
		return action;
	bpf_skb_adjust_room(ctx, -OUTER_LEN, BPF_ADJ_ROOM_MAC, ENCAP_FLAGS);
	s.ip.ttl = 64;
	bpf_skb_store_bytes(ctx, 0, &s.eth, sizeof(s) - 2, 0);
	return action;
}
