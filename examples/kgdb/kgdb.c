/*
 * The debugger's stub: GDB's remote serial protocol as in NetBSD's kgdb(7), with its limits. It supports only
 * `? g G m M c s D k`, accepts packets of less than 512 bytes, and uses seven bits of each character.
 */
#include "kernel.h"

#define BUFFER_SIZE 512
#define SEVEN_BITS 0x7f

static uint8_t buffer[BUFFER_SIZE];
static kgdb_reg_t gdb_regs[KGDB_NUMREGS];
static bool kgdb_active; /* a debugger is attached */
static bool kgdb_debug_panic; /* a panic waits for a debugger */
static bool recovering;	 /* recover_context is valid: the stub caused a fault, not the kernel */
static void *recover_context[5]; /* for __builtin_setjmp() */

static int digit_value(int character)
{
	if (character >= '0' && character <= '9')
		return character - '0';
	if (character >= 'a' && character <= 'f')
		return character - 'a' + 10;
	if (character >= 'A' && character <= 'F')
		return character - 'A' + 10;
	return -1;
}

static char digit(unsigned int value)
{
	return "0123456789abcdef"[value & 15];
}

/* Writes 2 * length digits and a NUL. */
static void to_hex(uint8_t *to, const uint8_t *from, size_t length)
{
	while (length-- > 0) {
		uint8_t byte = *from++;

		*to++ = (uint8_t)digit(byte >> 4);
		*to++ = (uint8_t)digit(byte);
	}
	*to = '\0';
}

/* Reads at most length bytes. Returns the first character that isn't a digit, or NULL for an odd number of digits. */
static const uint8_t *from_hex(uint8_t *to, const uint8_t *from, size_t length)
{
	while (*from && length-- > 0) {
		int high = digit_value(*from);

		if (high < 0)
			return from;
		int low = digit_value(from[1]);

		if (low < 0)
			return NULL;
		*to++ = (uint8_t)(high << 4 | low);
		from += 2;
	}
	return from;
}

/* Reads the digits at *at, and sets *at to the character after them. */
static uintptr_t number(const uint8_t **at)
{
	uintptr_t value = 0;

	for (int next; (next = digit_value(**at)) >= 0; (*at)++)
		value = value << 4 | (uintptr_t)next;
	return value;
}

static void send(const char *data)
{
	do {
		uint8_t sum = 0;

		kgdb_putc('$');
		for (const char *at = data; *at; at++) {
			kgdb_putc((uint8_t)*at);
			sum = (uint8_t)(sum + (uint8_t)*at);
		}
		kgdb_putc('#');
		kgdb_putc((uint8_t)digit(sum >> 4));
		kgdb_putc((uint8_t)digit(sum));
		/* Any answer but '-' counts as accepted. */
	} while ((kgdb_getc() & SEVEN_BITS) == '-');
}

static void send_stopped(int signal)
{
	const char text[] = {'S', digit((unsigned int)signal >> 4), digit((unsigned int)signal), '\0'};

	send(text);
}

/* Puts the data of the next correct packet, and a NUL, into the buffer. */
static void receive(void)
{
	for (;;) {
		unsigned int length = 0;
		int sum = 0;
		int character;

		while (kgdb_getc() != '$')
			continue;
		while ((character = kgdb_getc()) != '#' && length < sizeof(buffer)) {
			character &= SEVEN_BITS;
			sum += character;
			buffer[length++] = (uint8_t)character;
		}
		if (length < sizeof(buffer)) {
			buffer[length] = '\0';
			int high = digit_value(kgdb_getc());
			int low = digit_value(kgdb_getc());

			if (high * 16 + low == (sum & 0xff)) {
				kgdb_putc('+');
				return;
			}
		}
		kgdb_putc('-');
	}
}

/* The signal of an exception, by the numbers that both NetBSD and GDB use. */
static int signal_of(unsigned int vector)
{
	switch (vector) {
	case 1:
	case 3:
		return 5; /* SIGTRAP */
	case 2:
		return 2; /* SIGINT */
	case 0:
	case 4:
	case 7:
	case 16:
		return 8; /* SIGFPE */
	case 5:
		return 16; /* SIGURG */
	case 6:
	case 10:
	case 11:
	case 12:
	case 13:
	case 14:
		return 11; /* SIGSEGV */
	case 17:
		return 4; /* SIGILL */
	default:
		return 7; /* SIGEMT */
	}
}

static void copy(volatile uint8_t *to, const volatile uint8_t *from, size_t length)
{
	while (length-- > 0)
		*to++ = *from++;
}

