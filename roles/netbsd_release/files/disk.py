"""Make a NetBSD guest's disk from binary sets, without root: makefs makes the file system, this file the labels.

Role netbsd_release runs this with the host's Python; docs/roles/netbsd_guest.md describes the disk.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import re
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

SECTOR = 512
# The first partition's first sector: the value that today's sfdisk and sysinst use.
START = 2048
MBR_NETBSD = 0xA9
# disklabel(5), and sys/disklabel.h of NetBSD.
LABEL_MAGIC = 0x82564557
LABEL_HEAD = struct.Struct("<IHH16s16s6I2HI4H3I5I5II2H2I")
LABEL_PARTITION = struct.Struct("<IIIBBH")
PARTITIONS = 16
FS_UNUSED, FS_FFS = 0, 7
FRAGMENT, BLOCK = 2048, 16384
# A file system needs this beyond its files: superblocks, inodes, and blocks that are only partly full.
OVERHEAD = 1.1
# Mount points of the kernel and of rc(8) that no set contains.
MOUNT_POINTS = {"kern": 0o755, "proc": 0o755, "tmp": 0o1777}

# The exceptions of tarfile for damaged sets, in any compression; KeyError is for a link to a missing member.
UNREADABLE = (tarfile.TarError, EOFError, lzma.LZMAError, zlib.error, ValueError, OverflowError, RuntimeError, KeyError)

# The types of the headers that precede a member's own header and describe it, and the longest description in bytes.
DESCRIBING = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)
LONGEST = 1 << 20


class Refused(Exception):
    """The sets or the arguments can't be used; the message says why."""


class Header(tarfile.TarInfo):
    """A header of an archive that refuses long descriptions: tarfile reads one whole, whatever size it declares."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Header:
        """Return the header; tarfile.ReadError if its description is too long."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in DESCRIBING and not 0 <= found.size <= LONGEST:
            raise tarfile.ReadError(f"a description of {found.size} bytes")
        return found


@dataclass
class Entry:
    """An entry of mtree(5): type `file`, `dir` or `link`, permissions, and numeric owner and group."""

    kind: str
    mode: int
    uid: int = 0
    gid: int = 0


def relative(name: str) -> str:
    """Return an archive member's path below the root, "" for the root; Refused if it leads outside the root."""
    path = os.path.normpath(name.lstrip("/"))
    if path == ".." or path.startswith("../"):
        raise Refused(f"{name}: a member outside the root")
    return "" if path == "." else path


def place(root: str, path: str) -> str:
    """Return an entry's path below the root. Make its directory, follow no link, and remove what the path has now."""
    here = os.path.join(root, path)
    parent = os.path.dirname(here)
    if os.path.commonpath([os.path.realpath(parent), os.path.realpath(root)]) != os.path.realpath(root):
        raise Refused(f"{path}: a link in the sets leads outside the root")
    os.makedirs(parent, exist_ok=True)
    if os.path.islink(here) or os.path.isfile(here):
        os.unlink(here)
    return here


def unpack_set(archive: tarfile.TarFile, root: str, entries: dict[str, Entry]) -> None:
    """Unpack a set below `root` with our own user id, and record its files' owners and modes in `entries`."""
    for member in archive:
        path = relative(member.name)
        kind = "dir" if member.isdir() else "link" if member.issym() else "file" if member.isfile() else ""
        if member.islnk():
            target = relative(member.linkname)
            os.link(os.path.join(root, target), place(root, path))
            entries[path] = entries[target]
        elif kind == "dir":
            os.makedirs(os.path.join(root, path), exist_ok=True)
        elif kind == "link":
            os.symlink(member.linkname, place(root, path))
        elif kind == "file":
            content = archive.extractfile(member)
            assert content is not None
            with content, open(place(root, path), "wb") as stream:
                while piece := content.read(1 << 20):
                    stream.write(piece)
            os.utime(os.path.join(root, path), (member.mtime, member.mtime))
        else:
            raise Refused(f"{member.name}: neither file, directory nor link")
        if kind:
            entries[path] = Entry(kind, member.mode & 0o7777, member.uid, member.gid)


def serial_ttys(text: str) -> str:
    """Return ttys(5) with a login on the console, of whatever kind, and without a second one on constty."""
    text = re.sub(r'^(console\s+"[^"]*"\s+)\S+\s+(?:on|off)\b.*$', r"\g<1>vt100 on secure", text, flags=re.MULTILINE)
    return re.sub(r'^(constty\s+"[^"]*"\s+\S+\s+)on\b', r"\g<1>off", text, flags=re.MULTILINE)


