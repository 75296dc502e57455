#include "platform.h"
#include "trap.h"

/* The machine is left halted, so a debugger can still look at it. */
void trap(struct trap_frame *frame)
{
	serial_string("exception ");
	serial_hex(frame->vector, 2);
	serial_string(" error ");
	serial_hex(frame->error, 8);
	serial_string(" rip ");
	serial_hex(frame->rip, 16);
	serial_string(" cr2 ");
	serial_hex(fault_address(), 16);
	serial_string(", halting\n");
	halt();
}
