"""A reader of UFS1 file systems (the format of 4.2BSD, little-endian), for tests of images that other programs made.

The offsets are those of struct fs, struct ufs1_dinode and struct direct in NetBSD's sys/ufs.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

SUPERBLOCK, MAGIC = 8192, 0x011954
INODE, ROOT, DIRECT = 128, 2, 12
DIRECTORY = 0o040000


@dataclass
class Inode:
    """The fields of an inode. `pointers` has the raw numbers of its 12 direct and 3 indirect blocks."""

    mode: int
    links: int
    size: int
    uid: int
    gid: int
    pointers: bytes

    @property
    def device(self) -> tuple[int, int]:
        """Return (major, minor), as NetBSD's makedev() packs them."""
        (packed,) = struct.unpack_from("<I", self.pointers)
        return (packed >> 8) & 0xFFF, (packed >> 12) & 0xFFF00 | packed & 0xFF


class FileSystem:
    """A file system that begins at the first byte of `image`."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        (magic,) = struct.unpack_from("<I", image, SUPERBLOCK + 1372)
        if magic != MAGIC:
            raise ValueError(f"the image is not UFS1: magic {magic:#x}")
        self.inodes_at = self.word(16)
        self.offset, self.mask = self.word(24), self.word(28)
        self.block, self.fragment, self.frags = self.word(48), self.word(52), self.word(56)
        self.per_group, self.group = self.word(184), self.word(188)

    def word(self, offset: int) -> int:
        """Return the 32-bit number at this offset of the superblock."""
        return int(struct.unpack_from("<i", self.image, SUPERBLOCK + offset)[0])

    def inode(self, number: int) -> Inode:
        """Return an inode."""
        group, index = divmod(number, self.per_group)
        start = group * self.group + self.offset * (group & ~self.mask) + self.inodes_at
        at = start * self.fragment + index * INODE
        mode, links, _, size = struct.unpack_from("<HHIQ", self.image, at)
        uid, gid = struct.unpack_from("<II", self.image, at + 112)
        return Inode(mode, links, size, uid, gid, self.image[at + 40 : at + 100])

    def content(self, inode: Inode) -> bytes:
        """Return a file's content. Raise ValueError if the file has more than one indirect block."""
        pointers = list(struct.unpack("<15i", inode.pointers))
        blocks = pointers[:DIRECT]
        if inode.size > DIRECT * self.block:
            at = pointers[DIRECT] * self.fragment
            blocks += struct.unpack_from(f"<{self.block // 4}i", self.image, at)
        if inode.size > len(blocks) * self.block:
            raise ValueError("the file is larger than this reader supports")
        pieces = (self.image[at * self.fragment :][: self.block] if at else bytes(self.block) for at in blocks)
        return b"".join(pieces)[: inode.size]

    def link(self, inode: Inode) -> str:
        """Return the target of a symbolic link. The inode itself has a short target."""
        return (inode.pointers[: inode.size] if inode.size < 60 else self.content(inode)).decode()

    def walk(self, number: int = ROOT, path: str = "") -> Iterator[tuple[str, int, Inode]]:
        """Yield (path, inode number, inode) of a directory and of everything below it."""
        inode = self.inode(number)
        yield path or ".", number, inode
        if inode.mode & 0o170000 != DIRECTORY:
            return
        content, at = self.content(inode), 0
        while at < len(content):
            entry, length, _, size = struct.unpack_from("<IHBB", content, at)
            name = content[at + 8 : at + 8 + size].decode()
            if entry and name not in (".", ".."):
                yield from self.walk(entry, f"{path}/{name}" if path else name)
            at += length
