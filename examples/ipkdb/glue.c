/* The machine-dependent part of IPKDB: traps, registers, memory. */
#include "ipkdb.h"

#define ESP 4
#define EFLAGS 9
#define SS 11
#define GENERAL_PROTECTION 13

extern const char ipkdb_load_at[], ipkdb_store_at[], ipkdb_access_failed[];
int ipkdb_load(const uint8_t *address);
int ipkdb_store(uint8_t *address, int value);

uint32_t ipkdbregs[IPKDB_REGISTERS];

/* The last result of ipkdbcmds(). Before the first connection, traps aren't the debugger's. */
static int mode = IPKDB_CMD_EXIT;

/* Nothing to do: the start-up code has set up the traps and the console. */
void ipkdbinit(void)
{
}

/* Enters the debugger by the trace flag, after the instruction that follows popfl. */
void ipkdb_trap(void)
{
	mode = IPKDB_CMD_STEP;
	__asm__ volatile("pushfl; orl %0, (%%esp); popfl; nop" : : "i"(SINGLE_STEP) : "cc", "memory");
}

bool ipkdb_poll(void)
{
	return console_getc() >= 0;
}

int ipkdbif_init(struct ipkdb_if *kip)
{
	if (ne_ipkdb_attach(kip, ipkdb_slot) != 0)
		return -1;
	if (get32(ipkdb_address)) {
		ipkdbcopy(ipkdb_address, kip->myinetaddr, INET_ADDRESS);
		kip->flags |= IPKDB_MYIP;
	}
	return 0;
}

int ipkdbfbyte(const uint8_t *address)
{
	return ipkdb_load(address);
}

void ipkdbsbyte(uint8_t *address, int value)
{
	(void)ipkdb_store(address, value);
}

/* bcopy(), bzero() and bcmp() under other names, since a user may set breakpoints in those. */
void ipkdbcopy(const void *source, void *target, size_t length)
{
	const uint8_t *from = source;

	for (uint8_t *to = target; length > 0; length--)
		*to++ = *from++;
}

void ipkdbzero(void *target, size_t length)
{
	for (uint8_t *to = target; length > 0; length--)
		*to++ = 0;
}

int ipkdbcmp(const void *left, const void *right, size_t length)
{
	const uint8_t *one = left, *other = right;

	for (; length > 0; length--, one++, other++)
		if (*one != *other)
			return *one - *other;
	return 0;
}

/* The places of the registers in a frame. Without a change of privilege, the processor saves no esp and ss. */
static void places(struct trap_frame *frame, uint32_t *place[IPKDB_REGISTERS])
{
	uint32_t *const all[IPKDB_REGISTERS] = {
		&frame->eax, &frame->ecx,    &frame->edx, &frame->ebx, NULL,	   &frame->ebp, &frame->esi, &frame->edi,
		&frame->eip, &frame->eflags, &frame->cs,  NULL,	       &frame->ds, &frame->es,	&frame->fs,  &frame->gs,
	};

	ipkdbcopy(all, place, sizeof(all));
}

static void registers_out(struct trap_frame *frame)
{
	uint32_t *place[IPKDB_REGISTERS];

	places(frame, place);
	for (unsigned int number = 0; number < IPKDB_REGISTERS; number++)
		if (place[number])
			ipkdbregs[number] = *place[number];
	ipkdbregs[ESP] = (uint32_t)frame->above;
	__asm__("movl %%ss, %0" : "=r"(ipkdbregs[SS]));
}

static void registers_back(struct trap_frame *frame)
{
	uint32_t *place[IPKDB_REGISTERS];

	places(frame, place);
	for (unsigned int number = 0; number < IPKDB_REGISTERS; number++)
		if (place[number])
			*place[number] = ipkdbregs[number];
}

/* If the debugger's access to memory has faulted, continue at ipkdb_access_failed. */
static bool access_fault(struct trap_frame *frame)
{
	if (frame->vector != TRAP_PAGE_FAULT && frame->vector != GENERAL_PROTECTION)
		return false;
	if (frame->eip != (uintptr_t)ipkdb_load_at && frame->eip != (uintptr_t)ipkdb_store_at)
		return false;
	frame->eip = (uintptr_t)ipkdb_access_failed;
	return true;
}

bool ipkdb_trap_glue(struct trap_frame *frame)
{
	if (access_fault(frame))
		return true;
	if (mode == IPKDB_CMD_EXIT || (frame->vector != TRAP_DEBUG && frame->vector != TRAP_BREAKPOINT))
		return false;
	/* A trace trap that the debugger hasn't requested belongs to the kernel. */
	if (frame->vector == TRAP_DEBUG && mode != IPKDB_CMD_STEP)
		return false;
	frame->eflags &= ~SINGLE_STEP;
	registers_out(frame);
	mode = ipkdbcmds();
	if (mode == IPKDB_CMD_STEP)
		ipkdbregs[EFLAGS] |= SINGLE_STEP;
	else
		ipkdbregs[EFLAGS] &= ~SINGLE_STEP;
	registers_back(frame);
	return true;
}
