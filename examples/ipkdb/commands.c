/*
 * The debugger: its session with the host, and the commands. docs/commands/ipkdb.md has a table of the protocol.
 *
 * The kernel never sends a reply again on its own. If the host sends anything but the expected request, the kernel
 * sends the last reply again. So only the host needs time-outs.
 */
#include "ipkdb.h"

#define IPKDB_PORT 1138
#define HEADER 6  /* number and length */
#define LARGEST 512 /* data of a request or reply, the size of NetBSD's buffers; NetBSD doesn't check the length */
#define IDENTITY 4
#define WORD 4

static struct ipkdb_if interface;
bool ipkdb_panicking;

static struct {
	bool connected;
	struct peer host;
	uint32_t identity; /* of the last open request; 0: none yet */
	uint32_t sequence; /* of the expected request */
	uint8_t reply[HEADER + LARGEST + MAC_SIZE];
	size_t length; /* of the last reply; 0: none yet */
} session;

static uint8_t request[LARGEST];

void ipkdb_init(const char *key, size_t length)
{
	ipkdbinit();
	if (ipkdbif_init(&interface) != 0) {
		printf("IPKDB: No interface found!\n");
	} else if (length < KEY_LEAST) {
		printf("IPKDBKEY must be at least %d bytes long!\n", KEY_LEAST);
		interface.flags &= ~IPKDB_MYHW;
	} else {
		hmac_key((const uint8_t *)key, length);
	}
}

void ipkdb_connect(void)
{
	printf("waiting for remote debugger\n");
	ipkdb_trap();
}

void ipkdb_panic(void)
{
	ipkdb_panicking = true;
	ipkdb_trap();
}

static void repeat(void)
{
	if (session.connected && session.length > 0)
		inet_send(&interface, IPKDB_PORT, &session.host, session.reply, session.length);
}

/* Sends `length` bytes of data, which may already be at session.reply + HEADER. */
static void reply(const void *data, size_t length)
{
	put32(session.reply, session.sequence++);
	put16(session.reply + 4, (unsigned int)length);
	if (data != session.reply + HEADER)
		ipkdbcopy(data, session.reply + HEADER, length);
	hmac(session.reply, HEADER + length, session.reply + HEADER + length);
	session.length = HEADER + length + MAC_SIZE;
	repeat();
}

static void reply_text(const char *text)
{
	size_t length = 0;

	while (text[length])
		length++;
	reply(text, length);
}

/* The length of the data of a complete datagram with a correct MAC; else 0. */
static size_t authentic(const uint8_t *datagram, size_t size)
{
	uint8_t expected[MAC_SIZE];

	if (size < HEADER + MAC_SIZE)
		return 0;
	size_t length = get16(datagram + 4);

	if (length > LARGEST || HEADER + length + MAC_SIZE > size)
		return 0;
	hmac(datagram, HEADER + length, expected);
	return ipkdbcmp(expected, datagram + HEADER + length, MAC_SIZE) == 0 ? length : 0;
}

/* Begins a new session if the datagram asks for one; returns whether it does. */
static bool opened(const uint8_t *datagram, size_t size, const struct peer *from)
{
	const uint8_t *data = datagram + HEADER;

	if (size <= HEADER || get32(datagram) != 0 || data[0] != 'O')
		return false;
	size_t length = authentic(datagram, size);

	/* The same identity means that the host has repeated its request; the last reply is sent again. */
	if (length < 1 + IDENTITY || get32(data + 1) == session.identity)
		return false;
	session.connected = true;
	ipkdbcopy(from, &session.host, sizeof(session.host));
	session.identity = get32(data + 1);
	session.sequence = 0;
	session.length = 0;
	printf("debugged by ");
	for (size_t at = 1 + IDENTITY; at < length; at++)
		printf("%c", data[at] >= ' ' && data[at] < 0x7f ? data[at] : '?');
	printf(" (%u.%u.%u.%u)\n", from->inetaddr[0], from->inetaddr[1], from->inetaddr[2], from->inetaddr[3]);
	return true;
}

