#include "small.h"

#define PRESENT 1u
#define WRITABLE 2u
#define ENTRIES (PAGE_SIZE / sizeof(uintptr_t))
#define TABLES (MAPPED / PAGE_SIZE / ENTRIES)
#define CR0_PAGING 0x80000000u

typedef uintptr_t page_table[ENTRIES] __attribute__((aligned(PAGE_SIZE)));

uint8_t memory_hole[PAGE_SIZE] __attribute__((aligned(PAGE_SIZE)));
uint8_t ramdisk[1u << 20] __attribute__((aligned(PAGE_SIZE)));

static page_table tables[TABLES];
static page_table directory;
#ifdef __x86_64__
static page_table pointers, top;
#endif

static uintptr_t *entry(uintptr_t address)
{
	return &tables[address / PAGE_SIZE / ENTRIES][address / PAGE_SIZE % ENTRIES];
}

void memory_init(void)
{
	uintptr_t root;

	for (uintptr_t address = 0; address < MAPPED; address += PAGE_SIZE)
		*entry(address) = address | PRESENT | WRITABLE;
	*entry(0) = 0;
	*entry((uintptr_t)memory_hole) = 0;
	for (unsigned int table = 0; table < TABLES; table++)
		directory[table] = (uintptr_t)tables[table] | PRESENT | WRITABLE;
#ifdef __x86_64__
	pointers[0] = (uintptr_t)directory | PRESENT | WRITABLE;
	top[0] = (uintptr_t)pointers | PRESENT | WRITABLE;
	root = (uintptr_t)top;
#else
	root = (uintptr_t)directory;
#endif
	__asm__ volatile("mov %0, %%cr3" : : "r"(root) : "memory");
#ifndef __x86_64__
	uint32_t control;

	__asm__ volatile("mov %%cr0, %0" : "=r"(control));
	__asm__ volatile("mov %0, %%cr0" : : "r"(control | CR0_PAGING) : "memory");
#endif
	for (unsigned int at = 0; at < sizeof(ramdisk); at++)
		ramdisk[at] = (uint8_t)(at * 167);
}

bool memory_accessible(uintptr_t address, size_t length)
{
	/* As in NetBSD, the page with the last byte isn't checked, unless it is the only one. */
	uintptr_t last = (address + length) & ~(uintptr_t)(PAGE_SIZE - 1);

	address &= ~(uintptr_t)(PAGE_SIZE - 1);
	do {
		/*
		 * Beyond MAPPED there is no page table to check. NetBSD would fault here when it reads the table;
		 * in this kernel, the access itself faults.
		 */
		if (address < MAPPED && !(*entry(address) & PRESENT))
			return false;
		address += PAGE_SIZE;
	} while (address < last);
	return true;
}
