/*
 * The registers of the NE2000, a National Semiconductor DP8390 with 16 KiB of memory, and the RTL8029's PCI registers.
 * The functions are inline, so that the kernel's driver and the debugger's share no code in which a breakpoint may be.
 */
#ifndef NE_H
#define NE_H

#include <stdbool.h>

#include "platform.h"

#define NE_PCI_ID 0x802910ec /* RealTek's RTL8029, QEMU's ne2k_pci */
#define NE_PCI_PORTS 0x10
#define NE_PCI_MASK 0xfffffffcu

#define NE_COMMAND 0x00
#define NE_DATA_PORT 0x10

/* Page 0. */
#define NE_RING_START 0x01
#define NE_RING_END 0x02
#define NE_BOUNDARY 0x03
#define NE_TRANSMIT_PAGE 0x04
#define NE_TRANSMIT_LENGTH 0x05
#define NE_STATUS 0x07
#define NE_REMOTE_ADDRESS 0x08
#define NE_REMOTE_LENGTH 0x0a
#define NE_RECEIVE 0x0c
#define NE_TRANSMIT 0x0d
#define NE_DATA 0x0e
#define NE_INTERRUPTS 0x0f

/* Page 1. */
#define NE_ADDRESS 0x01
#define NE_CURRENT 0x07
#define NE_MULTICAST 0x08

/* The command register. */
#define NE_STOP 0x01
#define NE_START 0x02
#define NE_SEND 0x04
#define NE_REMOTE_READ 0x08
#define NE_REMOTE_WRITE 0x10
#define NE_REMOTE_NONE 0x20
#define NE_PAGE0 0x00
#define NE_PAGE1 0x40
#define NE_PAGE2 0x80
#define NE_PAGES 0xc0

/* The status register; writing a bit clears it. */
#define NE_RECEIVED 0x01
#define NE_RECEIVED_BADLY 0x04
#define NE_OVERFLOW 0x10
#define NE_REMOTE_DONE 0x40
#define NE_IS_RESET 0x80

#define NE_WORDS 0x49		/* data: 16 bits at a time, a FIFO of 8 bytes */
#define NE_BROADCAST 0x04	/* receive: broadcast frames too */
#define NE_MONITOR 0x20		/* receive: no frames */
#define NE_LOOPBACK 0x02	/* transmit: send no frames */

#define NE_PAGE_SIZE 256u
/*
 * The card's memory in pages: the lower half is the kernel's, the upper the debugger's, each with a place for one frame
 * to send before its ring.
 */
#define NE_KERNEL_SEND 0x40
#define NE_KERNEL_RING 0x46
#define NE_KERNEL_END 0x60
#define NE_DEBUGGER_SEND 0x60
#define NE_DEBUGGER_RING 0x66
#define NE_DEBUGGER_END 0x80

/* The header before a received frame. */
struct ne_header {
	uint8_t status;
	uint8_t next;	 /* the page of the next frame */
	uint16_t length; /* includes the checksum's four bytes */
};
#define NE_GOOD 0x01 /* status */
#define NE_CHECKSUM 4

#define NE_TRIES 10000 /* reads of a register before a wait ends */

static inline void ne_select(uint16_t base, uint8_t page)
{
	out8(base + NE_COMMAND, (uint8_t)(page | NE_REMOTE_NONE | NE_START));
}

/* Stops the card; whether it reports that within a frame's time. QEMU's stops at once and doesn't report it. */
static inline bool ne_stop(uint16_t base)
{
	out8(base + NE_COMMAND, NE_PAGE0 | NE_REMOTE_NONE | NE_STOP);
	for (unsigned int tries = 0; tries < NE_TRIES; tries++)
		if (in8(base + NE_STATUS) & NE_IS_RESET)
			return true;
	return false;
}

static inline void ne_remote(uint16_t base, unsigned int address, unsigned int length, uint8_t command)
{
	out8(base + NE_STATUS, NE_REMOTE_DONE);
	out8(base + NE_REMOTE_ADDRESS, (uint8_t)address);
	out8(base + NE_REMOTE_ADDRESS + 1, (uint8_t)(address >> 8));
	out8(base + NE_REMOTE_LENGTH, (uint8_t)length);
	out8(base + NE_REMOTE_LENGTH + 1, (uint8_t)(length >> 8));
	out8(base + NE_COMMAND, (uint8_t)(NE_PAGE0 | NE_START | command));
}

static inline void ne_remote_end(uint16_t base)
{
	for (unsigned int tries = 0; tries < NE_TRIES && !(in8(base + NE_STATUS) & NE_REMOTE_DONE); tries++)
		continue;
	out8(base + NE_STATUS, NE_REMOTE_DONE);
}

/* Copies from the card's memory; for an odd length, it copies one byte more. */
static inline void ne_read(uint16_t base, unsigned int address, void *to, unsigned int length)
{
	unsigned int words = (length + 1) / 2;

	ne_remote(base, address, 2 * words, NE_REMOTE_READ);
	__asm__ volatile("rep insw" : "+D"(to), "+c"(words) : "d"((uint16_t)(base + NE_DATA_PORT)) : "memory");
	ne_remote_end(base);
}

/* Copies to the card's memory; for an odd length, it copies one byte more. */
static inline void ne_write(uint16_t base, unsigned int address, const void *from, unsigned int length)
{
	unsigned int words = (length + 1) / 2;

	ne_remote(base, address, 2 * words, NE_REMOTE_WRITE);
	__asm__ volatile("rep outsw" : "+S"(from), "+c"(words) : "d"((uint16_t)(base + NE_DATA_PORT)) : "memory");
	ne_remote_end(base);
}

/* Sets a stopped card's ring and addresses. `address` and `multicast` have 6 and 8 bytes. */
static inline void ne_set(uint16_t base, uint8_t ring, uint8_t end, uint8_t boundary, uint8_t current,
			  const uint8_t *address, const uint8_t *multicast)
{
	out8(base + NE_RING_START, ring);
	out8(base + NE_RING_END, end);
	out8(base + NE_BOUNDARY, boundary);
	out8(base + NE_COMMAND, NE_PAGE1 | NE_REMOTE_NONE | NE_STOP);
	for (unsigned int at = 0; at < 6; at++)
		out8((uint16_t)(base + NE_ADDRESS + at), address[at]);
	out8(base + NE_CURRENT, current);
	for (unsigned int at = 0; at < 8; at++)
		out8((uint16_t)(base + NE_MULTICAST + at), multicast[at]);
	out8(base + NE_COMMAND, NE_PAGE0 | NE_REMOTE_NONE | NE_STOP);
}

/* The card's I/O base if it is in this slot of PCI bus 0; else 0. */
static inline uint16_t ne_find(unsigned int slot)
{
	return pci_read(0, slot, 0, PCI_ID) == NE_PCI_ID ? (uint16_t)(pci_read(0, slot, 0, NE_PCI_PORTS) & NE_PCI_MASK) : 0;
}

#endif
