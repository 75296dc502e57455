/*
 * What the small kernels have in common beyond the start: memory, the clock's interrupt, a console with a message
 * buffer, turning the machine off. Each is a file of its own, which a kernel names among its SOURCES.
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

/* words.c: flags and settings on the command line, which stand in words of their own, as `-d slot=4`. */
#define RB_KDB 0x40 /* -d: wait for the debugger */
int boot_flags(const char *command_line);
/* What follows `name=`, up to a blank or the end; NULL if no word begins so. */
const char *word_value(const char *command_line, const char *name);

/* interrupts.c: the two 8259s, lines 0 to 15 at vectors 32 to 47, and the clock on line 0. */
#define LINE_CLOCK 0
#define LINE_COM1 3
#define LINE_COM0 4
#define CLOCK_HZ 100
/* Lets those lines through whose bits are set; the first controller's only. */
void interrupts_init(unsigned int lines);
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

/* power.c */
void power_init(void);
bool power_button_pressed(void);
void power_off(void) __attribute__((noreturn));
void reboot(void) __attribute__((noreturn));

#endif
