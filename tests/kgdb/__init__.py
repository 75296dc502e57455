"""The kernel of examples/kgdb in QEMU, spoken to by packet, by console and by GDB."""
