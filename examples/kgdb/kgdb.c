/*
 * The debugger's stub: GDB's remote serial protocol as NetBSD's kgdb(7) speaks it, with its limits. Knows
 * `? g G m M c s D k` and nothing else, takes packets of less than 512 bytes, sees seven bits of a character.
 */
#include "kernel.h"

#define BUFFER_SIZE 512
#define SEVEN_BITS 0x7f

static uint8_t buffer[BUFFER_SIZE];
static kgdb_reg_t gdb_regs[KGDB_NUMREGS];
static bool kgdb_active; /* a debugger has been here, and hasn't detached */
static bool kgdb_debug_panic; /* a panic may wait for one */
static bool recovering;	 /* recover_context is valid: a fault is the debugger's, not the kernel's */
static void *recover_context[5]; /* __builtin_setjmp's */

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

/* Stops after at most length bytes. Returns the first character that isn't a digit, or NULL for half a byte. */
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

/* Reads digits at *at and leaves *at behind them. */
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
		/* Whatever isn't a refusal counts as accepted. */
	} while ((kgdb_getc() & SEVEN_BITS) == '-');
}

static void send_stopped(int signal)
{
	const char text[] = {'S', digit((unsigned int)signal >> 4), digit((unsigned int)signal), '\0'};

	send(text);
}

/* Fills the buffer with the data of the next good packet, and a NUL. */
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
		/* One more than the half: the closing NUL of the largest reply. */
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

/* Takes the address of a `c` or `s`, if one was given. False, and an error sent, if it isn't one. */
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

/* Answers one packet. Returns true when the kernel is to go on. */
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

/* Apart from its callers' variables, which must not be expected to survive a fault. */
static __attribute__((noinline)) void converse(struct trap_frame *frame)
{
	/* A fault on the debugger's behalf comes back here. */
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
		 * The debugger isn't listening yet, and asks by itself. It wouldn't step over the breakpoint of
		 * kgdb_connect(), but this processor has done so already.
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
