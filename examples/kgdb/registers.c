#include "kernel.h"

#ifdef __x86_64__
void kgdb_getregs(struct trap_frame *frame, kgdb_reg_t *registers)
{
	const kgdb_reg_t values[KGDB_NUMREGS] = {
		frame->rax, frame->rbx, frame->rcx, frame->rdx, frame->rsi, frame->rdi, frame->rbp,
		frame->rsp, frame->r8,	frame->r9,  frame->r10, frame->r11, frame->r12, frame->r13,
		frame->r14, frame->r15, frame->rip, frame->rflags, frame->cs, frame->ss,
	};

	for (unsigned int number = 0; number < KGDB_NUMREGS; number++)
		registers[number] = values[number];
}

void kgdb_setregs(struct trap_frame *frame, const kgdb_reg_t *registers)
{
	uint64_t *const places[KGDB_NUMREGS] = {
		&frame->rax, &frame->rbx, &frame->rcx, &frame->rdx, &frame->rsi, &frame->rdi, &frame->rbp,
		&frame->rsp, &frame->r8,  &frame->r9,  &frame->r10, &frame->r11, &frame->r12, &frame->r13,
		&frame->r14, &frame->r15, &frame->rip, &frame->rflags, &frame->cs, &frame->ss,
	};

	for (unsigned int number = 0; number < KGDB_NUMREGS; number++)
		*places[number] = registers[number];
}
#else
#define ESP 4
#define SS 11

/* The registers in GDB's order for i386. The frame has no esp: it is computed, so it can be read but not set. */
static void place(struct trap_frame *frame, uint32_t *places[KGDB_NUMREGS])
{
	uint32_t *const all[KGDB_NUMREGS] = {
		&frame->eax, &frame->ecx, &frame->edx,	  &frame->ebx, NULL,	   &frame->ebp, &frame->esi, &frame->edi,
		&frame->eip, &frame->eflags, &frame->cs, NULL,	&frame->ds, &frame->es,	 &frame->fs,  &frame->gs,
	};

	for (unsigned int number = 0; number < KGDB_NUMREGS; number++)
		places[number] = all[number];
}

void kgdb_getregs(struct trap_frame *frame, kgdb_reg_t *registers)
{
	uint32_t *places[KGDB_NUMREGS];
	uint32_t stack_segment;

	place(frame, places);
	for (unsigned int number = 0; number < KGDB_NUMREGS; number++)
		if (places[number])
			registers[number] = *places[number];
	__asm__("movl %%ss, %0" : "=r"(stack_segment));
	registers[SS] = stack_segment;
	registers[ESP] = (uint32_t)frame->above;
}

void kgdb_setregs(struct trap_frame *frame, const kgdb_reg_t *registers)
{
	uint32_t *places[KGDB_NUMREGS];

	place(frame, places);
	for (unsigned int number = 0; number < KGDB_NUMREGS; number++)
		if (places[number])
			*places[number] = registers[number];
}
#endif
