/* The argument of trap(): the interrupted registers, which traps.S restores from it when trap() returns. */
#ifndef TRAP_H
#define TRAP_H

#include <stdint.h>

#define TRAP_VECTORS 48 /* 32 exceptions, then 16 interrupts, which the program may assign */

enum {
	TRAP_DEBUG = 1,
	TRAP_BREAKPOINT = 3,
	TRAP_PAGE_FAULT = 14,
	TRAP_FIRST_INTERRUPT = 32,
};

struct trap_frame {
#ifdef __x86_64__
	uint64_t r15, r14, r13, r12, r11, r10, r9, r8, rbp, rdi, rsi, rdx, rcx, rbx, rax;
	uint64_t vector, error;
	uint64_t rip, cs, rflags, rsp, ss;
#else
	uint32_t gs, fs, es, ds, edi, esi, ebp, ebx, edx, ecx, eax;
	uint32_t vector, error;
	uint32_t eip, cs, eflags;
	uint32_t above[]; /* its address is the former esp, which the processor doesn't save without a change of privilege */
#endif
};

static inline uintptr_t fault_address(void)
{
	uintptr_t address;

	__asm__ volatile("mov %%cr2, %0" : "=r"(address));
	return address;
}

/* The program defines this. Interrupts are off while it runs. */
void trap(struct trap_frame *frame);

#endif
