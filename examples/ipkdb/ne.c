/*
 * The debugger's driver for an NE2000. It shares the card with the kernel's driver, card.c: start saves the card's
 * state, and leave restores it. In between, the debugger uses its own ring in the card's memory, so that frames that
 * the kernel hasn't read yet stay in the kernel's ring.
 */
#include "ipkdb.h"
#include "ne.h"

#define MULTICAST 8
#define LOOKS 64 /* iterations of an empty loop between two polls of the card: in an emulator, each poll is slow */

static struct ne {
	uint16_t base;
	uint8_t next;	/* the page of the ring to read next */
	bool more;	/* there may be another frame, which the status register doesn't show again */
	bool silent;	/* the card doesn't report that it has stopped, so nothing waits for that */
	/* The kernel's state, saved by start. */
	struct {
		uint8_t command, ring, end, boundary, current;
		uint8_t address[ETHER_ADDRESS], multicast[MULTICAST];
	} kernel;
} ne;

static void note_state(struct ne *card)
{
	uint16_t base = card->base;

	card->kernel.command = in8(base + NE_COMMAND);
	/* Wait until the frame that the kernel is sending has been sent. */
	for (unsigned int tries = 0; tries < NE_TRIES && in8(base + NE_COMMAND) & NE_SEND; tries++)
		continue;
	ne_select(base, NE_PAGE0);
	card->kernel.boundary = in8(base + NE_BOUNDARY);
	ne_select(base, NE_PAGE1);
	card->kernel.current = in8(base + NE_CURRENT);
	for (unsigned int at = 0; at < ETHER_ADDRESS; at++)
		card->kernel.address[at] = in8((uint16_t)(base + NE_ADDRESS + at));
	for (unsigned int at = 0; at < MULTICAST; at++)
		card->kernel.multicast[at] = in8((uint16_t)(base + NE_MULTICAST + at));
	ne_select(base, NE_PAGE2);
	card->kernel.ring = in8(base + NE_RING_START);
	card->kernel.end = in8(base + NE_RING_END);
	ne_select(base, NE_PAGE0);
}

static void stop(const struct ne *card)
{
	if (card->silent)
		out8(card->base + NE_COMMAND, NE_PAGE0 | NE_REMOTE_NONE | NE_STOP);
	else
		(void)ne_stop(card->base);
}

/* Empties the ring and starts the card, which may never have been set up before. */
static void begin(struct ipkdb_if *kip)
{
	static const uint8_t none[MULTICAST];
	struct ne *card = kip->port;
	uint16_t base = card->base;

	stop(card);
	out8(base + NE_DATA, NE_WORDS);
	out8(base + NE_REMOTE_LENGTH, 0);
	out8(base + NE_REMOTE_LENGTH + 1, 0);
	out8(base + NE_RECEIVE, NE_MONITOR);
	out8(base + NE_TRANSMIT, NE_LOOPBACK);
	out8(base + NE_INTERRUPTS, 0);
	ne_set(base, NE_DEBUGGER_RING, NE_DEBUGGER_END, NE_DEBUGGER_RING, NE_DEBUGGER_RING + 1, kip->myenetaddr, none);
	out8(base + NE_STATUS, 0xff);
	ne_select(base, NE_PAGE0);
	out8(base + NE_TRANSMIT, 0);
	out8(base + NE_RECEIVE, NE_BROADCAST);
	card->next = NE_DEBUGGER_RING + 1;
	card->more = false;
}

static void start(struct ipkdb_if *kip)
{
	note_state(kip->port);
	begin(kip);
}

/*
 * start has read the registers that the chip can return; ne_kernel has the others. Two things can't be restored, and a
 * driver must cope: status bits can't be set, so the driver must check the ring whatever they say; and a
 * copy from the card's memory that was interrupted is lost, since the chip doesn't return the remaining length.
 */
static void leave(struct ipkdb_if *kip)
{
	struct ne *card = kip->port;
	uint16_t base = card->base;

	stop(card);
	ne_set(base, card->kernel.ring, card->kernel.end, card->kernel.boundary, card->kernel.current,
	       card->kernel.address, card->kernel.multicast);
	out8(base + NE_STATUS, 0xff);
	if (!ne_kernel.used)
		return;
	out8(base + NE_TRANSMIT_PAGE, ne_kernel.transmit_page);
	out8(base + NE_DATA, ne_kernel.data);
	out8(base + NE_INTERRUPTS, ne_kernel.interrupts);
	if (card->kernel.command & NE_START)
		ne_select(base, NE_PAGE0);
	out8(base + NE_TRANSMIT, ne_kernel.transmit);
	out8(base + NE_RECEIVE, ne_kernel.receive);
	/* The kernel may have been stopped between the selection of a page of registers and its use. */
	out8(base + NE_COMMAND, (uint8_t)((card->kernel.command & NE_PAGES) | NE_REMOTE_NONE |
					  (card->kernel.command & (NE_START | NE_STOP))));
}

