"""The code that each leg of a recorded run executes: the addresses of all instructions that QEMU translates for it.

A QEMU that starts at a snapshot has translated nothing, and it translates each instruction before it executes it. So a
breakpoint whose address isn't among the translated ones is not reached in the leg, and a search can skip the leg.
"""

from __future__ import annotations

import mmap
import os
import re
import sys
from array import array
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

# A block of code in QEMU's log (-d in_asm): the first instruction's address, and the last one's.
BLOCK = re.compile(rb"^IN:[^\n]*\n0x([0-9a-f]+):[^\n]*\n(?:0x([0-9a-f]+):[^\n]*\n)*", re.MULTILINE)


@dataclass(frozen=True)
class Code:
    """Ranges of addresses, sorted and apart: each from `starts[n]` to `ends[n]`, with both."""

    starts: array[int]
    ends: array[int]

    def contains(self, address: int) -> bool:
        at = bisect_right(self.starts, address)
        return at > 0 and address <= self.ends[at - 1]

    def write(self, path: Path) -> None:
        words = array("Q", [*self.starts, *self.ends])
        if sys.byteorder == "big":
            words.byteswap()
        path.write_bytes(words.tobytes())


def made(ranges: Iterable[tuple[int, int]]) -> Code:
    """Returns `ranges`, each the first and the last address, without overlaps."""
    starts, ends = array("Q"), array("Q")
    for start, end in sorted(ranges):
        if ends and start <= ends[-1] + 1:
            ends[-1] = max(ends[-1], end)
        else:
            starts.append(start)
            ends.append(end)
    return Code(starts, ends)


def read(path: Path) -> Code:
    """Returns what Code.write() wrote. OSError; ValueError if the size is wrong."""
    words = array("Q")
    words.frombytes(path.read_bytes())
    if len(words) % 2:
        raise ValueError(f"{path} has a wrong size")
    if sys.byteorder == "big":
        words.byteswap()
    half = len(words) // 2
    return Code(words[:half], words[half:])


def logged(path: Path) -> Code:
    """Returns the code in QEMU's log at `path`."""
    with path.open("rb") as handle:
        if not os.fstat(handle.fileno()).st_size:
            return made(())
        with mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as data:
            found = {(int(block[1], 16), int(block[2] or block[1], 16)) for block in BLOCK.finditer(data)}
    return made(found)
