/*
 * What the two example kernels share besides the start-up code: memory, the clock's interrupt, a console with a
 * message buffer, turning the machine off. Each part is a file; a kernel's Makefile names it in SOURCES.
 */
#ifndef SMALL_H
#define SMALL_H

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

#define SINGLE_STEP 0x100u /* the processor's trap flag */

#define PAGE_SIZE 4096u

/* words.c: flags and settings on the command line, as separate words: `-d slot=4`. */
#define RB_KDB 0x40 /* -d: wait for the debugger */
int boot_flags(const char *command_line);
/* The value after `name=`, which ends at a blank or the end of the line; NULL if no word begins with `name=`. */
const char *word_value(const char *command_line, const char *name);

/* interrupts.c: the two 8259s, lines 0 to 15 at vectors 32 to 47, and the clock on line 0. */
#define LINE_CLOCK 0
#define LINE_COM1 3
#define LINE_COM0 4
#define CLOCK_HZ 100
/* Enables the lines whose bits are set; only lines of the first controller. */
void interrupts_init(unsigned int lines);
void interrupt_end(unsigned int line);

/*
 * memory.c: maps the first MAPPED bytes one to one in pages of 4 KiB, except page 0 and memory_hole, which are not
 * present. There is no page table for addresses beyond MAPPED.
 */
#define MAPPED (64u << 20)
extern uint8_t memory_hole[PAGE_SIZE];
extern uint8_t ramdisk[1u << 20]; /* byte n is n * 167 modulo 256; for benchmarks */
void memory_init(void);
/* Whether the pages of [address, address + length) except the last are present; beyond MAPPED they count as so. */
bool memory_accessible(uintptr_t address, size_t length);

/* log.c: the console and the message buffer. */
struct kern_msgbuf {
	long msg_magic;
	long msg_bufx; /* the index of the next character to write */
	long msg_bufr; /* the index of the next character to read */
	long msg_bufs; /* the size of msg_bufc */
	char msg_bufc[2048];
};
#define MSG_MAGIC 0x063061
extern struct kern_msgbuf *msgbufp;
/* Prints to console and message buffer. Supports %c, %s, %d, %u, %x, %lu, %lx, %p and widths with leading zeros. */
void printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Copies the message buffer, oldest character first, to the console only. */
void log_print(void);

/* power.c */
void power_init(void);
bool power_button_pressed(void);
void power_off(void) __attribute__((noreturn));
void reboot(void) __attribute__((noreturn));

#endif
