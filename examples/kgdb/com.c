#include "kernel.h"

/* The registers of a 16550, from its first port on. */
#define DATA 0
#define INTERRUPT_ENABLE 1
#define FIFO_CONTROL 2
#define LINE_CONTROL 3
#define MODEM_CONTROL 4
#define LINE_STATUS 5

#define DIVISOR_LATCH 0x80
#define EIGHT_BITS 0x03
#define FIFO_ON_AND_CLEAR 0x07
#define RECEIVED 0x01	  /* interrupt enable: a character was received */
#define LINE_CHANGED 0x04 /* interrupt enable: a BREAK was received */
#define READY_AND_OUT2 0x0b /* OUT2 connects the interrupt to the 8259 */
#define DATA_READY 0x01
#define BREAK_RECEIVED 0x10
#define TRANSMITTER_EMPTY 0x20

#define TYPED 64

static const uint16_t ports[] = {0x3f8, 0x2f8};

static volatile char typed[TYPED];
static volatile unsigned int typed_in, typed_out;

void com_init(void)
{
	for (unsigned int unit = 0; unit < sizeof(ports) / sizeof(ports[0]); unit++) {
		uint16_t port = ports[unit];

		out8(port + LINE_CONTROL, DIVISOR_LATCH);
		out8(port + DATA, 1); /* 115200 baud */
		out8(port + INTERRUPT_ENABLE, 0);
		out8(port + LINE_CONTROL, EIGHT_BITS);
		out8(port + FIFO_CONTROL, FIFO_ON_AND_CLEAR);
		out8(port + MODEM_CONTROL, READY_AND_OUT2);
		out8(port + INTERRUPT_ENABLE, RECEIVED | LINE_CHANGED);
	}
}

/* Keeps the console's characters. A BREAK on the debugger's line enters kgdb; other characters there are dropped. */
void com_interrupt(unsigned int unit)
{
	uint16_t port = ports[unit];
	uint8_t status;

	/* Reading the status clears the BREAK in it. */
	while ((status = in8(port + LINE_STATUS)) & DATA_READY) {
		char character = (char)in8(port + DATA);

		if (unit == 1) {
			if (status & BREAK_RECEIVED)
				kgdb_connect(true);
		} else if (!(status & BREAK_RECEIVED) && typed_in - typed_out < TYPED) {
			typed[typed_in++ % TYPED] = character;
		}
	}
}

int console_getc(void)
{
	return typed_in == typed_out ? -1 : typed[typed_out++ % TYPED];
}

int kgdb_getc(void)
{
	while (!(in8(ports[1] + LINE_STATUS) & DATA_READY))
		__asm__ volatile("pause");
	return in8(ports[1] + DATA);
}

void kgdb_putc(uint8_t character)
{
	while (!(in8(ports[1] + LINE_STATUS) & TRANSMITTER_EMPTY))
		__asm__ volatile("pause");
	out8(ports[1] + DATA, character);
}
