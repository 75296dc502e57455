/*
 * One entry point a processor exception. Each leaves vector and error code on the stack in the same shape and
 * hands them to exception() in C, which does not return.
 */
#define HAS_ERROR_CODE 0x60227d00	/* bit n: vector n pushes an error code */

	.text
	.code64
	.balign	16
	.globl	exception_entries
exception_entries:
	.set	vector, 0
	.rept	32
	.balign	16
	.if	((HAS_ERROR_CODE >> vector) & 1) == 0
	pushq	$0
	.endif
	pushq	$vector
	jmp	exception_common
	.set	vector, vector + 1
	.endr

	.type	exception_common, @function
exception_common:
	popq	%rdi			/* vector */
	popq	%rsi			/* error code */
	movq	(%rsp), %rdx		/* rip at the fault */
	movq	%cr2, %rcx
	andq	$-16, %rsp
	call	exception
1:	cli
	hlt
	jmp	1b
	.size	exception_common, . - exception_common

	.section .note.GNU-stack, "", @progbits
