/*
 * The debugger's own way to an NE2000. It shares the card with the kernel's driver, card.c: start notes the card's
 * state, leave puts it back, and in between the card is the debugger's, with a ring of its own in the card's memory,
 * so that frames that the kernel hasn't read yet stay in the kernel's.
 */
#include "ipkdb.h"
#include "ne.h"

#define MULTICAST 8
#define LOOKS 64 /* turns of an empty loop between two looks at the card, each of which stops the emulator */

static struct ne {
	uint16_t base;
	uint8_t next;	/* the page of the ring that is read next */
	bool more;	/* there may be a frame, though the card doesn't say so again */
	bool silent;	/* it doesn't say when it has stopped, so it needn't be waited for */
	/* The kernel's state, as start found it. */
	struct {
		uint8_t command, ring, end, boundary, current;
		uint8_t address[ETHER_ADDRESS], multicast[MULTICAST];
	} kernel;
} ne;

static void note_state(struct ne *card)
{
	uint16_t base = card->base;

	card->kernel.command = in8(base + NE_COMMAND);
	/* What the kernel is sending ends as usual. */
	for (unsigned int tries = 0; tries < NE_PATIENCE && in8(base + NE_COMMAND) & NE_SEND; tries++)
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

/* An empty ring, and a card that fills it. The card may never have been set up before. */
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
 * What can be read back from the chip was; the rest its driver knows. Two things can't be put back, and a driver must
 * bear them: bits of the status register can't be set, so that the ring must be looked into whatever they say; and a
 * copy from the card's memory that was under way is lost, since the chip doesn't say how much of it is left.
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
	/* The kernel may have been stopped between choosing a page of registers and using it. */
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
	/* Before the look into the ring: what comes in between says so again. */
	out8(card->base + NE_STATUS, NE_RECEIVED | NE_RECEIVED_BADLY);
	ne_select(card->base, NE_PAGE1);
	uint8_t current = in8(card->base + NE_CURRENT);

	ne_select(card->base, NE_PAGE0);
	card->more = current != card->next;
	return card->more;
}

/* Takes the frame at card->next; 0 for one that is no good. */
static int take(struct ipkdb_if *kip, uint8_t *to)
{
	struct ne *card = kip->port;
	struct ne_header header;
	unsigned int at = card->next * NE_PAGE_SIZE;

	ne_read(card->base, at, &header, sizeof(header));
	unsigned int length = header.length - NE_CHECKSUM;

	if (header.next < NE_DEBUGGER_RING || header.next >= NE_DEBUGGER_END || header.length < NE_CHECKSUM) {
		/* The card and this have lost each other. */
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
	for (unsigned int tries = 0; tries < NE_PATIENCE && in8(base + NE_COMMAND) & NE_SEND; tries++)
		continue;
}

int ne_ipkdb_attach(struct ipkdb_if *kip, unsigned int slot)
{
	ne.base = ne_find(slot);
	if (ne.base == 0)
		return -1;
	/* The card's own address is in the memory at 0, a byte in each word; to read it takes a card that runs. */
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
