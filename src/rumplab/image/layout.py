"""Computes the size of an image. All sizes are in bytes unless a name tells another unit."""

from __future__ import annotations

import re
from collections.abc import Iterable

from rumplab.errors import RumplabError, UsageError

KIB = 1024
MIB = 1024 * KIB
SECTOR = 512
# The usual start of the first partition. GRUB's core image is in the space before it.
PARTITION_START = MIB
BLOCK = 4 * KIB
INODES = 64

# An inode has so many direct pointers to blocks; it reaches other blocks through blocks of pointers.
DIRECT = 12
POINTERS = BLOCK // 4
BLOCKS_PER_GROUP = 8 * BLOCK
# The most blocks of metadata in a group: superblock, group descriptors, two bitmaps and the inode table.
BLOCKS_OF_A_GROUP = 16
# Directories, the 16 KiB of lost+found, and 1 MiB for GRUB's modules, which need a third of it.
FIXED_BLOCKS = 16 + MIB // BLOCK
INODE = 256
INODES_PER_GROUP = 8 * BLOCK
# A group descriptor takes 32 bytes. The descriptors of all groups follow every copy of the superblock.
DESCRIPTORS_PER_BLOCK = BLOCK // 32
# An MBR stores the number of sectors in 32 bits.
LARGEST = (2**32 - 1) * SECTOR // MIB * MIB

UNITS = {"": MIB, "m": MIB, "mib": MIB, "g": KIB * MIB, "gib": KIB * MIB}
SIZE = re.compile(r"([0-9]{1,9}) ?([a-z]*)", re.IGNORECASE)


def parse_size(text: str) -> int:
    """The size in bytes that `text` means: `64` (MiB), `64M`, `64MiB`, `1G` or `1GiB`. UsageError for other text."""
    match = SIZE.fullmatch(text)
    unit = UNITS.get(match[2].lower()) if match else None
    if match is None or unit is None:
        raise UsageError(f"--size {text}: give a number of MiB, or one with M or G")
    size = int(match[1]) * unit
    if not 0 < size <= LARGEST:
        raise UsageError(f"--size {text}: an image has between 1 MiB and {LARGEST // MIB} MiB")
    return size


def blocks_of_file(size: int) -> int:
    """The number of blocks for an ext2 file of `size` bytes: its data, and the most indirect blocks that it needs."""
    if size <= DIRECT * BLOCK:
        return -(-size // BLOCK)
    data = -(-size // BLOCK)
    single = -(-data // POINTERS)
    return data + single + -(-single // POINTERS) + 2


def image_size(contents: Iterable[int]) -> int:
    """The size of an image, rounded up to a MiB, that has room for files of the sizes `contents`."""
    blocks = FIXED_BLOCKS + sum(map(blocks_of_file, contents))
    groups = 1 + blocks // (BLOCKS_PER_GROUP - BLOCKS_OF_A_GROUP)
    blocks += groups * BLOCKS_OF_A_GROUP
    return PARTITION_START + -(-blocks * BLOCK // MIB) * MIB


def volume_inodes(entries: int) -> int:
    """The number of inodes for a volume with `entries` files, directories and links, with spare ones for the guest."""
    return entries + entries // 8 + INODES


def volume_size(contents: Iterable[int], entries: int) -> int:
    """The size of a volume, rounded up to a MiB, that has room for files of the sizes `contents`, plus an eighth and at
    least 1 MiB. `entries` is the number of files, directories and links."""
    inodes = volume_inodes(entries)
    blocks = sum(map(blocks_of_file, contents)) + -(-inodes * INODE // BLOCK) + FIXED_BLOCKS
    blocks += blocks // 8
    # The number of inodes per group is limited, so many small files may need more groups than their data does. The
    # divisor is slightly below the limit, because mke2fs rounds up.
    least_groups = -(-inodes // (INODES_PER_GROUP - BLOCK // INODE))
    if least_groups > 1:
        blocks = max(blocks, least_groups * BLOCKS_PER_GROUP)
    groups = 1 + blocks // (BLOCKS_PER_GROUP // 2)
    # Each group has a superblock, two bitmaps, the partly used last block of an inode table, and the descriptors.
    blocks += groups * (4 + -(-groups // DESCRIPTORS_PER_BLOCK))
    return -(-blocks * BLOCK // MIB) * MIB


def place_volumes(boot: int, sizes: Iterable[int]) -> list[tuple[int, int]]:
    """(start, size) in bytes of each volume after a boot image of `boot` bytes."""
    places = []
    for size in sizes:
        places.append((boot, size))
        boot += size
    return places


def choose(wanted: int | None, needed: int, what: str) -> int:
    """The size `wanted`, or `needed` if that is None. RumplabError when `wanted` is too small for `what`, or `needed`
    is larger than an image can be."""
    if needed > LARGEST:
        raise RumplabError(f"{what} is too large: an image has at most {LARGEST // MIB} MiB")
    if wanted is None:
        return needed
    if wanted < needed:
        raise RumplabError(
            f"{what} is larger than the image: it needs {needed // MIB} MiB and --size gives"
            f" {wanted // MIB}; omit --size or give at least {needed // MIB}"
        )
    return wanted
