#include "platform.h"

/* Configuration mechanism #1 of the PCI Local Bus Specification, chapter 3.2.2.3.2. */
#define CONFIG_ADDRESS 0xcf8
#define CONFIG_DATA 0xcfc
#define CONFIG_ENABLE 0x80000000u

#define DEVICES 32
#define FUNCTIONS 8
#define ABSENT 0xffff
#define MULTIFUNCTION 0x80
#define HEADER_BRIDGE 1

uint32_t pci_read(unsigned int bus, unsigned int device, unsigned int function, unsigned int offset)
{
	out32(CONFIG_ADDRESS, CONFIG_ENABLE | bus << 16 | device << 11 | function << 8 | offset);
	return in32(CONFIG_DATA);
}

static uint8_t header_type(unsigned int bus, unsigned int device, unsigned int function)
{
	return (uint8_t)(pci_read(bus, device, function, PCI_HEADER_TYPE) >> 16);
}

/* Returns the number of functions found: this one, and those behind it if it is a bridge. */
static unsigned int visit(unsigned int bus, unsigned int device, unsigned int function, pci_visitor *found)
{
	uint32_t id = pci_read(bus, device, function, PCI_ID);

	if ((id & 0xffff) == ABSENT)
		return 0;
	found(bus, device, function, id);
	if ((header_type(bus, device, function) & ~MULTIFUNCTION) != HEADER_BRIDGE)
		return 1;

	unsigned int secondary = pci_read(bus, device, function, PCI_BUS_NUMBERS) >> 8 & 0xff;

	/* A secondary bus has a higher number than its bridge's bus. A bridge that wasn't set up has 0: an endless loop. */
	return 1 + (secondary > bus ? pci_walk(secondary, found) : 0);
}

unsigned int pci_walk(unsigned int bus, pci_visitor *found)
{
	unsigned int count = 0;

	for (unsigned int device = 0; device < DEVICES; device++) {
		unsigned int functions = header_type(bus, device, 0) & MULTIFUNCTION ? FUNCTIONS : 1;

		/* An absent device reads as all ones, which looks like a device with several functions. */
		if ((pci_read(bus, device, 0, PCI_ID) & 0xffff) == ABSENT)
			continue;
		for (unsigned int function = 0; function < functions; function++)
			count += visit(bus, device, function, found);
	}
	return count;
}