static void read_memory(void)
{
	const uint8_t *at = buffer + 1;
	uintptr_t address = number(&at);

	if (*at++ != ',') {
		send("E02");
		return;
	}
	size_t length = number(&at);

	if (*at != '\0') {
		send("E03");
	} else if (length > sizeof(buffer) / 2) {
		send("E04");
	} else if (!memory_accessible(address, length)) {
		send("E05");
	} else {
		/* digits has one byte more for the NUL at the end of the largest reply. */
		static uint8_t bytes[BUFFER_SIZE / 2];
		static uint8_t digits[BUFFER_SIZE + 1];

		copy(bytes, (const volatile uint8_t *)address, length);
		to_hex(digits, bytes, length);
		send((const char *)digits);
	}
}

static void write_memory(void)
{
	const uint8_t *at = buffer + 1;
	uintptr_t address = number(&at);

	if (*at++ != ',') {
		send("E06");
		return;
	}
	size_t length = number(&at);

	if (*at++ != ':')
		send("E07");
	else if (length > sizeof(buffer) - (size_t)(at - buffer))
		send("E08");
	else if (from_hex(buffer, at, sizeof(buffer)) == NULL)
		send("E09");
	else if (!memory_accessible(address, length))
		send("E0A");
	else {
		copy((volatile uint8_t *)address, buffer, length);
		send("OK");
	}
}

/* Sets the PC to the address of a `c` or `s`, if it has one. False, and an error sent, if that is malformed. */
static bool take_address(struct trap_frame *frame)
{
	const uint8_t *at = buffer + 1;

	if (*at == '\0')
		return true;
	uintptr_t address = number(&at);

	if (*at != '\0') {
		send("E0B");
		return false;
	}
	FRAME_PC(frame) = address;
	return true;
}

/* Answers one packet. Returns true if the kernel continues. */
static bool command(struct trap_frame *frame)
{
	switch (buffer[0]) {
	case '?':
		send_stopped(signal_of((unsigned int)frame->vector));
		return false;
	case 'g': {
		static uint8_t digits[2 * sizeof(gdb_regs) + 1];

		to_hex(digits, (const uint8_t *)gdb_regs, sizeof(gdb_regs));
		send((const char *)digits);
		return false;
	}
	case 'G': {
		const uint8_t *end = from_hex((uint8_t *)gdb_regs, buffer + 1, sizeof(gdb_regs));

		if (end == NULL || *end != '\0') {
			send("E01");
		} else {
			kgdb_setregs(frame, gdb_regs);
			send("OK");
		}
		return false;
	}
	case 'm':
		read_memory();
		return false;
	case 'M':
		write_memory();
		return false;
	case 'D':
	case 'k':
		kgdb_active = false;
		printf("kgdb detached\n");
		FRAME_FLAGS(frame) &= ~SINGLE_STEP;
		send("OK");
		return true;
	case 'c':
		FRAME_FLAGS(frame) &= ~SINGLE_STEP;
		return take_address(frame);
	case 's':
		if (!take_address(frame))
			return false;
		FRAME_FLAGS(frame) |= SINGLE_STEP;
		return true;
	default:
		send("");
		return false;
	}
}

/* A function of its own, since local variables may be lost when a fault returns to setjmp(). */
static __attribute__((noinline)) void converse(struct trap_frame *frame)
{
	/* After a fault that the stub has caused, kgdb_trap() jumps here. */
	(void)__builtin_setjmp(recover_context);
	recovering = true;
	do {
		receive();
	} while (!command(frame));
	recovering = false;
}

bool kgdb_trap(struct trap_frame *frame)
{
	FRAME_FLAGS(frame) &= ~SINGLE_STEP;
	if (recovering) {
		printf("kgdb: caught trap %#x at %p\n", (unsigned int)frame->vector, (void *)(uintptr_t)FRAME_PC(frame));
		send("E0E");
		__builtin_longjmp(recover_context, 1);
	}
	if (!kgdb_active) {
		if (frame->vector != TRAP_BREAKPOINT)
			return false;
		/*
		 * No reply: the debugger isn't listening yet, and will ask with `?`. It needn't step over the int3
		 * of kgdb_connect(), since the processor has already done so.
		 */
		kgdb_active = true;
	} else {
		send_stopped(signal_of((unsigned int)frame->vector));
	}
	kgdb_getregs(frame, gdb_regs);
	converse(frame);
	return true;
}

void kgdb_connect(bool verbose)
{
	if (verbose)
		printf("kgdb waiting...");
	__asm__ volatile("int3");
	if (verbose)
		printf("connected.\n");
	kgdb_debug_panic = true;
}

void kgdb_panic(void)
{
	if (!kgdb_debug_panic)
		return;
	printf("entering kgdb\n");
	kgdb_connect(!kgdb_active);
}
