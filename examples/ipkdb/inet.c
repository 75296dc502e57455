/*
 * The Internet protocols that a debugger needs, by polling: Ethernet II (RFC 894), ARP requests (RFC 826), IPv4 with
 * fragments (RFC 791), UDP (RFC 768), and BOOTP's request and reply (RFC 951).
 */
#include "ipkdb.h"

#define TYPE_IP 0x0800
#define TYPE_ARP 0x0806

#define ARP_LENGTH 28
#define ARP_REQUEST 1
#define ARP_REPLY 2

#define IP_HEADER 20
#define IP_UDP 17
#define IP_TTL 255
#define IP_MORE 0x2000
#define IP_OFFSET 0x1fff /* in units of 8 bytes */
#define IP_UNIT 8u

#define UDP_HEADER 8

#define BOOTP_LENGTH 300
#define BOOTP_SERVER 67
#define BOOTP_CLIENT 68
#define BOOTP_REQUEST 1
#define BOOTP_REPLY 2
#define BOOTP_NUMBER 0x12345678
#define BOOTP_TRIES 500000 /* polls of the card before the next request */

#define LONGEST 2048 /* bytes of a fragmented datagram, with UDP's header; a multiple of 64 */

/* Frames. They begin at an offset of 2, so that the data after the Ethernet header are aligned. */
static uint8_t incoming_space[2 + ETHER_MOST + 6] __attribute__((aligned(4)));
static uint8_t outgoing_space[2 + ETHER_MOST] __attribute__((aligned(4)));
#define incoming (incoming_space + 2)
#define outgoing (outgoing_space + 2)

/* The datagram of which fragments were received last. Only one is kept. */
static struct {
	uint8_t key[10]; /* source, target and number */
	uint8_t data[LONGEST];
	uint8_t there[LONGEST / IP_UNIT]; /* 1 for each received unit */
	size_t length;			  /* 0 until the last fragment is received */
} whole;

static const uint8_t everybody[ETHER_ADDRESS] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

uint16_t get16(const uint8_t *from)
{
	return (uint16_t)(from[0] << 8 | from[1]);
}

uint32_t get32(const uint8_t *from)
{
	return (uint32_t)get16(from) << 16 | get16(from + 2);
}

void put16(uint8_t *to, unsigned int value)
{
	to[0] = (uint8_t)(value >> 8);
	to[1] = (uint8_t)value;
}

void put32(uint8_t *to, uint32_t value)
{
	put16(to, value >> 16);
	put16(to + 2, value);
}

/* Adds big-endian words (RFC 1071); the last byte of an odd length is a word's high byte. */
static uint32_t sum_of(uint32_t sum, const uint8_t *data, size_t length)
{
	for (; length > 1; length -= 2, data += 2)
		sum += get16(data);
	return length ? sum + (uint32_t)(*data << 8) : sum;
}

static uint16_t folded(uint32_t sum)
{
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)sum;
}

/* The sum for UDP's checksum over pseudo header, header and data. `addresses` are source and target. */
static uint16_t udp_sum(const uint8_t *addresses, const uint8_t *udp, size_t length)
{
	return folded(sum_of(sum_of(IP_UDP + (uint32_t)length, addresses, 2 * INET_ADDRESS), udp, length));
}

/* Answers a request for this card's address. */
static void answer_arp(struct ipkdb_if *kip, size_t length)
{
	uint8_t *arp = incoming + ETHER_HEADER;
	static const uint8_t wanted[] = {0, 1, 8, 0, ETHER_ADDRESS, INET_ADDRESS, 0, ARP_REQUEST};
	uint8_t *sender = arp + sizeof(wanted), *target = sender + ETHER_ADDRESS + INET_ADDRESS;

	if (length < ETHER_HEADER + ARP_LENGTH || ipkdbcmp(arp, wanted, sizeof(wanted)) != 0)
		return;
	if (!(kip->flags & IPKDB_MYIP) || ipkdbcmp(target + ETHER_ADDRESS, kip->myinetaddr, INET_ADDRESS) != 0)
		return;
	put16(arp + 6, ARP_REPLY);
	ipkdbcopy(sender, target, ETHER_ADDRESS + INET_ADDRESS);
	ipkdbcopy(kip->myenetaddr, sender, ETHER_ADDRESS);
	ipkdbcopy(kip->myinetaddr, sender + ETHER_ADDRESS, INET_ADDRESS);
	ipkdbcopy(target, incoming, ETHER_ADDRESS);
	ipkdbcopy(kip->myenetaddr, incoming + ETHER_ADDRESS, ETHER_ADDRESS);
	ipkdbzero(arp + ARP_LENGTH, ETHER_LEAST - ETHER_HEADER - ARP_LENGTH);
	kip->send(kip, incoming, ETHER_LEAST);
}