/* Waits for the expected request, and puts its data into `request`. Returns their length; 0 if a key ended the wait. */
static size_t next_request(void)
{
	const uint8_t *datagram;
	struct peer from;

	for (;;) {
		size_t size = inet_receive(&interface, IPKDB_PORT, &datagram, &from, ipkdb_panicking);

		if (size == 0) {
			if (ipkdb_panicking && ipkdb_poll())
				return 0;
			continue;
		}
		if (!opened(datagram, size, &from)) {
			if (!session.connected || ipkdbcmp(from.inetaddr, session.host.inetaddr, INET_ADDRESS) != 0)
				continue;
			if (size <= HEADER || get32(datagram) != session.sequence || datagram[HEADER] < 'A' ||
			    datagram[HEADER] > 'Z' || authentic(datagram, size) == 0) {
				repeat();
				continue;
			}
		}
		ipkdb_panicking = false;
		size_t length = get16(datagram + 4);

		ipkdbcopy(datagram + HEADER, request, length);
		return length;
	}
}

static void send_memory(const uint8_t *address, size_t length)
{
	uint8_t *to = session.reply + HEADER;

	if (length >= LARGEST) {
		reply_text("etoo much for a reply");
		return;
	}
	*to++ = 'p';
	for (size_t at = 0; at < length; at++)
		*to++ = (uint8_t)ipkdbfbyte(address + at);
	reply(session.reply + HEADER, length + 1);
}

static void set_memory(uint8_t *address, const uint8_t *data, size_t length)
{
	for (size_t at = 0; at < length; at++)
		ipkdbsbyte(address + at, data[at]);
	reply_text("ok");
}

/* Executes a request after which the kernel stays stopped. */
static void carry_out(size_t length)
{
	const uint8_t *words = request + 1, *data = words + 2 * WORD;
	bool ranged = length >= 1 + 2 * WORD;

	switch (request[0]) {
	case 'O':
		reply_text("s");
		break;
	case 'R':
		send_memory((const uint8_t *)ipkdbregs, sizeof(ipkdbregs));
		break;
	case 'W':
		if (length == 1 + sizeof(ipkdbregs))
			set_memory((uint8_t *)ipkdbregs, words, sizeof(ipkdbregs));
		else
			reply_text("einvalid register size");
		break;
	case 'M':
		if (ranged)
			send_memory((const uint8_t *)(uintptr_t)get32(words), get32(words + WORD));
		else
			reply_text("einvalid peek format");
		break;
	case 'N':
		if (ranged && length - 1 - 2 * WORD >= get32(words + WORD))
			set_memory((uint8_t *)(uintptr_t)get32(words), data, get32(words + WORD));
		else
			reply_text("einvalid poke format");
		break;
	default:
		reply_text("eunknown command");
	}
}

/* Serves the host until it continues the kernel. Returns how: an IPKDB_CMD_ value. */
static int serve(void)
{
	reply_text("s");
	for (;;) {
		size_t length = next_request();

		if (length == 0)
			return IPKDB_CMD_RUN;
		switch (request[0]) {
		case 'S':
			return IPKDB_CMD_STEP;
		case 'C':
			return IPKDB_CMD_RUN;
		case 'X':
			reply_text("ok");
			return IPKDB_CMD_EXIT;
		default:
			carry_out(length);
		}
	}
}

int ipkdbcmds(void)
{
	int result = IPKDB_CMD_RUN;

	if (!(interface.flags & IPKDB_MYHW))
		return IPKDB_CMD_EXIT;
	interface.start(&interface);
	bool asked = !(interface.flags & IPKDB_MYIP);

	if (inet_bootp(&interface)) {
		const uint8_t *mine = interface.myinetaddr;

		if (asked)
			printf("My IP address is %u.%u.%u.%u\n", mine[0], mine[1], mine[2], mine[3]);
		result = serve();
	}
	interface.leave(&interface);
	return result;
}
