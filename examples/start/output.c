/*
 * Chooses the console as rumprun does: the BIOS's data area says whether there is a display and a serial port. If
 * there is a port and no display, the console is the port; otherwise it is the display's text screen.
 */
#include "platform.h"

#define BIOS_DATA_COM1 0x400    /* word: the first serial port's I/O address, 0 if there is none */
#define BIOS_DATA_DISPLAY 0x463 /* word: the display controller's I/O address, 0 if there is none */

static void (*console_put)(char character) = serial_character;

static uint16_t bios_word(uintptr_t address)
{
	/* Hide from the compiler that the address is a constant: it would warn of an access by a null pointer. */
	__asm__("" : "+r"(address));
	return *(const volatile uint16_t *)address;
}

void console_init(void)
{
	uint16_t display = bios_word(BIOS_DATA_DISPLAY);

	if (display == 0 && bios_word(BIOS_DATA_COM1) != 0) {
		serial_init();
		return;
	}
	vga_init(display);
	console_put = vga_character;
}

void console_character(char character)
{
	console_put(character);
}

void console_string(const char *string)
{
	while (*string)
		console_put(*string++);
}

void console_bytes(const char *bytes, uint64_t count)
{
	for (uint64_t index = 0; index < count; index++)
		console_put(bytes[index]);
}

void console_hex(uint64_t value, unsigned int digits)
{
	while (digits-- > 0)
		console_put("0123456789abcdef"[value >> (4 * digits) & 15]);
}

void console_decimal(unsigned long value)
{
	char digits[20];
	unsigned int count = 0;

	do {
		digits[count++] = (char)('0' + value % 10);
		value /= 10;
	} while (value > 0);
	while (count > 0)
		console_put(digits[--count]);
}