/* Adds a fragment of *length bytes. Returns the datagram when it is complete, with its length in *length; else NULL. */
static const uint8_t *assemble(const uint8_t *ip, const uint8_t *data, size_t *length)
{
	unsigned int place = get16(ip + 6);
	size_t offset = (place & IP_OFFSET) * IP_UNIT;
	uint8_t key[sizeof(whole.key)];

	ipkdbcopy(ip + 12, key, 2 * INET_ADDRESS);
	ipkdbcopy(ip + 4, key + 2 * INET_ADDRESS, 2);
	if (ipkdbcmp(key, whole.key, sizeof(key)) != 0) {
		ipkdbzero(&whole, sizeof(whole));
		ipkdbcopy(key, whole.key, sizeof(key));
	}
	if (offset + *length > sizeof(whole.data) || (place & IP_MORE && *length % IP_UNIT))
		return NULL;
	ipkdbcopy(data, whole.data + offset, *length);
	for (size_t at = offset; at < offset + *length; at += IP_UNIT)
		whole.there[at / IP_UNIT] = 1;
	if (!(place & IP_MORE))
		whole.length = offset + *length;
	if (whole.length == 0)
		return NULL;
	for (size_t at = 0; at < whole.length; at += IP_UNIT)
		if (!whole.there[at / IP_UNIT])
			return NULL;
	*length = whole.length;
	/* A later datagram with the same number is a new one. */
	ipkdbzero(whole.there, sizeof(whole.there));
	whole.length = 0;
	return whole.data;
}

/* The UDP datagram, from its header on, that a frame contains or completes, with its length in *length; else NULL. */
static const uint8_t *udp_of(const uint8_t *ip, size_t room, size_t *length)
{
	if (room < IP_HEADER || ip[0] >> 4 != 4)
		return NULL;
	size_t header = (ip[0] & 15u) * 4, total = get16(ip + 2);

	if (header < IP_HEADER || total < header || total > room || folded(sum_of(0, ip, header)) != 0xffff)
		return NULL;
	if (ip[9] != IP_UDP)
		return NULL;
	const uint8_t *udp = ip + header;

	*length = total - header;
	if (get16(ip + 6) & (IP_MORE | IP_OFFSET))
		udp = assemble(ip, udp, length);
	if (udp == NULL || *length < UDP_HEADER || get16(udp + 4) != *length)
		return NULL;
	/* A checksum of 0 means that there is none. */
	if (get16(udp + 6) && udp_sum(ip + 12, udp, *length) != 0xffff)
		return NULL;
	return udp;
}

/* Receives a frame. Returns its UDP datagram, for any address, and sets *ip to its IP header; NULL if it has none. */
static const uint8_t *look(struct ipkdb_if *kip, const uint8_t **ip, size_t *length, bool poll)
{
	size_t got = (size_t)kip->receive(kip, incoming, poll);

	if (got < ETHER_HEADER)
		return NULL;
	*ip = incoming + ETHER_HEADER;
	switch (get16(incoming + 2 * ETHER_ADDRESS)) {
	case TYPE_ARP:
		answer_arp(kip, got);
		return NULL;
	case TYPE_IP:
		return udp_of(*ip, got - ETHER_HEADER, length);
	default:
		return NULL;
	}
}

size_t inet_receive(struct ipkdb_if *kip, uint16_t port, const uint8_t **data, struct peer *from, bool poll)
{
	const uint8_t *ip, *udp;
	size_t length;

	do {
		udp = look(kip, &ip, &length, poll);
		if (udp && get16(udp + 2) == port && ipkdbcmp(ip + 16, kip->myinetaddr, INET_ADDRESS) == 0) {
			ipkdbcopy(incoming + ETHER_ADDRESS, from->enetaddr, ETHER_ADDRESS);
			ipkdbcopy(ip + 12, from->inetaddr, INET_ADDRESS);
			from->port = get16(udp);
			*data = udp + UDP_HEADER;
			return length - UDP_HEADER;
		}
	} while (!poll);
	return 0;
}

