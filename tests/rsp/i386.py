"""The places of the i386 registers in a 'g' reply, as GDB expects them from a stub without target description.

The numbers are those of gdb/i386-tdep.c. The order, with sizes in bytes: eight general registers of 4, eip, eflags, six
segment registers of 4, eight x87 registers of 10, eight x87 control words of 4, eight SSE registers of 16, mxcsr.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

OFFSETS = {"eax": 0, "eip": 32, "st0": 64, "mxcsr": 304}
NUMBERS = {"eax": 0, "eip": 8, "st0": 16, "mxcsr": 40}
FULL = 308


def reply(size: int, values: Mapping[str, int]) -> str:
    """Return a 'g' reply of `size` bytes in hex digits: zeros, except the 4-byte `values` that fit in the size."""
    raw = bytearray(max(size, FULL))
    for name, value in values.items():
        struct.pack_into("<I", raw, OFFSETS[name], value)
    return raw[:size].hex()


def x87(mantissa: int, exponent: int) -> str:
    """Return an 80-bit x87 register in hex digits, as a 'p' reply carries it."""
    return struct.pack("<QH", mantissa, exponent).hex()
