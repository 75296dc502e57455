/*
 * A small kernel that behaves, on the outside, as a NetBSD kernel with options KGDB does: what the parts offer
 * to each other. docs/kgdbdemo.md describes it.
 *
 * Names of types, members and variables that a debugger's commands for NetBSD look for are NetBSD's.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "multiboot.h"
#include "platform.h"
#include "trap.h"

#ifdef __x86_64__
#define MACHINE "amd64"
#define FRAME_PC(frame) ((frame)->rip)
#define FRAME_FLAGS(frame) ((frame)->rflags)
#else
#define MACHINE "i386"
#define FRAME_PC(frame) ((frame)->eip)
#define FRAME_FLAGS(frame) ((frame)->eflags)
#endif

#define PAGE_SIZE 4096u

/* main.c: the workload. ticks counts the clock's interrupts, counter what counter_step() was given. */
extern volatile unsigned long ticks;
extern unsigned long counter;
void hardclock(void);
unsigned long counter_step(unsigned long amount);
void panic(const char *why, uintptr_t pc) __attribute__((noreturn));

/* interrupts.c: the two 8259s, lines 0 to 15 at vectors 32 to 47, and the clock on line 0. */
#define LINE_CLOCK 0
#define LINE_COM1 3
#define LINE_COM0 4
#define CLOCK_HZ 100
void interrupts_init(void);
void interrupt_end(unsigned int line);

/*
 * memory.c: the first MAPPED bytes one to one in pages of 4 KiB, but for page 0 and memory_hole, which are not
 * present. Beyond there is no page table at all.
 */
#define MAPPED (64u << 20)
extern uint8_t memory_hole[PAGE_SIZE];
extern uint8_t ramdisk[1u << 20]; /* byte n is n * 167 modulo 256; for measurements */
void memory_init(void);
/* Whether the pages of [address, address + length), but for the last, are present, as far as there are page tables. */
bool memory_accessible(uintptr_t address, size_t length);

/* com.c: the serial ports. Number 0 is the console's, number 1 the debugger's. */
void com_init(void);
void com_interrupt(unsigned int unit);
int console_getc(void); /* the next character that was typed; -1 if there is none */
int kgdb_getc(void);	/* polls until there is one; interrupts must be off */
void kgdb_putc(uint8_t character);

/* log.c: the console and the message buffer. */
struct kern_msgbuf {
	long msg_magic;
	long msg_bufx; /* where the next character goes */
	long msg_bufr; /* where a reader is */
	long msg_bufs; /* the size of msg_bufc */
	char msg_bufc[2048];
};
#define MSG_MAGIC 0x063061
extern struct kern_msgbuf *msgbufp;
/* Knows %c, %s, %d, %u, %x, %lu, %lx, %p and widths with leading zeros. To the console and the message buffer. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Copies the message buffer, oldest character first, to the console only. */
void log_print(void);

/* kgdb.c: the debugger's stub. */
void kgdb_connect(bool verbose);
void kgdb_panic(void);
/* Whether the exception was the debugger's business. */
bool kgdb_trap(struct trap_frame *frame);

/* registers.c: the registers in the order and the sizes of a 'g' reply. */
#ifdef __x86_64__
typedef uint64_t kgdb_reg_t;
#define KGDB_NUMREGS 20
#else
typedef uint32_t kgdb_reg_t;
#define KGDB_NUMREGS 16
#endif
void kgdb_getregs(struct trap_frame *frame, kgdb_reg_t *registers);
void kgdb_setregs(struct trap_frame *frame, const kgdb_reg_t *registers);

/* proc.c: processes, of a sort. */
#define MAXCOMLEN 16
struct proc {
	struct {
		struct proc *le_next;
		struct proc **le_prev;
	} p_list;
	int p_stat;
	int p_pid;
	struct proc *p_pptr;
	int p_nlwps;
	unsigned int p_cpticks;
	char p_comm[MAXCOMLEN + 1];
};
struct proclist {
	struct proc *lh_first;
};
enum { SIDL = 1, SACTIVE = 2, SSTOP = 4, SZOMB = 5 };
extern struct proclist allproc;
void proc_init(void);
void proc_print(void);
/* Charges the clock's tick to whose turn it is, and returns that process. */
struct proc *proc_tick(void);

/* autoconf.c: devices. A PCI function is in the list once a driver has claimed it. */
struct cfdriver {
	const char *cd_name;
	int cd_ndevs;
};
struct device {
	struct {
		struct device *tqe_next;
		struct device **tqe_prev;
	} dv_list;
	struct cfdriver *dv_cfdriver;
	int dv_unit;
	char dv_xname[16];
	struct device *dv_parent;
	void *dv_private;
	int *dv_locators; /* of a child of pci: device and function */
};
struct devicelist {
	struct device *tqh_first;
	struct device **tqh_last;
};
struct pci_softc {
	struct device *sc_dev;
	int sc_bus;
};
void autoconf(void);
/* What `pcictl pciUNIT list` prints; false if there is no such bus. */
bool pci_list(unsigned int unit, bool names, bool numeric);

/* console.c: what somebody at the console can do. */
void console_init(void);
void console_poll(void);

/* power.c */
void power_init(void);
bool power_button_pressed(void);
void power_off(void) __attribute__((noreturn));
void reboot(void) __attribute__((noreturn));

/* A string's comparison and length, which a freestanding compiler doesn't bring along. */
static inline bool same(const char *left, const char *right)
{
	while (*left && *left == *right) {
		left++;
		right++;
	}
	return *left == *right;
}

#endif
