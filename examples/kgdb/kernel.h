/*
 * A small kernel that behaves, on the outside, as a NetBSD kernel with options KGDB does: what the parts offer
 * to each other. docs/roles/kgdbdemo.md describes it.
 *
 * Names of types, members and variables that a debugger's commands for NetBSD look for are NetBSD's.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "small.h"

/* main.c: the workload. ticks counts the clock's interrupts, counter what counter_step() was given. */
extern volatile unsigned long ticks;
extern unsigned long counter;
void hardclock(void);
unsigned long counter_step(unsigned long amount);
void panic(const char *why, uintptr_t pc) __attribute__((noreturn));

/* com.c: the serial ports. Number 0 is the console's, number 1 the debugger's. */
void com_init(void);
void com_interrupt(unsigned int unit);
int console_getc(void); /* the next character that was typed; -1 if there is none */
int kgdb_getc(void);	/* polls until there is one; interrupts must be off */
void kgdb_putc(uint8_t character);

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
