#include "platform.h"
#include "trap.h"

/* Halts the machine, so that a debugger can still inspect it. */
void trap(struct trap_frame *frame)
{
	console_string("exception ");
	console_hex(frame->vector, 2);
	console_string(" error ");
	console_hex(frame->error, 8);
	console_string(" rip ");
	console_hex(frame->rip, 16);
	console_string(" cr2 ");
	console_hex(fault_address(), 16);
	console_string(", halting\n");
	halt();
}
