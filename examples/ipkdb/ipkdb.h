/*
 * IPKDB in a small kernel: the interface of its three parts, as NetBSD's guide for ports, sys/ipkdb/README.port,
 * and ipkdb(9) define it. docs/roles/ipkdbdemo.md describes the files.
 *
 * While the debugger runs, this code must not call the rest of the kernel, where the user may have set breakpoints.
 * printf() is the exception, as in NetBSD: it shows on the console who debugs the kernel.
 */
#ifndef IPKDB_H
#define IPKDB_H

#include "small.h"

#define ETHER_ADDRESS 6
#define INET_ADDRESS 4
#define ETHER_HEADER 14
#define ETHER_LEAST 60	/* of a frame, without the checksum */
#define ETHER_MOST 1514

/* The results of ipkdbcmds(): how the debugger continues the kernel. */
#define IPKDB_CMD_RUN 0	 /* continue */
#define IPKDB_CMD_STEP 1 /* one instruction, then come back */
#define IPKDB_CMD_EXIT 2 /* continue, and don't handle later traps */

/* Flags of an interface. */
#define IPKDB_MYHW 1 /* myenetaddr is known: there is a card */
#define IPKDB_MYIP 2 /* myinetaddr is known: no need for BOOTP */

/* The debugger's network card. ne_ipkdb_attach() sets these. */
struct ipkdb_if {
	uint8_t myenetaddr[ETHER_ADDRESS];
	uint8_t myinetaddr[INET_ADDRESS];
	unsigned int flags;
	const char *name;
	void *port;				 /* the driver's private data */
	void (*start)(struct ipkdb_if *);	 /* saves the card's state and sets it up for the debugger */
	void (*leave)(struct ipkdb_if *);	 /* restores the state from before start */
	/* Copies the next frame to the second argument, and returns its length; with poll, 0 if none is there. */
	int (*receive)(struct ipkdb_if *, uint8_t *, bool poll);
	void (*send)(struct ipkdb_if *, const uint8_t *, unsigned int length); /* at least ETHER_LEAST */
};

/* The debugger itself, which NetBSD has in sys/ipkdb: commands.c. */
extern bool ipkdb_panicking; /* after a panic, a key at the console ends the wait for a debugger */
void ipkdb_init(const char *key, size_t length);
void ipkdb_connect(void);
void ipkdb_panic(void);
int ipkdbcmds(void);

/* The machine's part, in NetBSD in sys/arch: glue.c. Registers in GDB's order: eax to edi, eip, eflags, cs to gs. */
#define IPKDB_REGISTERS 16
extern uint32_t ipkdbregs[IPKDB_REGISTERS];
void ipkdbinit(void);
void ipkdb_trap(void);
bool ipkdb_poll(void);
int ipkdbif_init(struct ipkdb_if *kip);
int ipkdbfbyte(const uint8_t *address);	       /* -1 if the address can't be read */
void ipkdbsbyte(uint8_t *address, int value);  /* no effect if the address can't be written */
void ipkdbcopy(const void *source, void *target, size_t length);
void ipkdbzero(void *target, size_t length);
int ipkdbcmp(const void *left, const void *right, size_t length);
/* Handles an exception for the debugger; false if it isn't one of the debugger's. */
bool ipkdb_trap_glue(struct trap_frame *frame);

/* The card's part, in NetBSD in sys/dev: ne.c. Returns 0, or -1 without a change of *kip. */
int ne_ipkdb_attach(struct ipkdb_if *kip, unsigned int slot);

/* inet.c: Ethernet, ARP, IP, UDP and BOOTP. Ports and numbers are in the processor's byte order. */
struct peer {
	uint8_t enetaddr[ETHER_ADDRESS];
	uint8_t inetaddr[INET_ADDRESS];
	uint16_t port;
};
/* Returns the length of the next UDP datagram for `port`, and sets data and sender; with poll, 0 if there is none. */
size_t inet_receive(struct ipkdb_if *kip, uint16_t port, const uint8_t **data, struct peer *from, bool poll);
void inet_send(struct ipkdb_if *kip, uint16_t port, const struct peer *to, const uint8_t *data, size_t length);
/* Asks for this card's address until there is a reply. False if, after a panic, a key at the console ends that. */
bool inet_bootp(struct ipkdb_if *kip);
uint32_t get32(const uint8_t *from); /* big-endian, as everything in the protocols */
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

/* card.c: the kernel's driver of the same card. The struct has the values of registers that the chip can't return. */
struct ne_registers {
	bool used; /* the other members are valid */
	uint8_t transmit_page, receive, transmit, data, interrupts;
};
extern struct ne_registers ne_kernel;
extern volatile unsigned long ne_frames; /* received by the kernel */
void card_init(unsigned int slot);
void card_poll(void);

/* main.c: the workload. ticks counts the clock's interrupts; counter is the sum of counter_step()'s arguments. */
extern volatile unsigned long ticks;
extern unsigned long counter;
unsigned long counter_step(unsigned long amount);
extern unsigned int ipkdb_slot; /* of the card, on PCI bus 0 */
extern uint8_t ipkdb_address[INET_ADDRESS]; /* of the kernel; 0.0.0.0: use BOOTP */
void panic(const char *why, uintptr_t pc) __attribute__((noreturn));
int console_getc(void); /* the next character that was typed; -1 if there is none */

#endif
