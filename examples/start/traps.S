/*
 * An entry point for each vector. Each saves the registers on the stack as a struct trap_frame and passes that to
 * trap() in C; when trap() returns, the registers are restored from the frame.
 *
 * With the call frame information, a debugger's back trace continues in the interrupted function.
 */
#define HAS_ERROR_CODE 0x60227d00	/* bit n: vector n pushes an error code */
#define VECTORS 48

	.cfi_sections .debug_frame
	.text
	.balign	16
	.globl	trap_entries
trap_entries:
	.set	vector, 0
	.rept	VECTORS
	.balign	16
	.if	((HAS_ERROR_CODE >> vector) & 1) == 0
	push	$0
	.endif
	push	$vector
	jmp	trap_common
	.set	vector, vector + 1
	.endr

	.type	trap_common, @function
	.cfi_startproc simple
	.cfi_signal_frame
#ifdef __x86_64__
	/* The frame ends with what the processor pushed: rip, cs, rflags, rsp, ss. */
	.cfi_def_cfa rsp, 7 * 8
	.cfi_offset rip, -5 * 8
	.cfi_offset rsp, -2 * 8
trap_common:
	.irp	register, rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15
	pushq	%\register
	.cfi_adjust_cfa_offset 8
	.cfi_rel_offset \register, 0
	.endr
	movq	%rsp, %rdi
	cld
	call	trap
	.irp	register, r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax
	popq	%\register
	.cfi_adjust_cfa_offset -8
	.cfi_restore \register
	.endr
	addq	$16, %rsp
	.cfi_adjust_cfa_offset -16
	iretq
#else
	/* Without a change of privilege, the processor pushed eip, cs and eflags; the former esp is the address above. */
	.cfi_def_cfa esp, 5 * 4
	.cfi_offset eip, -3 * 4
trap_common:
	.irp	register, eax, ecx, edx, ebx, ebp, esi, edi
	pushl	%\register
	.cfi_adjust_cfa_offset 4
	.cfi_rel_offset \register, 0
	.endr
	.irp	register, ds, es, fs, gs
	pushl	%\register
	.cfi_adjust_cfa_offset 4
	.endr
	movl	%esp, %eax
	cld
	/* At the call of trap(), esp must be a multiple of 16. */
	movl	%esp, %esi
	andl	$-16, %esp
	subl	$12, %esp
	pushl	%eax
	.cfi_def_cfa esi, 16 * 4
	call	trap
	movl	%esi, %esp
	.cfi_def_cfa esp, 16 * 4
	.irp	register, gs, fs, es, ds
	popl	%\register
	.cfi_adjust_cfa_offset -4
	.endr
	.irp	register, edi, esi, ebp, ebx, edx, ecx, eax
	popl	%\register
	.cfi_adjust_cfa_offset -4
	.cfi_restore \register
	.endr
	addl	$8, %esp
	.cfi_adjust_cfa_offset -8
	iret
#endif
	.cfi_endproc
	.size	trap_common, . - trap_common

	.section .note.GNU-stack, "", @progbits
