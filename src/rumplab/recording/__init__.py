"""Recordings: each is a directory with all files that QEMU needs to repeat a run instruction for instruction."""
