/*
 * Firmware of 64 KiB, mapped below 1 MiB and below 4 GiB, that ends QEMU through isa-debug-exit
 * with 0x21 when the CPU did what an operating system needs: protected mode, paging, long mode,
 * SSE2, string copies over pages, an exception and the return from it.
 *
 *   as --64 probe.asm -o probe.o && ld -m elf_x86_64 -Ttext 0 -e 0 --oformat binary probe.o -o probe.bin
 */
	.set	ROM, 0xf0000
	.set	EXIT_PORT, 0xf4

	.code16
start:	cli
	cld
	lgdtl	%cs:gdtr
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmpl	$0x08, $ROM+protected

	.code32
protected:
	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movl	$0x8000, %esp
	/* Identity map of 16 MiB in 2 MiB pages: PML4 at 0x1000, PDPT at 0x2000, PD at 0x3000. */
	movl	$0x1000, %edi
	xorl	%eax, %eax
	movl	$0xc00, %ecx
	rep stosl
	movl	$0x2003, 0x1000
	movl	$0x3003, 0x2000
	movl	$0x83, %eax
	movl	$0x3000, %edi
	movl	$8, %ecx
1:	movl	%eax, (%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	loop	1b
	movl	%cr4, %eax
	orl	$0x620, %eax		/* PAE, OSFXSR, OSXMMEXCPT */
	movl	%eax, %cr4
	movl	$0x1000, %eax
	movl	%eax, %cr3
	movl	$0xc0000080, %ecx	/* EFER.LME */
	rdmsr
	orl	$0x100, %eax
	wrmsr
	movl	%cr0, %eax
	andl	$~4, %eax		/* EM */
	orl	$0x80000002, %eax	/* PG, MP */
	movl	%eax, %cr0
	ljmpl	$0x18, $ROM+long

	.code64
long:	movw	$0x10, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss

	movq	$0x123456789, %rax
	movq	%rax, %xmm0
	movaps	%xmm0, 0x9000
	movdqu	0x9000, %xmm1
	movq	%xmm1, %rbx
	cmpq	%rax, %rbx
	jne	fail

	movl	$16, %ebx
2:	movl	$0x200000, %esi
	movl	$0x400000, %edi
	movl	$0x20000, %ecx
	rep movsq
	decl	%ebx
	jnz	2b

	leaq	handler(%rip), %rax
	movl	$0xa000, %edi
	movl	$32, %ecx
3:	movw	%ax, (%rdi)
	movw	$0x18, 2(%rdi)
	movw	$0x8e00, 4(%rdi)
	movl	%eax, %edx
	shrl	$16, %edx
	movw	%dx, 6(%rdi)
	movq	$0, 8(%rdi)
	addq	$16, %rdi
	loop	3b
	lidt	idtr(%rip)
	xorl	%ebp, %ebp
	ud2
	cmpl	$1, %ebp
	jne	fail
	movb	$0x21, %al
	jmp	out
fail:	movb	$0x11, %al
out:	movw	$EXIT_PORT, %dx
	outb	%al, %dx
	hlt
	jmp	out

handler:
	incl	%ebp
	addq	$2, (%rsp)		/* over ud2 */
	iretq

	.align	8
gdt:	.quad	0
	.quad	0x00cf9b000000ffff	/* 0x08: 32-bit code */
	.quad	0x00cf93000000ffff	/* 0x10: data */
	.quad	0x00af9b000000ffff	/* 0x18: 64-bit code */
gdtr:	.word	31
	.long	ROM+gdt
idtr:	.word	511
	.quad	0xa000
