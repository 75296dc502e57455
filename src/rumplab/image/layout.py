"""How large an image has to be. All sizes are in bytes unless a name says otherwise."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rumplab.errors import RumplabError, UsageError

KIB = 1024
MIB = 1024 * KIB
SECTOR = 512
# The usual first sector: what is left before it holds GRUB's core image.
PARTITION_START = MIB
BLOCK = 4 * KIB
INODES = 64

# An inode points to so many blocks itself, to others by way of blocks of pointers.
DIRECT = 12
POINTERS = BLOCK // 4
BLOCKS_PER_GROUP = 8 * BLOCK
# Superblock, group descriptors, two bitmaps and the inode table: a group has at most that many.
BLOCKS_OF_A_GROUP = 16
# Directories, the 16 KiB of lost+found, and 1 MiB for GRUB's modules, which take a third of it.
FIXED_BLOCKS = 16 + MIB // BLOCK
INODE = 256
INODES_PER_GROUP = 8 * BLOCK
# A descriptor takes 32 bytes, and every copy of the superblock has the descriptors of all groups beside it.
DESCRIPTORS_PER_BLOCK = BLOCK // 32
# An MBR counts sectors in 32 bits.
LARGEST = (2**32 - 1) * SECTOR // MIB * MIB

UNITS = {"": MIB, "m": MIB, "mib": MIB, "g": KIB * MIB, "gib": KIB * MIB}
SIZE = re.compile(r"([0-9]{1,9}) ?([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """`64` (MiB), `64M`, `64MiB`, `1G` or `1GiB` in bytes. UsageError for anything else."""
    match = SIZE.fullmatch(text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"--size {text}: give a number of MiB, or one with M or G")
    size = int(match[1]) * unit
    if not 0 < size <= LARGEST:
        raise UsageError(f"--size {text}: an image has between 1 MiB and {LARGEST // MIB} MiB")
    return size


def blocks_of_file(size: int) -> int:
    """How many blocks an ext2 file of `size` bytes takes: its data and at most its indirect blocks."""
    if size <= DIRECT * BLOCK:
        return -(-size // BLOCK)
    data = -(-size // BLOCK)
    single = -(-data // POINTERS)
    return data + single + -(-single // POINTERS) + 2


def image_size(contents: Iterable[int]) -> int:
    """The size of the smallest image, in whole MiB, that is certain to hold files of these sizes."""
    blocks = FIXED_BLOCKS + sum(map(blocks_of_file, contents))
    groups = 1 + blocks // (BLOCKS_PER_GROUP - BLOCKS_OF_A_GROUP)
    blocks += groups * BLOCKS_OF_A_GROUP
    return PARTITION_START + -(-blocks * BLOCK // MIB) * MIB


def volume_inodes(entries: int) -> int:
    """How many inodes a volume of so many files, directories and links gets: some are left for the guest."""
    return entries + entries // 8 + INODES


def volume_size(contents: Iterable[int], entries: int) -> int:
    """The size of a volume, in whole MiB, that is certain to hold files of these sizes, an eighth more and
    at least 1 MiB. `entries` counts files, directories and links."""
    inodes = volume_inodes(entries)
    blocks = sum(map(blocks_of_file, contents)) + -(-inodes * INODE // BLOCK) + FIXED_BLOCKS
    blocks += blocks // 8
    # A group holds so many inodes, so that many small files need more groups than their data does. Not quite
    # as many are counted on, since mke2fs rounds up.
    least_groups = -(-inodes // (INODES_PER_GROUP - BLOCK // INODE))
    if least_groups > 1:
        blocks = max(blocks, least_groups * BLOCKS_PER_GROUP)
    groups = 1 + blocks // (BLOCKS_PER_GROUP // 2)
    # In each: superblock, two bitmaps, the end of an inode table, the descriptors.
    blocks += groups * (4 + -(-groups // DESCRIPTORS_PER_BLOCK))
    return -(-blocks * BLOCK // MIB) * MIB


def place_volumes(boot: int, sizes: Iterable[int]) -> list[tuple[int, int]]:
    """Start and size in bytes of each volume behind a boot image of `boot` bytes."""
    places = []
    for size in sizes:
        places.append((boot, size))
        boot += size
    return places


def choose(wanted: int | None, needed: int, what: str) -> int:
    """`wanted`, or `needed` without one. RumplabError when that is too small for `what`, or can't be."""
    if needed > LARGEST:
        raise RumplabError(f"{what} is too large: an image has at most {LARGEST // MIB} MiB")
    if wanted is None:
        return needed
    if wanted < needed:
        raise RumplabError(
            f"{what} is larger than the image: it needs {needed // MIB} MiB and --size gives"
            f" {wanted // MIB}; leave --size out or give at least {needed // MIB}"
        )
    return wanted
