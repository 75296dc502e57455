#include "platform.h"

#define EXCEPTIONS 32
#define ENTRY_SIZE 16 /* exception_entries are that far apart */
#define CODE_SELECTOR 0x08
#define INTERRUPT_GATE 0x8e

struct gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t stack;
	uint8_t type;
	uint16_t offset_middle;
	uint32_t offset_high;
	uint32_t reserved;
};

struct table_register {
	uint16_t limit;
	uint64_t base;
} __attribute__((packed));

extern const char exception_entries[];

static struct gate gates[EXCEPTIONS];

void exceptions_init(void)
{
	for (unsigned int vector = 0; vector < EXCEPTIONS; vector++) {
		uint64_t entry = (uint64_t)(uintptr_t)(exception_entries + vector * ENTRY_SIZE);

		gates[vector] = (struct gate){
			.offset_low = (uint16_t)entry,
			.selector = CODE_SELECTOR,
			.type = INTERRUPT_GATE,
			.offset_middle = (uint16_t)(entry >> 16),
			.offset_high = (uint32_t)(entry >> 32),
		};
	}
	struct table_register table = {sizeof(gates) - 1, (uint64_t)(uintptr_t)gates};

	__asm__ volatile("lidt %0" : : "m"(table));
}

/* Called from exceptions.S. The machine is left halted, so a debugger can still look at it. */
void exception(uint64_t vector, uint64_t error, uint64_t rip, uint64_t cr2)
{
	serial_string("exception ");
	serial_hex(vector, 2);
	serial_string(" error ");
	serial_hex(error, 8);
	serial_string(" rip ");
	serial_hex(rip, 16);
	serial_string(" cr2 ");
	serial_hex(cr2, 16);
	serial_string(", halting\n");
	halt();
}
