/*
 * The kernel's start, workload and traps. With -d on the command line, it first waits for a debugger on Ethernet, as
 * NetBSD with IPKDB does. docs/roles/ipkdbdemo.md lists the words of its command line.
 */
#include "ipkdb.h"

#define COM0 0x3f8
#define COM0_STATUS (COM0 + 5)
#define COM0_TYPED 0x01

/* The card's slot, unless the command line has another. */
#ifdef IPKDB_NE_PCISLOT
#define SLOT IPKDB_NE_PCISLOT
#else
#define SLOT 3
#endif
#define KEY_MOST 4096
#define KEY_WORD "ipkdbkey"

volatile unsigned long ticks;
unsigned long counter;
unsigned int ipkdb_slot = SLOT;
uint8_t ipkdb_address[INET_ADDRESS];

/* The key from a compile option, as in NetBSD's kernels; without the option, the loader must supply the key. */
#ifdef IPKDBKEY
static char key[KEY_MOST] = IPKDBKEY;
static size_t key_length = sizeof(IPKDBKEY) - 1;
#else
static char key[KEY_MOST];
static size_t key_length;
#endif

int console_getc(void)
{
	return in8(COM0_STATUS) & COM0_TYPED ? in8(COM0) : -1;
}

/* Reads the decimal number at *at, and sets *at to the character after it. */
static unsigned int number(const char **at)
{
	unsigned int value = 0;

	for (; **at >= '0' && **at <= '9'; (*at)++)
		value = value * 10 + (unsigned int)(**at - '0');
	return value;
}

static void take_address(const char *text)
{
	for (unsigned int at = 0; at < INET_ADDRESS; at++, text += *text == '.')
		ipkdb_address[at] = (uint8_t)number(&text);
}

/* Copies the key, which ends at a NUL, `end` or `length`, and overwrites it, so that a debugger can't read it. */
static void take_key(char *from, size_t length, char end)
{
	while (key_length < length && key_length < KEY_MOST && from[key_length] && from[key_length] != end) {
		key[key_length] = from[key_length];
		from[key_length++] = '*';
	}
}

/* The key is a module, or a word of the command line; the latter, which others can see, is only for tests. */
static void take_words(const struct multiboot_info *info)
{
	const char *line = info->flags & MULTIBOOT_HAS_COMMAND_LINE ? (const char *)(uintptr_t)info->command_line : "";
	const char *word;

	if ((word = word_value(line, "slot")) != NULL)
		ipkdb_slot = number(&word);
	if ((word = word_value(line, "ipaddr")) != NULL)
		take_address(word);
	if (key_length > 0)
		return;
	if (info->flags & MULTIBOOT_HAS_MODULES && info->module_count > 0) {
		const struct multiboot_module *module = (const struct multiboot_module *)(uintptr_t)info->modules;

		take_key((char *)(uintptr_t)module->start, module->end - module->start, '\n');
	} else if ((word = word_value(line, KEY_WORD)) != NULL) {
		take_key((char *)(uintptr_t)word, KEY_MOST, ' ');
	}
}

static void hardclock(void)
{
	ticks++;
}

/* A function for a breakpoint: it is called once for each tick, with a varying argument. */
__attribute__((noinline, noclone)) unsigned long counter_step(unsigned long amount)
{
	counter += amount;
	return counter;
}

void panic(const char *why, uintptr_t pc)
{
	printf("panic: %s at %p\n", why, (void *)pc);
	ipkdb_panic();
	printf("rebooting\n");
	reboot();
}

void trap(struct trap_frame *frame)
{
	unsigned int vector = frame->vector;

	if (vector < TRAP_FIRST_INTERRUPT) {
		if (!ipkdb_trap_glue(frame))
			panic("trap", frame->eip);
		return;
	}
	vector -= TRAP_FIRST_INTERRUPT;
	interrupt_end(vector);
	if (vector == LINE_CLOCK)
		hardclock();
}

static void console_poll(void)
{
	if (power_button_pressed()) {
		printf("power button pressed\n");
		power_off();
	}
	if (console_getc() == 'p')
		panic("somebody typed p", (uintptr_t)console_poll);
}

static __attribute__((noreturn)) void workload(void)
{
	for (unsigned long done = ticks;;) {
		__asm__ volatile("sti; hlt; cli" : : : "memory");
		for (; done != ticks; done++) {
			(void)counter_step(done & 3);
			card_poll();
		}
		console_poll();
	}
}

void main(const struct multiboot_info *info);

void main(const struct multiboot_info *info)
{
	const char *line = info->flags & MULTIBOOT_HAS_COMMAND_LINE ? (const char *)(uintptr_t)info->command_line : "";
	int boothowto = boot_flags(line);

	serial_init();
	take_words(info);
	/* From here on, the loader's data may be outside the mapped memory. */
	memory_init();
	printf("ipkdbdemo/" MACHINE "\n");
	card_init(ipkdb_slot);
	ipkdb_init(key, key_length);
	ipkdbzero(key, sizeof(key));
	if (boothowto & RB_KDB)
		ipkdb_connect();
	interrupts_init(1 << LINE_CLOCK);
	power_init();
	printf("running\n");
	workload();
}
