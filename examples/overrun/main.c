/*
 * A program with a bug, for docs/guides/the-bug-that-happens-once.md: a text that is too long for its buffer overwrites
 * a pointer, which the program uses much later.
 */
#include "multiboot.h"
#include "platform.h"
#include "trap.h"

/* QEMU's isa-debug-exit: writing v ends QEMU with status 2v + 1. */
#define DEBUG_EXIT_PORT 0xf4
#define DEBUG_EXIT_TRAP 1
#define DEBUG_EXIT_DONE 0x10

#define TEXT_SIZE 16
#define LETTERS 4

struct letter {
	char text[TEXT_SIZE];
	void (*deliver)(const char *text);
};

struct letter letters[LETTERS];

static void print(const char *text)
{
	console_string("overrun: ");
	console_string(text);
	console_character('\n');
}

/* The bug: this function does not check the size of the target. */
static void copy(char *to, const char *from)
{
	while ((*to++ = *from++) != '\0')
		;
}

static void write_letter(unsigned int number, const char *text)
{
	letters[number].deliver = print;
	copy(letters[number].text, text);
}

static void ignore(unsigned int bus, unsigned int device, unsigned int function, uint32_t id)
{
	(void)bus;
	(void)device;
	(void)function;
	(void)id;
}

/* Works for a while. */
static void work(void)
{
	for (unsigned int round = 0; round < 50; round++)
		pci_walk(0, ignore);
}

void trap(struct trap_frame *frame)
{
	console_string("overrun: exception ");
	console_hex(frame->vector, 2);
	console_string(" rip ");
	console_hex(frame->rip, 16);
	console_character('\n');
	out8(DEBUG_EXIT_PORT, DEBUG_EXIT_TRAP);
	halt();
}

void main(const struct multiboot_info *info);

void main(const struct multiboot_info *info)
{
	(void)info;
	console_init();
	write_letter(0, "the first");
	write_letter(1, "the second");
	write_letter(2, "the third is too long");
	write_letter(3, "the fourth");
	work();
	for (unsigned int number = 0; number < LETTERS; number++)
		letters[number].deliver(letters[number].text);
	print("done");
	out8(DEBUG_EXIT_PORT, DEBUG_EXIT_DONE);
	halt();
}