def change(root: str, changes: Iterable[Mapping[str, Any]], entries: dict[str, Entry]) -> None:
    """Add the guest's configuration: each file has `path`, `mode`, and `content`, or `append` for text at its end."""
    for one in changes:
        path, mode = relative(one["path"]), int(str(one["mode"]), 8)
        if "content" not in one and "append" not in one:
            os.makedirs(os.path.join(root, path), exist_ok=True)
            entries[path] = Entry("dir", mode)
            continue
        here, before = os.path.join(root, path), b""
        if "append" in one and os.path.isfile(here):
            with open(here, "rb") as stream:
                before = stream.read()
        with open(place(root, path), "wb") as stream:
            stream.write(before + str(one.get("content", one.get("append"))).encode())
        entries[path] = Entry("file", mode)


def spec_name(path: str) -> str:
    """Return a path in mtree(5)'s form, with special characters and pattern characters in octal."""
    name = os.fsencode(path).decode("latin-1")
    return "./" + re.sub(r"[^!-~]|[\\#*?\[\]]", lambda found: f"\\{ord(found[0]):03o}", name)


def spec_lines(entries: Mapping[str, Entry]) -> list[str]:
    """Return the lines of mtree(5) for the entries, each directory before its content."""
    return [
        f"{spec_name(path) if path else '.'} type={entry.kind} mode={entry.mode:04o} uid={entry.uid} gid={entry.gid}"
        for path, entry in sorted(entries.items())
    ]


def add_parents(entries: dict[str, Entry]) -> None:
    """Add the directories that no set lists although they have content."""
    for path in list(entries):
        while path:
            path = os.path.dirname(path)
            entries.setdefault(path, Entry("dir", 0o755))


def device_lines(said: str) -> list[str]:
    """Return the output of `MAKEDEV -s` about the nodes in dev, with paths relative to the root."""
    lines = [line for line in said.splitlines() if line.startswith("./")]
    if not any(line.startswith("./console ") for line in lines):
        raise Refused("MAKEDEV -s names no console: the sets' dev/MAKEDEV has an unknown format")
    return [f"./dev/{line[2:]}" for line in lines]


def devices(root: str) -> list[str]:
    """Return the device nodes that the sets' own MAKEDEV lists: a shell script that with -s only prints."""
    script = os.path.join(root, "dev/MAKEDEV")
    if not os.path.isfile(script):
        raise Refused("the sets have no dev/MAKEDEV; add the set etc")
    done = subprocess.run(
        ["sh", "./MAKEDEV", "-s", "all", "ipty"],
        cwd=os.path.dirname(script),
        stdout=subprocess.PIPE,
        text=True,
        timeout=300,
        check=True,
    )
    return device_lines(done.stdout)


