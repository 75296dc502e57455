/*
 * A kernel that prints what NetBSD's boot loader passes to it: the flags, and the entries of the boot information
 * that the lab's menu sets. The loader enters it in 32-bit mode, for amd64 too.
 */
typedef unsigned int u32;

#define COM0 0x3f8
#define LINE_STATUS 5
#define TRANSMITTER_EMPTY 0x20

enum { BOOTPATH = 0, ROOTDEVICE = 1, CONSOLE = 6 };

struct entry {
	u32 length;
	u32 type;
	char name[16];
	u32 address;
	u32 speed;
};

struct information {
	u32 count;
	u32 entries[];
};

static void out(unsigned short port, unsigned char value)
{
	__asm__ volatile("outb %0, %1" : : "a"(value), "Nd"(port));
}

static unsigned char in(unsigned short port)
{
	unsigned char value;

	__asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
	return value;
}

static void character(char value)
{
	while (!(in(COM0 + LINE_STATUS) & TRANSMITTER_EMPTY))
		continue;
	out(COM0, (unsigned char)value);
}

static void string(const char *text)
{
	while (*text)
		character(*text++);
}

static void number(u32 value)
{
	for (int shift = 28; shift >= 0; shift -= 4)
		character("0123456789abcdef"[value >> shift & 15]);
}

__attribute__((used)) void start(u32 howto, u32 device, const struct information *information)
{
	(void)device;
	string("\nhowto ");
	number(howto);
	for (u32 index = 0; index < information->count; index++) {
		const struct entry *entry = (const struct entry *)information->entries[index];

		if (entry->type == BOOTPATH) {
			string("\nbootpath ");
			string(entry->name);
		} else if (entry->type == ROOTDEVICE) {
			string("\nroot ");
			string(entry->name);
		} else if (entry->type == CONSOLE) {
			string("\nconsole ");
			string(entry->name);
			string(" at ");
			number(entry->address);
			string(" speed ");
			number(entry->speed);
		}
	}
	string("\ntold\n");
	for (;;)
		__asm__ volatile("cli; hlt");
}

/* The loader calls this address, so that the stack has a return address before the arguments. */
__asm__(".globl _start\n_start: jmp start\n");