void inet_send(struct ipkdb_if *kip, uint16_t port, const struct peer *to, const uint8_t *data, size_t length)
{
	static uint16_t number;
	uint8_t *ip = outgoing + ETHER_HEADER, *udp = ip + IP_HEADER;
	size_t frame = ETHER_HEADER + IP_HEADER + UDP_HEADER + length;

	if (frame > ETHER_MOST)
		return;
	ipkdbzero(outgoing, frame < ETHER_LEAST ? ETHER_LEAST : frame);
	ipkdbcopy(to->enetaddr, outgoing, ETHER_ADDRESS);
	ipkdbcopy(kip->myenetaddr, outgoing + ETHER_ADDRESS, ETHER_ADDRESS);
	put16(outgoing + 2 * ETHER_ADDRESS, TYPE_IP);
	ip[0] = 4 << 4 | IP_HEADER / 4;
	put16(ip + 2, (unsigned int)(frame - ETHER_HEADER));
	put16(ip + 4, number++);
	ip[8] = IP_TTL;
	ip[9] = IP_UDP;
	ipkdbcopy(kip->myinetaddr, ip + 12, INET_ADDRESS);
	ipkdbcopy(to->inetaddr, ip + 16, INET_ADDRESS);
	put16(ip + 10, (uint16_t)~folded(sum_of(0, ip, IP_HEADER)));
	put16(udp, port);
	put16(udp + 2, to->port);
	put16(udp + 4, (unsigned int)(UDP_HEADER + length));
	ipkdbcopy(data, udp + UDP_HEADER, length);
	uint16_t sum = (uint16_t)~udp_sum(ip + 12, udp, UDP_HEADER + length);

	/* A checksum of 0 is sent as 0xffff, since 0 means that there is none. */
	put16(udp + 6, sum ? sum : 0xffff);
	kip->send(kip, outgoing, (unsigned int)(frame < ETHER_LEAST ? ETHER_LEAST : frame));
}

/* Sets this card's address from a BOOTP reply. */
static void take_address(struct ipkdb_if *kip, const uint8_t *udp, size_t length)
{
	const uint8_t *bootp = udp + UDP_HEADER;

	if (length < UDP_HEADER + 34 || get16(udp) != BOOTP_SERVER || get16(udp + 2) != BOOTP_CLIENT)
		return;
	if (bootp[0] != BOOTP_REPLY || get32(bootp + 4) != BOOTP_NUMBER ||
	    ipkdbcmp(bootp + 28, kip->myenetaddr, ETHER_ADDRESS) != 0)
		return;
	ipkdbcopy(bootp + 16, kip->myinetaddr, INET_ADDRESS);
	kip->flags |= IPKDB_MYIP;
}

bool inet_bootp(struct ipkdb_if *kip)
{
	static const uint8_t start[] = {BOOTP_REQUEST, 1, ETHER_ADDRESS, 0};
	static uint8_t request[BOOTP_LENGTH];
	struct peer all = {.port = BOOTP_SERVER};

	ipkdbcopy(everybody, all.enetaddr, ETHER_ADDRESS);
	ipkdbcopy(everybody, all.inetaddr, INET_ADDRESS);
	for (unsigned int seconds = 0; !(kip->flags & IPKDB_MYIP); seconds++) {
		ipkdbzero(request, sizeof(request));
		ipkdbcopy(start, request, sizeof(start));
		put32(request + 4, BOOTP_NUMBER);
		put16(request + 8, seconds);
		ipkdbcopy(kip->myenetaddr, request + 28, ETHER_ADDRESS);
		inet_send(kip, BOOTP_CLIENT, &all, request, sizeof(request));
		for (unsigned int tries = 0; tries < BOOTP_TRIES && !(kip->flags & IPKDB_MYIP); tries++) {
			const uint8_t *ip;
			size_t length;
			const uint8_t *udp = look(kip, &ip, &length, true);

			if (udp)
				take_address(kip, udp, length);
		}
		if (ipkdb_panicking && ipkdb_poll())
			return false;
	}
	return true;
}
