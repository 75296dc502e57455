#include "small.h"

#define MASTER 0x20
#define SLAVE 0xa0
#define COMMAND 0
#define MASK 1

#define INITIALISE 0x11 /* four words follow: vector, cascade, mode, mask */
#define MODE_8086 0x01
#define CASCADE_LINE 2
#define END_OF_INTERRUPT 0x20

/* The 8254, whose clock has 1193182 Hz. */
#define CLOCK_COUNTER 0x40
#define CLOCK_COMMAND 0x43
#define CLOCK_RATE_GENERATOR 0x34
#define CLOCK_DIVISOR (1193182 / CLOCK_HZ)

static void controller_init(uint16_t port, uint8_t vector, uint8_t cascade, uint8_t mask)
{
	out8(port + COMMAND, INITIALISE);
	out8(port + MASK, vector);
	out8(port + MASK, cascade);
	out8(port + MASK, MODE_8086);
	out8(port + MASK, mask);
}

void interrupts_init(unsigned int lines)
{
	controller_init(MASTER, TRAP_FIRST_INTERRUPT, 1 << CASCADE_LINE, (uint8_t)~lines);
	controller_init(SLAVE, TRAP_FIRST_INTERRUPT + 8, CASCADE_LINE, 0xff);
	out8(CLOCK_COMMAND, CLOCK_RATE_GENERATOR);
	out8(CLOCK_COUNTER, CLOCK_DIVISOR & 0xff);
	out8(CLOCK_COUNTER, CLOCK_DIVISOR >> 8);
}

void interrupt_end(unsigned int line)
{
	if (line >= 8)
		out8(SLAVE + COMMAND, END_OF_INTERRUPT);
	out8(MASTER + COMMAND, END_OF_INTERRUPT);
}
