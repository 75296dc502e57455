/*
 * The lab's example unikernel: prints its command line, its modules and the PCI functions, then ends.
 * docs/roles/pcihello.md describes its output.
 */
#include "multiboot.h"
#include "platform.h"

/* QEMU's isa-debug-exit, `-device isa-debug-exit,iobase=0xf4`: writing v ends QEMU with status 2v + 1. */
#define DEBUG_EXIT_PORT 0xf4
#define DEBUG_EXIT_DONE 0x10

static const void *physical(uint32_t address)
{
	return (const void *)(uintptr_t)address;
}

static void print_command_line(const struct multiboot_info *info)
{
	console_string("pcihello: command line: ");
	if (info->flags & MULTIBOOT_HAS_COMMAND_LINE)
		console_string(physical(info->command_line));
	console_character('\n');
}

static void print_modules(const struct multiboot_info *info)
{
	const struct multiboot_module *modules = physical(info->modules);

	if (!(info->flags & MULTIBOOT_HAS_MODULES))
		return;
	for (uint32_t index = 0; index < info->module_count; index++) {
		uint32_t size = modules[index].end - modules[index].start;

		console_string("pcihello: module ");
		console_decimal(index);
		console_string(": ");
		console_decimal(size);
		console_string(" bytes, ");
		console_string(physical(modules[index].string));
		console_character('\n');
		console_bytes(physical(modules[index].start), size);
		console_character('\n');
	}
}

/* A function for a breakpoint; it does nothing. */
void pci_device_found(unsigned int bus, unsigned int device, unsigned int function, uint32_t id);

__attribute__((noinline, noclone)) void pci_device_found(unsigned int bus, unsigned int device,
							 unsigned int function, uint32_t id)
{
	/* The operands keep the arguments live up to here, so that a debugger can print them. */
	__asm__ volatile("" : : "r"(bus), "r"(device), "r"(function), "r"(id) : "memory");
}

static void report(unsigned int bus, unsigned int device, unsigned int function, uint32_t id)
{
	console_hex(bus, 2);
	console_character(':');
	console_hex(device, 2);
	console_character('.');
	console_hex(function, 1);
	console_character(' ');
	console_hex(id & 0xffff, 4);
	console_character(':');
	console_hex(id >> 16, 4);
	console_string(" class ");
	console_hex(pci_read(bus, device, function, PCI_CLASS) >> 8, 6);
	console_character('\n');
	pci_device_found(bus, device, function, id);
}

void main(const struct multiboot_info *info);

void main(const struct multiboot_info *info)
{
	console_init();
	print_command_line(info);
	print_modules(info);
	unsigned int functions = pci_walk(0, report);

	console_string("pcihello: ");
	console_decimal(functions);
	console_string(" PCI functions\n");
	console_string("pcihello: done\n");
	out8(DEBUG_EXIT_PORT, DEBUG_EXIT_DONE);
	halt();
}
