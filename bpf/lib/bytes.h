/* SPDX-License-Identifier: GPL-2.0 OR BSD-2-Clause */
/* Reading and writing the packet. What is in the linear part, which headers nearly always are, is
 * copied here word by word; the helpers take the rest. A helper costs about 15 ns a call.
 */
#pragma once

#include <linux/if_ether.h>
#include "../maps.h"

/* The verifier follows offsets into a packet as far as 16 bits reach. */
#define MAX_DIRECT 0x7fff

/* ether is an Ethernet header in front of an aligned IP header. */
struct ether {
	__u8 pad[2];
	struct ethhdr h;
} __attribute__((aligned(4)));

/* copy is memcpy for packets, which the compiler would copy byte by byte for want of alignment.
 * n is a constant and even; what is not in the packet is 4 byte aligned, but for the first two
 * bytes of an Ethernet header.
 */
static __always_inline void copy(void *to, const void *from, int n)
{
	if (n & 2)
		*(__u16 *)to = *(const __u16 *)from;
#pragma unroll
	for (int i = n & 2; i < n; i += 4)
		*(__u32 *)(to + i) = *(const __u32 *)(from + i);
}

/* at is where the packet has offset off, which the verifier must see bounded; beyond MAX_DIRECT
 * it is somewhere else, so the caller checks that first.
 */
static __always_inline void *at(struct __sk_buff *ctx, __u32 off)
{
	asm volatile("%0 &= %1" : "+r"(off) : "i"(MAX_DIRECT));
	return (void *)(long)ctx->data + off;
}

static __always_inline long load_bytes(struct __sk_buff *ctx, __u32 off, void *to, int n)
{
	void *from = at(ctx, off);

	if (off > MAX_DIRECT || from + n > (void *)(long)ctx->data_end)
		return bpf_skb_load_bytes(ctx, off, to, n);
	copy(to, from, n);
	return 0;
}

/* store_bytes leaves skb->csum alone, as bpf_skb_store_bytes without flags does. The kernel gives
 * a program that writes packets a private copy of the linear part.
 */
static __always_inline long store_bytes(struct __sk_buff *ctx, __u32 off, const void *from, int n)
{
	void *to = at(ctx, off);

	if (off > MAX_DIRECT || to + n > (void *)(long)ctx->data_end)
		return bpf_skb_store_bytes(ctx, off, from, n, 0);
	copy(to, from, n);
	return 0;
}
