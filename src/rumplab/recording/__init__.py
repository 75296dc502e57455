"""Recordings: runs that QEMU can repeat instruction for instruction, each a directory with all that it takes."""
