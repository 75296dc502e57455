/*
 * Entered from a Multiboot loader (32-bit protected mode, paging off, interrupts off), this calls main() in long mode
 * or, compiled with -m32, in 32-bit protected mode without paging.
 *
 * The header has the address fields, so a loader copies the file as it is and doesn't read the ELF headers.
 * So a loader that knows only 32-bit ELF (QEMU's -kernel) can start a 64-bit program.
 */
#include "multiboot.h"

#define HEADER_FLAGS (MULTIBOOT_PAGE_ALIGN | MULTIBOOT_MEMORY_INFO | MULTIBOOT_ADDRESS_FIELDS)

#define COM1_DATA 0x3f8
#define COM1_LINE_STATUS 0x3fd
#define TRANSMITTER_EMPTY 0x20

#define PRESENT_WRITABLE 0x003
#define LARGE_PAGE 0x083
#define CR4_PAE 0x20
#define EFER_MSR 0xc0000080
#define EFER_LONG_MODE 0x100
#define CR0_PAGING 0x80000000

#define CODE_SELECTOR 0x08
#define DATA_SELECTOR 0x10

	.section .multiboot, "a"
	.balign 4
multiboot_header:
	.long	MULTIBOOT_HEADER_MAGIC
	.long	HEADER_FLAGS
	.long	-(MULTIBOOT_HEADER_MAGIC + HEADER_FLAGS)
	.long	multiboot_header	/* header_addr */
	.long	image_start		/* load_addr */
	.long	image_load_end		/* load_end_addr: after it, the file has symbols */
	.long	image_bss_end		/* bss_end_addr: the loader clears memory up to here */
	.long	_start			/* entry_addr */

	.section .text.boot, "ax"
	.code32
	.globl	_start
	.type	_start, @function
_start:
	cli
	cld
	movl	$boot_stack_top, %esp
	movl	$no_multiboot, %esi
	cmpl	$MULTIBOOT_LOADER_MAGIC, %eax
	jne	refuse
	movl	%ebx, %ebp		/* cpuid overwrites ebx */

#ifdef __x86_64__
	movl	$no_long_mode, %esi
	movl	$0x80000000, %eax
	cpuid
	cmpl	$0x80000001, %eax
	jb	refuse
	movl	$0x80000001, %eax
	cpuid
	btl	$29, %edx
	jnc	refuse

	/* Map the first 4 GiB one to one with 2 MiB pages, which every processor with long mode supports. */
	movl	$page_directories, %edi
	movl	$LARGE_PAGE, %eax
	xorl	%edx, %edx
	movl	$(4 * 512), %ecx
1:	movl	%eax, (%edi)
	movl	%edx, 4(%edi)
	addl	$0x200000, %eax
	addl	$8, %edi
	loop	1b

	movl	$page_pointers, %edi
	movl	$(page_directories + PRESENT_WRITABLE), %eax
	movl	$4, %ecx
2:	movl	%eax, (%edi)
	addl	$0x1000, %eax
	addl	$8, %edi
	loop	2b
	movl	$(page_pointers + PRESENT_WRITABLE), page_top

	movl	$page_top, %eax
	movl	%eax, %cr3
	movl	%cr4, %eax
	orl	$CR4_PAE, %eax
	movl	%eax, %cr4
	movl	$EFER_MSR, %ecx
	rdmsr
	orl	$EFER_LONG_MODE, %eax
	wrmsr
	movl	%cr0, %eax
	orl	$CR0_PAGING, %eax
	movl	%eax, %cr0
#endif
	lgdt	descriptor_table_register
	ljmp	$CODE_SELECTOR, $start_c

	/* esi: the message. Prints it on the serial port, which works in the state after reset or the firmware. */
refuse:
	movw	$COM1_LINE_STATUS, %dx
	movl	$0x100000, %ecx
3:	inb	%dx, %al
	testb	$TRANSMITTER_EMPTY, %al
	loopz	3b
	lodsb
	testb	%al, %al
	jz	halt
	movw	$COM1_DATA, %dx
	outb	%al, %dx
	jmp	refuse
halt:
	cli
	hlt
	jmp	halt
	.size	_start, . - _start

#ifdef __x86_64__
	.code64
#endif
	.type	start_c, @function
start_c:
	movl	$DATA_SELECTOR, %eax
	movl	%eax, %ds
	movl	%eax, %es
	movl	%eax, %ss
	xorl	%eax, %eax
	movl	%eax, %fs
	movl	%eax, %gs
	movl	$boot_stack_top, %esp
	call	traps_init
#ifdef __x86_64__
	movl	%ebp, %edi
	xorl	%ebp, %ebp		/* a debugger's back trace ends here */
#else
	movl	%ebp, %eax
	xorl	%ebp, %ebp
	subl	$12, %esp		/* at the call, esp must be a multiple of 16 */
	pushl	%eax
#endif
	call	main
4:	cli
	hlt
	jmp	4b
	.size	start_c, . - start_c

	.section .rodata
no_multiboot:
	.asciz	"boot: not started by a Multiboot loader, halting\r\n"
#ifdef __x86_64__
no_long_mode:
	.asciz	"boot: this processor has no long mode, halting\r\n"
#endif

	.section .data
	.balign	8
descriptor_table:
	.quad	0
#ifdef __x86_64__
	.quad	0x00af9b000000ffff	/* 64-bit code */
#else
	.quad	0x00cf9b000000ffff	/* 32-bit code */
#endif
	.quad	0x00cf93000000ffff	/* data */
descriptor_table_end:
descriptor_table_register:
	.word	descriptor_table_end - descriptor_table - 1
	.long	descriptor_table

	.section .bss
#ifdef __x86_64__
	.balign	4096
page_top:
	.skip	4096
page_pointers:
	.skip	4096
page_directories:
	.skip	4 * 4096
#endif
	.balign	16
boot_stack:
	.skip	64 * 1024
boot_stack_top:

	.section .note.GNU-stack, "", @progbits
