"""Machines: QEMU's command line, its start and end, and the record of each."""
