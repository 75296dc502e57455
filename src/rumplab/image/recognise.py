"""Recognises the format of a disk by its content. Refuses known formats that rumplab doesn't support, with their names,
so that such a file isn't used as a raw disk."""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from typing import BinaryIO

from rumplab.errors import RumplabError
from rumplab.host import regular
from rumplab.image.layout import SECTOR

RAW, QCOW2, VMDK = FORMATS = "raw", "qcow2", "vmdk"
CONVERT = "convert it first: qemu-img convert -f {format} -O qcow2 {path} IMAGE"
UNPACK = "unpack it first: {tool} {path}"


@dataclass(frozen=True)
class Kind:
    """An unsupported kind of file: it has the bytes `magic` at byte `offset`, which counts from the end if negative.
    `name` and `remedy` are for the message."""

    name: str
    offset: int
    magic: bytes
    remedy: str


def foreign(name: str, offset: int, magic: bytes, format: str) -> Kind:
    """A disk in an unsupported format. `format` is QEMU's name of the format."""
    return Kind(name, offset, magic, CONVERT.replace("{format}", format))


def packed(name: str, magic: bytes, tool: str, offset: int = 0) -> Kind:
    return Kind(name, offset, magic, UNPACK.replace("{tool}", tool))


# The first kind that matches counts.
KINDS = (
    Kind(
        "a kernel in Linux's boot protocol",
        0x202,
        b"HdrS",
        "boot it as a guest: rumplab guest create NAME --linux VMLINUX --bzimage {path}",
    ),
    foreign("a VirtualBox disk (VDI)", 0x40, b"\x7f\x10\xda\xbe", "vdi"),
    foreign("a Virtual PC disk (VHD)", 0, b"conectix", "vpc"),
    foreign("a Virtual PC disk (VHD)", -512, b"conectix", "vpc"),
    foreign("a Hyper-V disk (VHDX)", 0, b"vhdxfile", "vhdx"),
    foreign("a QED disk", 0, b"QED\0", "qed"),
    foreign("a Parallels disk", 0, b"WithoutFreeSpace", "parallels"),
    foreign("a Parallels disk", 0, b"WithouFreSpacExt", "parallels"),
    foreign("a qcow disk of version 1", 0, b"QFI\xfb\0\0\0\x01", "qcow"),
    foreign("a sparse disk of VMware ESX", 0, b"COWD", "vmdk"),
    foreign("a disk of Apple's (DMG)", -512, b"koly", "dmg"),
    foreign("an encrypted disk (LUKS)", 0, b"LUKS\xba\xbe", "luks"),
    packed("packed by gzip", b"\x1f\x8b", "gunzip --keep"),
    packed("packed by xz", b"\xfd7zXZ\0", "unxz --keep"),
    packed("packed by zstd", b"\x28\xb5\x2f\xfd", "unzstd"),
    packed("packed by bzip2", b"BZh", "bunzip2 --keep"),
    packed("a zip archive", b"PK\x03\x04", "unzip"),
    packed("a 7z archive", b"7z\xbc\xaf\x27\x1c", "7z x"),
    packed("a tar archive", b"ustar", "tar -xf", 257),
    Kind("a cpio archive, an initial RAM file system", 0, b"07070", "give it to: rumplab guest create --initrd"),
    Kind("a squashfs file system, without a disk around it", 0, b"hsqs", "make a disk that boots of it"),
    Kind("a program for EFI or Windows", 0, b"MZ", "the machine has a BIOS, which boots a disk; name one"),
    Kind("a Mach-O program", 0, b"\xcf\xfa\xed\xfe", "name an ELF program, or a disk"),
)
# ISO 9660: the identifier in the first descriptor, after the byte with the descriptor's type.
CD_AT, CD = 16 * 2048 + 1, b"CD001"
DESCRIPTOR = b"# Disk DescriptorFile"
# The most bytes that QEMU reads of a descriptor.
LARGEST_DESCRIPTOR = 20 * SECTOR
EXTENT = re.compile(r'^[ \t]*(?:RW|RDONLY|NOACCESS)[ \t]+\d+[ \t]+(\w+)(?:[ \t]+"([^"]*)")?', re.MULTILINE)
PARENT = re.compile(r"^[ \t]*parentCID[ \t]*=[ \t]*(\w+)", re.MULTILINE)
NO_PARENT = "ffffffff"
# The bytes of a text file. A disk doesn't begin with such bytes only.
TEXT = frozenset(range(0x20, 0x7F)) | {0x09, 0x0A, 0x0D} | frozenset(range(0x80, 0x100))


