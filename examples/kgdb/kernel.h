/*
 * A small kernel that behaves, for a debugger and at the console, like a NetBSD kernel with options KGDB: the
 * interfaces of its files. docs/roles/kgdbdemo.md describes it.
 *
 * Types, members and variables that GDB commands for NetBSD use have NetBSD's names.
 */
#ifndef KERNEL_H
#define KERNEL_H

#include "small.h"

/* main.c: the workload. ticks counts the clock's interrupts; counter is the sum of counter_step()'s arguments. */
extern volatile unsigned long ticks;
extern unsigned long counter;
void hardclock(void);
unsigned long counter_step(unsigned long amount);
void panic(const char *why, uintptr_t pc) __attribute__((noreturn));

/* com.c: the serial ports. Number 0 is the console's, number 1 the debugger's. */
void com_init(void);
void com_interrupt(unsigned int unit);
int console_getc(void); /* the next character that was typed; -1 if there is none */
int kgdb_getc(void);	/* polls until a character comes; interrupts must be off */
void kgdb_putc(uint8_t character);

/* kgdb.c: the debugger's stub. */
void kgdb_connect(bool verbose);
void kgdb_panic(void);
/* Handles an exception for the debugger; false if it isn't one of the debugger's. */
bool kgdb_trap(struct trap_frame *frame);

/* registers.c: the registers in the order and with the sizes of a 'g' reply. */
#ifdef __x86_64__
typedef uint64_t kgdb_reg_t;
#define KGDB_NUMREGS 20
#else
typedef uint32_t kgdb_reg_t;
#define KGDB_NUMREGS 16
#endif
void kgdb_getregs(struct trap_frame *frame, kgdb_reg_t *registers);
void kgdb_setregs(struct trap_frame *frame, const kgdb_reg_t *registers);

/* proc.c: a list of processes as NetBSD has it; nothing runs in them. */
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
/* Makes the next process the current one, counts a tick for it, and returns it. */
struct proc *proc_tick(void);

/* autoconf.c: devices. The list has the PCI functions for which there is a driver. */
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
/* Prints the output of `pcictl pciUNIT list`; false if there is no such bus. */
bool pci_list(unsigned int unit, bool names, bool numeric);

/* console.c: the login and the shell at the console. */
void console_init(void);
void console_poll(void);

/* Compares two strings; a freestanding compiler has no strcmp(). */
static inline bool same(const char *left, const char *right)
{
	while (*left && *left == *right) {
		left++;
		right++;
	}
	return *left == *right;
}

#endif