def content_size(root: str) -> int:
    """Return how many bytes the files below `root` need in a file system."""
    size = 0
    for here, directories, files in os.walk(root):
        # An inode has 128 bytes; a name in a directory no more than 264.
        size += (len(directories) + len(files)) * 128 + FRAGMENT
        for name in files:
            status = os.lstat(os.path.join(here, name))
            size += -(-status.st_size // FRAGMENT) * FRAGMENT // status.st_nlink
    return size


def partition_record(start: int, size: int) -> bytes:
    """Return the disk's first sector: one active NetBSD partition, and no boot program."""
    # These values mean: too large for cylinders, heads and sectors, as all disks are today.
    far = b"\xfe\xff\xff"
    entry = struct.pack("<B3sB3sII", 0x80, far, MBR_NETBSD, far, start, size)
    return bytes(446) + entry + bytes(48) + b"\x55\xaa"


def disklabel(start: int, size: int) -> bytes:
    """Return NetBSD's label for x86, the partition's second sector. Sizes and offsets are in sectors.

    `a` is the file system, `c` the NetBSD part of the disk and `d` all of it.
    """
    total = start + size
    parts = [(0, 0, 0, FS_UNUSED, 0, 0)] * PARTITIONS
    parts[0] = (size, start, FRAGMENT, FS_FFS, BLOCK // FRAGMENT, 0)
    parts[2] = (size, start, 0, FS_UNUSED, 0, 0)
    parts[3] = (total, 0, 0, FS_UNUSED, 0, 0)
    sectors, tracks = 63, 16
    geometry = (SECTOR, sectors, tracks, max(total // (sectors * tracks), 1), sectors * tracks, total)

    def made(checksum: int) -> bytes:
        head = LABEL_HEAD.pack(
            *(LABEL_MAGIC, 5, 0, b"rumplab", b"rumplab", *geometry),
            *(0, 0, 0, 5400, 1, 0, 0, 0, 0, 0),
            *([0] * 10),
            *(LABEL_MAGIC, checksum, PARTITIONS, 8192, 8192),
        )
        return head + b"".join(LABEL_PARTITION.pack(*part) for part in parts)

    words = struct.unpack(f"<{len(made(0)) // 2}H", made(0))
    return made(reduce(lambda one, other: one ^ other, words))


def write_disk(image: str, filesystem: str, size: int) -> None:
    """Write the labels and the file system to the disk of `size` bytes; the holes of the file stay holes."""
    with open(filesystem, "rb") as source, open(image, "wb") as disk:
        disk.truncate(START * SECTOR + size)
        disk.write(partition_record(START, size // SECTOR))
        for position in range(0, size, 1 << 20):
            piece = source.read(1 << 20)
            if piece.strip(b"\0"):
                disk.seek(START * SECTOR + position)
                disk.write(piece)
        disk.seek((START + 1) * SECTOR)
        disk.write(disklabel(START, size // SECTOR))


def unpacked(sets: Sequence[str], root: str) -> dict[str, Entry]:
    """Unpack the sets below `root`, in order, and return their entries. Refused if one can't be unpacked."""
    entries: dict[str, Entry] = {}
    for name in sets:
        try:
            with tarfile.open(name, tarinfo=Header) as archive:
                unpack_set(archive, root, entries)
        except UNREADABLE as error:
            raise Refused(f"{name} can't be unpacked: {error}") from error
    return entries


def make_disk(options: argparse.Namespace) -> None:
    """Unpack the sets, add the configuration, list all files, and let makefs make the file system."""
    root, size = os.path.join(options.work, "root"), options.size << 20
    os.makedirs(root)
    entries = unpacked(options.set, root)
    for path, mode in MOUNT_POINTS.items():
        os.makedirs(os.path.join(root, path), exist_ok=True)
        entries.setdefault(path, Entry("dir", mode))
    change(root, json.loads(options.changes), entries)
    if options.pcictl:
        with open(options.pcictl, "rb") as program, open(place(root, "usr/sbin/pcictl"), "wb") as stream:
            stream.write(program.read())
        entries["usr/sbin/pcictl"] = Entry("file", 0o555)
    add_parents(entries)
    ttys = os.path.join(root, "etc/ttys")
    with open(ttys, encoding="utf-8") as stream:
        text = stream.read()
    with open(ttys, "w", encoding="utf-8") as stream:
        stream.write(serial_ttys(text))
    needed = int(content_size(root) * OVERHEAD)
    if needed > size:
        raise Refused(f"netbsd_release_disk_size is {options.size} MiB, and the sets need {(needed >> 20) + 1}")
    spec, filesystem = os.path.join(options.work, "spec"), os.path.join(options.work, "root.ffs")
    with open(spec, "w", encoding="utf-8") as stream:
        stream.write("\n".join([*spec_lines(entries), *devices(root)]) + "\n")
    layout = f"version=1,bsize={BLOCK},fsize={FRAGMENT}"
    argv = [options.makefs, "-t", "ffs", "-o", layout, "-B", "le", "-s", str(size), "-F", spec, filesystem, root]
    subprocess.run(argv, check=True, timeout=3600)
    write_disk(options.image, filesystem, size)


def main(argv: Sequence[str]) -> int:
    """Make the disk that the arguments describe; return the exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--set", action="append", required=True, help="a binary set; the later ones win")
    parser.add_argument("--changes", default="[]", help="the host's own files, JSON")
    parser.add_argument("--pcictl", default="", help="a program in place of the sets' pcictl")
    parser.add_argument("--makefs", required=True)
    parser.add_argument("--size", type=int, required=True, help="of the file system, in MiB")
    parser.add_argument("--work", required=True, help="an empty directory")
    parser.add_argument("image")
    try:
        make_disk(parser.parse_args(argv))
    except (Refused, OSError, tarfile.TarError, subprocess.SubprocessError) as error:
        print(f"the disk can't be made: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
