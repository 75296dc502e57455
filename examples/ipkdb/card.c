/*
 * The kernel's driver of the card that the debugger uses too. It receives and counts frames. It serves to check that
 * the debugger restores the card's state, with the frames that were in it.
 */
#include "ipkdb.h"
#include "ne.h"

struct ne_registers ne_kernel;
volatile unsigned long ne_frames;

static uint16_t base;
static uint8_t next;
static uint8_t address[ETHER_ADDRESS];

/* Empties the ring and starts the card. */
static void begin(void)
{
	static const uint8_t all[] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

	(void)ne_stop(base);
	next = NE_KERNEL_RING + 1;
	out8(base + NE_DATA, ne_kernel.data);
	ne_set(base, NE_KERNEL_RING, NE_KERNEL_END, NE_KERNEL_RING, next, address, all);
	out8(base + NE_TRANSMIT_PAGE, ne_kernel.transmit_page);
	out8(base + NE_INTERRUPTS, ne_kernel.interrupts);
	out8(base + NE_STATUS, 0xff);
	ne_select(base, NE_PAGE0);
	out8(base + NE_TRANSMIT, ne_kernel.transmit);
	out8(base + NE_RECEIVE, ne_kernel.receive);
}

void card_init(unsigned int slot)
{
	uint16_t words[ETHER_ADDRESS];

	base = ne_find(slot);
	if (base == 0)
		return;
	ne_kernel = (struct ne_registers){true, NE_KERNEL_SEND, NE_BROADCAST, 0, NE_WORDS, 0};
	(void)ne_stop(base);
	out8(base + NE_DATA, ne_kernel.data);
	ne_read(base, 0, words, sizeof(words));
	for (unsigned int at = 0; at < ETHER_ADDRESS; at++)
		address[at] = (uint8_t)words[at];
	begin();
	printf("ne0 at pci0 dev %u function 0: RealTek 8029 Ethernet, address ", slot);
	printf("%02x:%02x:%02x:%02x:%02x:%02x\n", address[0], address[1], address[2], address[3], address[4], address[5]);
}

/* Called for every tick of the clock. */
void card_poll(void)
{
	if (!ne_kernel.used)
		return;
	for (;;) {
		struct ne_header header;

		ne_select(base, NE_PAGE1);
		uint8_t current = in8(base + NE_CURRENT);

		ne_select(base, NE_PAGE0);
		if (next == current)
			return;
		ne_read(base, next * NE_PAGE_SIZE, &header, sizeof(header));
		if (header.next < NE_KERNEL_RING || header.next >= NE_KERNEL_END) {
			/* This happens if the debugger was entered during the copy above. */
			printf("ne0: the ring makes no sense, starting anew\n");
			begin();
			return;
		}
		ne_frames++;
		next = header.next;
		out8(base + NE_BOUNDARY, next == NE_KERNEL_RING ? NE_KERNEL_END - 1 : next - 1);
	}
}
