/* The interfaces of the examples' start-up code and drivers. */
#ifndef PLATFORM_H
#define PLATFORM_H

#include <stdint.h>

/* Offsets in the configuration space of a PCI function. */
#define PCI_ID 0x00
#define PCI_CLASS 0x08
#define PCI_HEADER_TYPE 0x0c
#define PCI_BUS_NUMBERS 0x18

static inline void out8(uint16_t port, uint8_t value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
	uint8_t value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static inline void out32(uint16_t port, uint32_t value)
{
	__asm__ volatile("outl %0, %1" : : "a"(value), "Nd"(port));
}

static inline uint32_t in32(uint16_t port)
{
	uint32_t value;

	__asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Halts with interrupts off, for ever. A debugger can still stop the machine here. */
static inline void __attribute__((noreturn)) halt(void)
{
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* traps.c: makes every exception and interrupt call trap(), see trap.h. boot.S calls it. */
void traps_init(void);

/* serial.c: the first serial port, 115200 8N1. A line feed is sent as carriage return and line feed. */
void serial_init(void);
void serial_character(char character);
void serial_string(const char *string);

/* vga.c: the text screen. display is the I/O address of its controller, which moves the cursor, or 0. */
void vga_init(uint16_t display);
void vga_character(char character);

/* output.c: the console: the screen if there is one, else the serial port; before console_init(), the serial port. */
void console_init(void);
void console_character(char character);
void console_string(const char *string);
void console_bytes(const char *bytes, uint64_t count);
void console_hex(uint64_t value, unsigned int digits);
void console_decimal(unsigned long value);

/*
 * pci.c: reads a 32-bit word of a function's configuration space; offset is in bytes, a multiple of 4.
 * An absent function reads as 0xffffffff.
 */
uint32_t pci_read(unsigned int bus, unsigned int device, unsigned int function, unsigned int offset);

/*
 * Called for a function that a walk finds. id is the first word of its configuration space, that is
 * device << 16 | vendor: 0x100e8086 is the 82540EM that QEMU calls e1000.
 */
typedef void pci_visitor(unsigned int bus, unsigned int device, unsigned int function, uint32_t id);

/*
 * Walks bus and, through bridges, every bus below it. Calls found for each function, and for a bridge before the
 * functions behind it. Returns the number of functions.
 */
unsigned int pci_walk(unsigned int bus, pci_visitor *found);

#endif