/* Whether there is a frame in the ring. */
static bool waiting(struct ipkdb_if *kip)
{
	struct ne *card = kip->port;
	uint8_t status = in8(card->base + NE_STATUS);

	if (status & NE_OVERFLOW) {
		begin(kip);
		return false;
	}
	if (!card->more && !(status & (NE_RECEIVED | NE_RECEIVED_BADLY)))
		return false;
	/* Clear the bits before reading the ring: a frame that arrives in between sets them again. */
	out8(card->base + NE_STATUS, NE_RECEIVED | NE_RECEIVED_BADLY);
	ne_select(card->base, NE_PAGE1);
	uint8_t current = in8(card->base + NE_CURRENT);

	ne_select(card->base, NE_PAGE0);
	card->more = current != card->next;
	return card->more;
}

/* Copies the frame at card->next, and returns its length; 0 for a bad frame. */
static int take(struct ipkdb_if *kip, uint8_t *to)
{
	struct ne *card = kip->port;
	struct ne_header header;
	unsigned int at = card->next * NE_PAGE_SIZE;

	ne_read(card->base, at, &header, sizeof(header));
	unsigned int length = header.length - NE_CHECKSUM;

	if (header.next < NE_DEBUGGER_RING || header.next >= NE_DEBUGGER_END || header.length < NE_CHECKSUM) {
		/* The card and this driver disagree about the ring. */
		begin(kip);
		return 0;
	}
	bool good = header.status & NE_GOOD && length <= ETHER_MOST;

	if (good) {
		unsigned int first = NE_DEBUGGER_END * NE_PAGE_SIZE - at - sizeof(header);

		first = length < first ? length : first;
		ne_read(card->base, at + sizeof(header), to, first);
		if (first < length)
			ne_read(card->base, NE_DEBUGGER_RING * NE_PAGE_SIZE, to + first, length - first);
	}
	card->next = header.next;
	out8(card->base + NE_BOUNDARY, header.next == NE_DEBUGGER_RING ? NE_DEBUGGER_END - 1 : header.next - 1);
	return good ? (int)length : 0;
}

static int receive(struct ipkdb_if *kip, uint8_t *to, bool poll)
{
	for (;;) {
		int length = waiting(kip) ? take(kip, to) : 0;

		if (length > 0 || poll)
			return length;
		for (unsigned int turn = 0; turn < LOOKS; turn++)
			__asm__ volatile("");
	}
}

static void send(struct ipkdb_if *kip, const uint8_t *frame, unsigned int length)
{
	uint16_t base = ((struct ne *)kip->port)->base;

	ne_write(base, NE_DEBUGGER_SEND * NE_PAGE_SIZE, frame, length);
	out8(base + NE_TRANSMIT_PAGE, NE_DEBUGGER_SEND);
	out8(base + NE_TRANSMIT_LENGTH, (uint8_t)length);
	out8(base + NE_TRANSMIT_LENGTH + 1, (uint8_t)(length >> 8));
	out8(base + NE_COMMAND, NE_PAGE0 | NE_REMOTE_NONE | NE_START | NE_SEND);
	for (unsigned int tries = 0; tries < NE_TRIES && in8(base + NE_COMMAND) & NE_SEND; tries++)
		continue;
}

int ne_ipkdb_attach(struct ipkdb_if *kip, unsigned int slot)
{
	ne.base = ne_find(slot);
	if (ne.base == 0)
		return -1;
	/* The card's address is in its memory at 0, a byte in each word. Only a running card can be read. */
	uint16_t words[ETHER_ADDRESS];

	note_state(&ne);
	ne.silent = !ne_stop(ne.base);
	out8(ne.base + NE_DATA, NE_WORDS);
	ne_read(ne.base, 0, words, sizeof(words));
	for (unsigned int at = 0; at < ETHER_ADDRESS; at++)
		kip->myenetaddr[at] = (uint8_t)words[at];
	kip->port = &ne;
	leave(kip);
	kip->name = "ne";
	kip->start = start;
	kip->leave = leave;
	kip->receive = receive;
	kip->send = send;
	kip->flags |= IPKDB_MYHW;
	return 0;
}