def format_of(path: str) -> str:
    """The format of the file `path`: RAW, QCOW2 or VMDK. RumplabError for another kind of file; OSError when it can't
    be read."""
    with regular.opened(path) as stream:
        head = stream.read(SECTOR * 2)
        if head.startswith(b"QFI\xfb") and head[4:8] != b"\0\0\0\x01":
            return QCOW2
        if head.startswith(b"KDMV"):
            check_sparse(path, head)
            return VMDK
        if head.startswith(DESCRIPTOR):
            check_descriptor(path, head + stream.read(LARGEST_DESCRIPTOR))
            return VMDK
        for kind in KINDS:
            if at(stream, kind) == kind.magic:
                raise RumplabError(f"{path} is {kind.name}, which isn't supported; {kind.remedy.format(path=path)}")
    if head and TEXT.issuperset(head):
        raise RumplabError(f"{path} is a text, not a disk image; name an image or a program")
    return RAW


def at(stream: BinaryIO, kind: Kind) -> bytes:
    """The bytes at the position of the magic of `kind`."""
    try:
        stream.seek(kind.offset, os.SEEK_END if kind.offset < 0 else os.SEEK_SET)
    except OSError:
        # The file is shorter than the offset.
        return b""
    return stream.read(len(kind.magic))


def check_sparse(path: str, head: bytes) -> None:
    """RumplabError for a sparse VMDK without data: QEMU treats it as a descriptor, which names other files."""
    capacity = struct.unpack_from("<Q", head.ljust(SECTOR, b"\0"), 12)[0]
    if not capacity:
        raise RumplabError(f"{path} is a VMDK without data of its own, which isn't supported; {convert_vmdk(path)}")


def check_descriptor(path: str, content: bytes) -> None:
    """RumplabError unless all parts of the VMDK descriptor at `path` are files in its directory. A descriptor could
    name any file of the user as a part, and the guest would read and write that file."""
    text = content.decode(errors="surrogateescape")
    parent = PARENT.search(text)
    if parent and parent[1].lower() != NO_PARENT:
        raise RumplabError(f"{path} is a VMDK over another one, which isn't supported; {convert_vmdk(path)}")
    parts = EXTENT.findall(text)
    if not parts:
        raise RumplabError(f"{path} is a VMDK descriptor that names no part of a disk; get a complete copy of it")
    for kind, name in parts:
        if kind == "ZERO":
            continue
        if kind not in ("FLAT", "SPARSE"):
            raise RumplabError(
                f"{path} is a VMDK with a part of kind {kind}, which isn't supported; {convert_vmdk(path)}"
            )
        if not name or "/" in name or name in (".", ".."):
            raise RumplabError(f"{path} is a VMDK with a part outside its directory, '{name}'; {convert_vmdk(path)}")
        part = os.path.join(os.path.dirname(path), name)
        if os.path.islink(part) or not os.path.isfile(part):
            raise RumplabError(f"{part}, a part of the VMDK {path}, is not a file; copy the part there")


def convert_vmdk(path: str) -> str:
    return CONVERT.format(format="vmdk", path=path)


def boots(path: str) -> bool:
    """Whether a BIOS boots the raw disk: it has the boot signature, or it is a CD, which needs none."""
    with regular.opened(path) as stream:
        if stream.read(SECTOR)[-2:] == b"\x55\xaa":
            return True
    return is_cd(path)


def is_cd(path: str) -> bool:
    """Whether the file has ISO 9660's first descriptor. A hybrid image has it as well and is also a disk."""
    with regular.opened(path) as stream:
        stream.seek(CD_AT)
        return stream.read(len(CD)) == CD
