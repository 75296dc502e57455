"""Repeating a recording: forwards by QEMU, backwards by repeating it forwards in a fresh QEMU."""
