#include "platform.h"
#include "trap.h"

#define ENTRY_SIZE 16 /* the distance of trap_entries in bytes */
#define CODE_SELECTOR 0x08
#define INTERRUPT_GATE 0x8e

struct gate {
	uint16_t offset_low;
	uint16_t selector;
	uint8_t stack;
	uint8_t type;
	uint16_t offset_middle;
#ifdef __x86_64__
	uint32_t offset_high;
	uint32_t reserved;
#endif
};

struct table_register {
	uint16_t limit;
	uintptr_t base;
} __attribute__((packed));

extern const char trap_entries[];

static struct gate gates[TRAP_VECTORS];

void traps_init(void)
{
	for (unsigned int vector = 0; vector < TRAP_VECTORS; vector++) {
		uintptr_t entry = (uintptr_t)(trap_entries + vector * ENTRY_SIZE);

		gates[vector] = (struct gate){
			.offset_low = (uint16_t)entry,
			.selector = CODE_SELECTOR,
			.type = INTERRUPT_GATE,
			.offset_middle = (uint16_t)(entry >> 16),
#ifdef __x86_64__
			.offset_high = (uint32_t)(entry >> 32),
#endif
		};
	}
	struct table_register table = {sizeof(gates) - 1, (uintptr_t)gates};

	__asm__ volatile("lidt %0" : : "m"(table));
}
