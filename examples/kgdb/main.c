/*
 * The kernel's start, workload and traps. With -d on the command line, it first waits for a debugger on the second
 * serial port, as NetBSD does.
 */
#include "kernel.h"

volatile unsigned long ticks;
unsigned long counter;
int boothowto;

/* Called CLOCK_HZ times a second, with interrupts off. */
void hardclock(void)
{
	ticks++;
	(void)proc_tick();
}

/* A function for a breakpoint: it is called once for each tick, with a varying argument. */
__attribute__((noinline, noclone)) unsigned long counter_step(unsigned long amount)
{
	counter += amount;
	return counter;
}

void panic(const char *why, uintptr_t pc)
{
	printf("panic: %s at %p\n", why, (void *)pc);
	kgdb_panic();
	printf("halting\n");
	halt();
}

void trap(struct trap_frame *frame)
{
	unsigned int vector = (unsigned int)frame->vector;

	if (vector < TRAP_FIRST_INTERRUPT) {
		if (!kgdb_trap(frame))
			panic("trap", FRAME_PC(frame));
		return;
	}
	vector -= TRAP_FIRST_INTERRUPT;
	/* Before anything else, since the kernel may stop in the debugger for long. */
	interrupt_end(vector);
	if (vector == LINE_CLOCK)
		hardclock();
	else if (vector == LINE_COM0)
		com_interrupt(0);
	else if (vector == LINE_COM1)
		com_interrupt(1);
}

static __attribute__((noreturn)) void workload(void)
{
	for (unsigned long done = ticks;;) {
		__asm__ volatile("sti; hlt; cli" : : : "memory");
		for (; done != ticks; done++)
			(void)counter_step(done & 3);
		console_poll();
	}
}

void main(const struct multiboot_info *info);

void main(const struct multiboot_info *info)
{
	if (info->flags & MULTIBOOT_HAS_COMMAND_LINE)
		boothowto = boot_flags((const char *)(uintptr_t)info->command_line);
	com_init();
	/* From here on, the loader's data may be outside the mapped memory. */
	memory_init();
	printf("kgdbdemo/" MACHINE "\n");
	if (boothowto & RB_KDB)
		kgdb_connect(true);
	proc_init();
	interrupts_init(1 << LINE_CLOCK | 1 << LINE_COM1 | 1 << LINE_COM0);
	autoconf();
	power_init();
	console_init();
	workload();
}
