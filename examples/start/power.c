#include "small.h"

/*
 * ACPI's fixed registers of two chip sets: QEMU's machine pc has the first, q35 the second. The firmware has set
 * their base in the I/O space.
 */
#define PIIX4_POWER 0x71138086
#define ICH9_LPC 0x29188086
#define REGISTERS_BASE 0x40 /* offset in the configuration space of both */
#define REGISTERS_MASK 0xff80

#define STATUS 0
#define ENABLE 2
#define CONTROL 4
#define POWER_BUTTON 0x100
#define SOFT_OFF 0x2000 /* enter the sleep state of type 0, which is off */

#define RESET_CONTROL 0xcf9
#define RESET_HARD 0x06

#define DELAY_PORT 0x80 /* no device uses it; reading it takes a short time */

static uint16_t base; /* 0: none found */

static void out16(uint16_t port, uint16_t value)
{
	__asm__ volatile("outw %0, %1" : : "a"(value), "Nd"(port));
}

static uint16_t in16(uint16_t port)
{
	uint16_t value;

	__asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

/* Waits until the machine turns off or resets, which takes a moment. */
static void wait_for_it(void)
{
	for (unsigned int tries = 0; tries < 1000000; tries++)
		(void)in8(DELAY_PORT);
}

static void look(unsigned int bus, unsigned int device, unsigned int function, uint32_t id)
{
	if (id == PIIX4_POWER || id == ICH9_LPC)
		base = (uint16_t)(pci_read(bus, device, function, REGISTERS_BASE) & REGISTERS_MASK);
}

void power_init(void)
{
	(void)pci_walk(0, look);
	if (base)
		out16(base + ENABLE, POWER_BUTTON);
}

bool power_button_pressed(void)
{
	return base && in16(base + STATUS) & POWER_BUTTON;
}

void power_off(void)
{
	if (base)
		out16(base + CONTROL, SOFT_OFF);
	wait_for_it();
	printf("power: this machine can't be turned off from here\n");
	halt();
}

void reboot(void)
{
	out8(RESET_CONTROL, RESET_HARD);
	wait_for_it();
	printf("power: this machine can't be reset from here\n");
	halt();
}
