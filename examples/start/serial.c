#include "platform.h"

#define COM1 0x3f8
#define DATA (COM1 + 0)
#define INTERRUPT_ENABLE (COM1 + 1)
#define FIFO_CONTROL (COM1 + 2)
#define LINE_CONTROL (COM1 + 3)
#define MODEM_CONTROL (COM1 + 4)
#define LINE_STATUS (COM1 + 5)

#define DIVISOR_LATCH 0x80
#define EIGHT_BITS 0x03
#define FIFO_ON_AND_CLEAR 0x07
#define TERMINAL_READY 0x03
#define TRANSMITTER_EMPTY 0x20

void serial_init(void)
{
	out8(INTERRUPT_ENABLE, 0);
	out8(LINE_CONTROL, DIVISOR_LATCH);
	out8(DATA, 1); /* 115200 baud */
	out8(INTERRUPT_ENABLE, 0);
	out8(LINE_CONTROL, EIGHT_BITS);
	out8(FIFO_CONTROL, FIFO_ON_AND_CLEAR);
	out8(MODEM_CONTROL, TERMINAL_READY);
}

static void transmit(char character)
{
	/* Bounded, so that the program also ends on a machine without the port. */
	for (unsigned int tries = 0; tries < 1000000; tries++)
		if (in8(LINE_STATUS) & TRANSMITTER_EMPTY)
			break;
	out8(DATA, (uint8_t)character);
}

void serial_character(char character)
{
	if (character == '\n')
		transmit('\r');
	transmit(character);
}

void serial_string(const char *string)
{
	while (*string)
		serial_character(*string++);
}
