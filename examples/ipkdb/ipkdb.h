/*
 * IPKDB in a small kernel: the interface between its three parts, as NetBSD's guide to a port, sys/ipkdb/README.port,
 * and ipkdb(9) prescribe it. docs/roles/ipkdbdemo.md says which file does which duty.
 *
 * Once the debugger has been entered, nothing of this may call the rest of the kernel, in which a breakpoint may
 * stand. printf() is the exception, as it is in NetBSD: the console hears who debugs.
 */
#ifndef IPKDB_H
#define IPKDB_H

#include "small.h"

#define ETHER_ADDRESS 6
#define INET_ADDRESS 4
#define ETHER_HEADER 14
#define ETHER_LEAST 60	/* of a frame, without the checksum */
#define ETHER_MOST 1514

/* What a debugger can say that lets the kernel go on: the results of ipkdbcmds(). */
#define IPKDB_CMD_RUN 0	 /* continue */
#define IPKDB_CMD_STEP 1 /* one instruction, then come back */
#define IPKDB_CMD_EXIT 2 /* continue, and leave later traps alone */

/* Flags of an interface. */
#define IPKDB_MYHW 1 /* myenetaddr is known: there is a card */
#define IPKDB_MYIP 2 /* myinetaddr is known: BOOTP needn't ask */

/* The card to debug with. A driver's probe fills it in. */
struct ipkdb_if {
	uint8_t myenetaddr[ETHER_ADDRESS];
	uint8_t myinetaddr[INET_ADDRESS];
	unsigned int flags;
	const char *name;
	void *port;				 /* the driver's own */
	void (*start)(struct ipkdb_if *);	 /* the debugger is entered: the card is its now */
	void (*leave)(struct ipkdb_if *);	 /* it is left: the card is as it was before start */
	/* Copies the next frame to the second argument, and returns its length; with poll, 0 if none is there. */
	int (*receive)(struct ipkdb_if *, uint8_t *, bool poll);
	void (*send)(struct ipkdb_if *, const uint8_t *, unsigned int length); /* at least ETHER_LEAST */
};

/* The debugger itself, which NetBSD has in sys/ipkdb: commands.c. */
extern bool ipkdb_panicking; /* nobody may be there to debug: a key at the console ends the wait */
void ipkdb_init(const char *key, size_t length);
void ipkdb_connect(void);
void ipkdb_panic(void);
int ipkdbcmds(void);

/* The machine's half, which NetBSD has in sys/arch: glue.c. GDB's order of i386: eax to edi, eip, eflags, cs to gs. */
#define IPKDB_REGISTERS 16
extern uint32_t ipkdbregs[IPKDB_REGISTERS];
void ipkdbinit(void);
void ipkdb_trap(void);
bool ipkdb_poll(void);
int ipkdbif_init(struct ipkdb_if *kip);
int ipkdbfbyte(const uint8_t *address);	       /* -1 where nothing can be read */
void ipkdbsbyte(uint8_t *address, int value);  /* without effect where nothing can be written */
void ipkdbcopy(const void *source, void *target, size_t length);
void ipkdbzero(void *target, size_t length);
int ipkdbcmp(const void *left, const void *right, size_t length);
/* Whether the exception was the debugger's. */
bool ipkdb_trap_glue(struct trap_frame *frame);

/* The card's half, which NetBSD has in sys/dev: ne.c. 0, or -1 and *kip as it was. */
int ne_ipkdb_attach(struct ipkdb_if *kip, unsigned int slot);

/* inet.c: Ethernet, ARP, IP, UDP and BOOTP. Ports and numbers are in the processor's byte order. */
struct peer {
	uint8_t enetaddr[ETHER_ADDRESS];
	uint8_t inetaddr[INET_ADDRESS];
	uint16_t port;
};
/* The length of the next UDP datagram for `port`, its data and its sender; with poll, 0 if none is there. */
size_t inet_receive(struct ipkdb_if *kip, uint16_t port, const uint8_t **data, struct peer *from, bool poll);
void inet_send(struct ipkdb_if *kip, uint16_t port, const struct peer *to, const uint8_t *data, size_t length);
/* Asks for this card's address until there is one. False when a key at the console, after a panic, ended that. */
bool inet_bootp(struct ipkdb_if *kip);
uint32_t get32(const uint8_t *from); /* big-endian, as all that goes over the wire */
uint16_t get16(const uint8_t *from);
void put32(uint8_t *to, uint32_t value);
void put16(uint8_t *to, unsigned int value);

/* hmac.c: RFC 2104 with MD5. Keys are 16 bytes long or longer. */
#define MAC_SIZE 16
#define KEY_LEAST 16
void hmac_key(const uint8_t *key, size_t length);
void hmac(const uint8_t *message, size_t length, uint8_t result[MAC_SIZE]);

/* md5.c: RFC 1321. */
#define MD5_BLOCK 64
struct md5 {
	uint32_t state[4];
	uint64_t length; /* bytes */
	uint8_t block[MD5_BLOCK];
};
void md5_init(struct md5 *context);
void md5_update(struct md5 *context, const uint8_t *data, size_t length);
void md5_final(struct md5 *context, uint8_t result[MAC_SIZE]);

/* card.c: the kernel's own use of the same card. Values of registers that the chip doesn't give back. */
struct ne_registers {
	bool used; /* the rest holds */
	uint8_t transmit_page, receive, transmit, data, interrupts;
};
extern struct ne_registers ne_kernel;
extern volatile unsigned long ne_frames; /* received by the kernel */
void card_init(unsigned int slot);
void card_poll(void);

/* main.c: the workload. ticks counts the clock's interrupts, counter what counter_step() was given. */
extern volatile unsigned long ticks;
extern unsigned long counter;
unsigned long counter_step(unsigned long amount);
extern unsigned int ipkdb_slot; /* of the card, on PCI bus 0 */
extern uint8_t ipkdb_address[INET_ADDRESS]; /* of the kernel; 0.0.0.0: BOOTP is to ask for it */
void panic(const char *why, uintptr_t pc) __attribute__((noreturn));
int console_getc(void); /* what was typed; -1 if nothing was */

#endif
