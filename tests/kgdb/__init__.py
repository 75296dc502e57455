"""The kernel of examples/kgdb in QEMU: tests send it packets of GDB's protocol, use its console, and attach GDB."""
