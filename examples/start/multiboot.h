/*
 * The parts of Multiboot 1 that the examples need, by the Multiboot Specification 0.6.96. Every field is a
 * little-endian 32-bit word unless a comment says otherwise.
 */
#ifndef MULTIBOOT_H
#define MULTIBOOT_H

#define MULTIBOOT_HEADER_MAGIC 0x1badb002
#define MULTIBOOT_LOADER_MAGIC 0x2badb002

/* Header flags: modules on page boundaries, memory information wanted, address fields valid. */
#define MULTIBOOT_PAGE_ALIGN 0x00000001
#define MULTIBOOT_MEMORY_INFO 0x00000002
#define MULTIBOOT_ADDRESS_FIELDS 0x00010000

/* Flags of struct multiboot_info: the fields that the loader has set. */
#define MULTIBOOT_HAS_COMMAND_LINE 0x00000004
#define MULTIBOOT_HAS_MODULES 0x00000008

#ifndef __ASSEMBLER__
#include <stdint.h>

/* The beginning of the information structure; the examples don't use the rest. */
struct multiboot_info {
	uint32_t flags;
	uint32_t mem_lower; /* KiB below 1 MiB */
	uint32_t mem_upper; /* KiB above 1 MiB */
	uint32_t boot_device;
	uint32_t command_line; /* physical address of a string ending in NUL */
	uint32_t module_count;
	uint32_t modules; /* physical address of an array of struct multiboot_module */
};

struct multiboot_module {
	uint32_t start; /* physical address of the first byte */
	uint32_t end;   /* physical address after the last byte */
	uint32_t string;
	uint32_t reserved;
};
#endif

#endif
