"""Readers of files in other projects' formats: programs, disks, captures, archives, configurations, sources."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import http.client
import io
import lzma
import os
import shutil
import struct
import tarfile
import urllib.error
from ipaddress import IPv4Address
from pathlib import Path

from ansible.errors import AnsibleFilterError
from ipkdb.kernel import KEY, seal
from unit.image.test_multiboot import elf, header, placed
from unit.ipkdb.test_capture import block
from unit.roles.test_netbsd_disk import DISK

from fuzz.engine import Reader
from fuzz.mutations import binary, text
from fuzz.records import TOOL, VMX, written
from plugins.filter import netbsd
from plugins.module_utils.artifact import built, credentials, fetch, unpack
from plugins.module_utils.artifact.errors import Broken, Unreachable
from rumplab.building import gofile, golang, gopath, target
from rumplab.building import record as build_record
from rumplab.errors import RumplabError
from rumplab.image import grub, multiboot, recognise, recorded, rumprun_config, vmdk
from rumplab.ipkdb import capture_record, decode, ipv4, pcap
from rumplab.ipkdb.ipv4 import Datagram
from rumplab.machine import boot_media, macs, vga_text
from rumplab.vmware import vmx

# Programs and disks.


def program_with_notes(wide: bool) -> bytes:
    """Return an ELF program whose only segment is a note with Xen's entry point."""
    note = struct.pack("<III", 4, 8 if wide else 4, 18) + b"Xen\0" + b"\0" * 8
    if wide:
        head = struct.pack("<4sBBB9xHHIQQQIHHH", b"\x7fELF", 2, 1, 1, 2, 62, 1, 0, 64, 0, 0, 64, 56, 1).ljust(64, b"\0")
        return head + struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4) + note
    head = struct.pack("<4sBBB9xHHIIIIIHHH", b"\x7fELF", 1, 1, 1, 2, 3, 1, 0, 52, 0, 0, 52, 32, 1).ljust(52, b"\0")
    return head + struct.pack("<IIIIIIII", 4, 84, 0, 0, len(note), len(note), 4, 4) + note


PROGRAMS = (placed(header(), 64, 400), program_with_notes(True), program_with_notes(False), elf() + header(3))


def program(data: bytes, place: Path) -> object:
    path = written(place, "program", data)
    with contextlib.suppress(RumplabError):
        multiboot.check_program(path)
    if multiboot.elf_problem(data[: multiboot.SEARCH]) is None:
        multiboot.boots_directly(data[: multiboot.SEARCH])
        multiboot.hosted(data[: multiboot.SEARCH])
    return multiboot.direct_problem(str(path))


QCOW2 = struct.pack(">4sIQIIQIIQQIIQ", b"QFI\xfb", 3, 0, 0, 16, 1 << 20, 0, 1, 0x30000, 0x10000, 1, 0, 0).ljust(
    1024, b"\0"
)
SPARSE = (
    struct.pack("<4sIIQQQQ", b"KDMV", 1, 3, 2048, 128, 1, 20).ljust(512, b"\0")
    + vmdk.descriptor("disk", 1 << 20, "monolithicSparse").encode()
)
DESCRIPTOR = vmdk.descriptor("disk-flat", 1 << 20, "monolithicFlat").encode().rstrip(b"\n").replace(b"SPARSE", b"FLAT")
RAW = bytes(510) + b"\x55\xaa" + bytes(512)
DISK_WORDS = (b"KDMV", b"QFI\xfb", b"COWD", b"conectix", b"koly", b"# Disk DescriptorFile", b"parentCID=0", b"SPARSE")


def disk_image(data: bytes, place: Path) -> object:
    """Examine the image as `rumplab run` does."""
    written(place, "disk-flat", b"")
    path = str(written(place, "disk", data))
    found = boot_media.inspect(path)
    others = recorded.references(path, found.format) if found.format else None
    return [found, recognise.boots(path), recognise.is_cd(path), others]


MODDEP = b"normal: terminal crypto extcmd\nmultiboot: boot video\nserial: terminal\nterminal:\ncrypto:\nextcmd:\n"
MODDEP += b"boot:\nvideo:\nbiosdisk:\npart_msdos:\next2: fshelp\nfshelp:\n"


def grub_modules(data: bytes, place: Path) -> object:
    return grub.modules_in_file_system(data.decode(errors="replace"))


# Captures.

PEER, KERNEL = (IPv4Address("10.0.1.1"), 40000), (IPv4Address("10.0.1.50"), 1138)
PACKETS = [
    ipv4.encode(Datagram(PEER, KERNEL, seal(0, b"O\0\0\1\0me@here")), 1),
    ipv4.encode(Datagram(KERNEL, PEER, seal(0, b"s")), 2),
    ipv4.encode(Datagram(PEER, KERNEL, seal(1, b"M" + struct.pack(">II", 0xC0100000, 4))), 3),
]


def classic(order: str, magic: int, link: int, before: bytes) -> bytes:
    found = struct.pack(f"{order}IHHiIII", magic, 2, 4, 0, 0, 65535, link)
    for packet in PACKETS:
        frame = before + packet
        found += struct.pack(f"{order}IIII", 7, 5, len(frame), len(frame)) + frame
    return found


def newer(order: str) -> bytes:
    options = struct.pack(f"{order}HHB3xHHq", 9, 1, 9, 14, 8, 5)
    found = block(order, 0x0A0D0D0A, struct.pack(f"{order}IHHq", 0x1A2B3C4D, 1, 0, -1))
    found += block(order, 1, struct.pack(f"{order}HHI", capture_record.RAW, 0, 0) + options)
    for packet in PACKETS:
        size = len(packet)
        found += block(order, 6, struct.pack(f"{order}IIIII", 0, 0, 7, size, size) + packet)
        found += block(order, 3, struct.pack(f"{order}I", size) + packet)
        found += block(order, 2, struct.pack(f"{order}HHIIII", 0, 0, 0, 7, size, size) + packet)
    return found


CAPTURES = (
    classic("<", pcap.MAGIC, capture_record.RAW, b""),
    classic(">", pcap.MAGIC_NANO, capture_record.ETHERNET, b"\1" * 12 + b"\x81\0\0\5\x08\0"),
    classic("<", pcap.MAGIC, capture_record.LINUX_COOKED_2, b"\x08\0" + b"\0" * 18),
    newer("<"),
    newer(">"),
)


def capture(data: bytes, place: Path) -> object:
    found = decode.read(written(place, "capture", data), KEY)
    return [decode.as_text(found.lines), [line.as_data() for line in found.lines]]


def ip_packet(data: bytes, place: Path) -> object:
    return ipv4.decode(data)


# Configurations that people write.

VMX_FILE = vmx.write(vmx.settings(vmx.Machine("hello", "disk.vmdk", "serial.log"))).encode()


def vmx_file(data: bytes, place: Path) -> object:
    return vmx.stub_port(vmx.read(written(place, "x.vmx", data)), "x.vmx")


YAML = b"""\
rc:
  - bin: hello
    args: [a, "b c", '1.10']
    runmode: background
env: {PATH: /bin, A: "\\u00e9"}
hostname: lab.example.org
net:
  interfaces:
    vioif0:
      create: true
      addrs: [dhcp, auto, 10.0.0.2/24, "fd00::2/64"]
  gateways: [10.0.0.1, "fd00::1"]
  dns: {nameservers: [10.0.0.1], search: [example.org]}
blk:
  vnd0: {type: vnd, path: /x}
mount:
  /data: {source: blk, path: /dev/ld0e}
  /tmp: {source: tmpfs, size: 16M}
"""
YAML_SHORT = b"rc: [{bin: &a hello, args: &b [*a, x]}]\nenv: {A: b}\n"
YAML_WORDS = (
    *(b"&a ", b"*a", b"*b", b"- ", b"? ", b": ", b"[", b"]", b"{", b"}", b"!!", b"!", b"|", b">-", b"%YAML 1.1\n---\n"),
    *(b'"\\UFFFFFFFF"', b'"\\xff"', b"!<%ff>", b"%YAML 9" + b"9" * 5000 + b".1\n---\n", b"<<", b"---\n", b"...\n"),
    *(b"#", b"2001-01-01", b"0x_", b"1:1:1", b".inf", b"~", b"rc:", b"args:", b"&b [*b]", b"fe80::1%x/64"),
)


def yaml_file(data: bytes, place: Path) -> object:
    return rumprun_config.configuration(written(place, "rumprun.yml", data), "old" if len(data) % 3 == 0 else "new")


GO = b"""\
// +build linux,!arm rumprun

package main // comment

/*
#cgo rumprun LDFLAGS: -L${SRCDIR} -lm "-lx y"
#cgo CFLAGS: -DX
#include <stdio.h>
*/
import "C"

import (
	"fmt"
	other `os`; . "./inner"
)

func main() { fmt.Println("x") }
"""
GO_WORDS = (
    *(b"import ", b"import (", b"/*", b"*/", b"//", b"`", b'"', b'\\"', b"#cgo ", b"#cgo\t", b":", b"LDFLAGS:"),
    *(b"\npackage ", b"+build ", b"(", b")", b";", b"pkg-config: ", b'import "C"\n', b"// +build "),
)
TOOLS = target.Tools(target.Target("/x/x86_64-rumprun-netbsd-gcc", "rumprun", "amd64"), "/x", (), ())


def go_file(data: bytes, place: Path) -> object:
    head = gofile.read_head(data.decode(errors="replace"))
    tags = gofile.tags("rumprun", "amd64", 7)
    package = gopath.Package("x", str(place), None, (gopath.Source("x_rumprun.go", "", head, False),))
    finder = gopath.Finder(str(place), (gopath.Root("", str(place)),))
    found = [finder.find(path, package) for path in package.imports[:20]]
    return [found, gofile.selected("x_rumprun.go", head, tags), list(golang.libraries([package], tags))]


def go_mod(data: bytes, place: Path) -> object:
    written(place, "program/go.mod", data)
    root = gopath.root_of(str(place / "program"), ())
    return root and root.path_of(str(place / "program" / "x"))


def go_version(data: bytes, place: Path) -> object:
    written(place, "VERSION", data)
    return target.go_release(str(place))


RULES = b"main.o: main.c \\\n /usr/include/std\\ io.h inner/$$x.h\nother.o: other.c\n"


def make_rules(data: bytes, place: Path) -> object:
    rules = data.decode("utf-8", "surrogateescape")
    found = build_record.read_files(rules, [str(place)], ["/usr"], 0.0)
    return [build_record.complete(rules), found]


HASHES = b"SHA512 (NetBSD-10.1/amd64/binary/sets/base.tar.xz) = " + b"0123456789abcdef" * 8 + b"\n"
HASHES += b"SHA256 (./shared/ALL) = " + b"01" * 32 + b"\n-----BEGIN PGP SIGNATURE-----\n"


def hash_list(data: bytes, place: Path) -> object:
    return netbsd.netbsd_hash_list(data.decode(errors="replace"))


NETRC = b"machine example.org login me password secret\nmachine x\n\tlogin a\n\tpassword b\n# y\ndefault login q\n"


def netrc_file(data: bytes, place: Path) -> object:
    path = written(place, "netrc", data)
    path.chmod(0o600)
    try:
        credentials.load(str(path))
        return credentials.split("http://example.org/x")
    finally:
        credentials.load("")


# Replies of HTTP servers.

HTTP = (
    b"HTTP/1.1 200 OK\r\nContent-Type: application/gzip\r\nContent-Length: 5\r\n\r\nhello",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX: y\r\n\r\n",
)
HTTP_WORDS = (b"\r\n", b"HTTP/1.1 404 \xff\r\n", b"Content-Length: ", b"\xb2", b"-1", b"text/html", b"ffffffffff\r\n")


class Line:
    """A connection on which a server has sent `said`, and then closed its side."""

    def __init__(self, said: bytes) -> None:
        self.said = said

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(io.BytesIO(self.said))


def http_answer(data: bytes, place: Path) -> object:
    """Download the body to a file, with urllib's errors but without Ansible's redirections."""

    def opener(url: str, timeout: float) -> http.client.HTTPResponse:
        response = http.client.HTTPResponse(Line(data))  # type: ignore[arg-type]
        response.begin()
        if response.status >= 400:
            raise urllib.error.HTTPError(url, response.status, response.reason, response.headers, response)
        response.url = url
        return response

    fetch._download("http://example.org/x.tar.gz", str(place / "x.part"), opener, 5.0)
    return None


# Pictures of a guest's screen.

PPM = b"P6\n720 4\n255\n" + bytes(3 * 720 * 4)
DOT = b"P6 1 1 255 \0\1\2"
SMALL = b"P6 4 2 255 " + b"\0\1\2" * 8


def picture(data: bytes, place: Path) -> object:
    found = vga_text.read_ppm(data)
    vga_text.layout(found, 3, 24)
    return vga_text.png(found)


def bridge_table(data: bytes, place: Path) -> object:
    written(place, "rumplab0/brforward", data)
    return macs.learned("rumplab0", place)


# Archives.


def tar(kind: int = tarfile.GNU_FORMAT, headers: dict[str, str] | None = None) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind, pax_headers=headers) as made:
        for name in ("top/file", "top/" + "n" * 120):
            one = tarfile.TarInfo(name)
            one.size, one.mtime = 3, 1
            if kind == tarfile.PAX_FORMAT:
                one.pax_headers = {"comment": "x", "mtime": "1.5"}
            made.addfile(one, io.BytesIO(b"abc"))
        for name, type_, target_ in (("top/dir", tarfile.DIRTYPE, ""), ("top/link", tarfile.SYMTYPE, "file")):
            one = tarfile.TarInfo(name)
            one.type, one.linkname, one.mode = type_, target_, 0o755
            made.addfile(one)
        one = tarfile.TarInfo("top/hard")
        one.type, one.linkname = tarfile.LNKTYPE, "top/file"
        made.addfile(one)
    # Without most of the padding at the end, which is zeros.
    return stream.getvalue().rstrip(b"\0") + bytes(1024)


def package(content: bytes) -> bytes:
    def member(name: bytes, data: bytes) -> bytes:
        return name.ljust(48) + str(len(data)).encode().ljust(10) + b"`\n" + data + b"\n" * (len(data) % 2)

    return b"!<arch>\n" + member(b"debian-binary", b"2.0\n") + member(b"data.tar", content)


TARS = (tar(), tar(tarfile.PAX_FORMAT))
TREES = (tar(tarfile.PAX_FORMAT, {built.STAMP: "gdb 01"}), tar(tarfile.PAX_FORMAT, {built.STAMP: "gdb 02"}))
ARCHIVES = (*TARS, *TARS, package(TARS[0]), gzip.compress(TARS[0]), bz2.compress(TARS[1]), lzma.compress(TARS[0]))
TAR_WORDS = (
    *(b"ustar\x0000", b"ustar  \0", b"../../escaped", b"/escaped", b"top/link/x", b"top/file/x\0"),
    *(b"\x80" + b"\0" * 10 + b"\x01", b"\xff" * 12, b"77777777777\0", b"22 path=../../escaped\n", b"13 size=-1\n\n"),
    *(b"14 mtime=nan\n", b"16 mtime=1e400\n", b"20 GNU.sparse.map=x\n", b"22 GNU.sparse.size=x1\n"),
    *(b"23 GNU.sparse.major=1\n\n", b"21 hdrcharset=BINARY\n", b"12 path=a\0b\n"),
)


def cleared(place: Path) -> Path:
    inner = place / "inner"
    try:
        os.mkdir(inner)
    except FileExistsError:
        shutil.rmtree(inner)
        os.mkdir(inner)
    return inner


def inside(place: Path, inner: Path, name: str) -> None:
    """Assert that the reader wrote only to directory `name` in `inner`; `place` has `inner` and the input."""
    assert os.listdir(inner) in ([], [name]) and len(os.listdir(place)) == 2


def archive(data: bytes, place: Path) -> object:
    """Unpack an archive, which must not write outside the directory."""
    inner = cleared(place)
    try:
        return unpack.unpack(str(written(place, "archive", data)), str(inner / "out"))
    finally:
        inside(place, inner, "out")


def built_tree(data: bytes, place: Path) -> object:
    """Restore a tree from the cache of built trees."""
    inner = cleared(place)
    written(place, "cache/gdb-01.tar", data)
    try:
        return built.restore(str(place / "cache"), "gdb", "01", str(inner / "out"))
    finally:
        inside(place, inner, "out")


def binary_set(data: bytes, place: Path) -> object:
    """Unpack a set as role netbsd_guest does."""
    inner = cleared(place)
    path = written(place, "set", data)
    (inner / "root").mkdir()
    try:
        return DISK.spec_lines(DISK.unpacked([str(path)], str(inner / "root")))
    finally:
        inside(place, inner, "root")


READERS = (
    Reader("program", program, PROGRAMS, mutation=binary((b"\x02\xb0\xad\x1b", b"\x7fELF"))),
    Reader("disk", disk_image, (QCOW2, SPARSE, DESCRIPTOR, RAW), TOOL, binary(DISK_WORDS)),
    Reader("vmdk-descriptor", disk_image, (DESCRIPTOR,), TOOL, text(*DISK_WORDS, b"RW 1 FLAT", b"parentCID=")),
    Reader("grub-moddep", grub_modules, (MODDEP,), TOOL, text(b"normal", b": ", b"multiboot", b"terminal")),
    Reader("capture", capture, CAPTURES, TOOL),
    Reader("ipv4", ip_packet, PACKETS, (ipv4.NotUdp,)),
    Reader("vmx", vmx_file, (VMX_FILE, VMX), TOOL, text(b"debugStub.port.guest64", b" = ", b"|22", b"TRUE")),
    Reader("rumprun-yaml", yaml_file, (YAML, YAML_SHORT, YAML_SHORT), TOOL, text(*YAML_WORDS)),
    Reader("go-file", go_file, (GO,), TOOL, text(*GO_WORDS)),
    Reader("go.mod", go_mod, (b"// x\nmodule example.org/x/y // z\n\ngo 1.5\n",), TOOL, text(b"module ", b"../", b"/")),
    Reader("go-version", go_version, (b"go1.7beta2\n",), TOOL, text(b"go1.", b"go")),
    Reader("make-rules", make_rules, (RULES,), (), text(b": ", b"\\\n", b"\\", b"$$", b"$", b"main.o: ", b"/dev/zero")),
    Reader("netbsd-hashes", hash_list, (HASHES,), (AnsibleFilterError,), text(b"SHA512 (", b"NetBSD-", b"/", b") = ")),
    Reader("netrc", netrc_file, (NETRC,), (Broken,), text(b"machine ", b"login ", b"password", b"macdef ", b"default")),
    Reader("http", http_answer, HTTP, (Broken, Unreachable), text(*HTTP_WORDS)),
    Reader("ppm", picture, (PPM, SMALL, DOT), (ValueError,), text(b"P6", b"255", b"720", b"-1", b"0", b"1_0", b"+4")),
    Reader("bridge-table", bridge_table, (b"\x52\x54\0\0\0\1\1\0" + bytes(8) + b"\x52\x54\0\0\0\2\1\1" + bytes(8),)),
    Reader("archive", archive, ARCHIVES, (Broken,), binary(TAR_WORDS)),
    Reader("built-tree", built_tree, TREES, (Broken,), binary((*TAR_WORDS, b"RUMPLAB.tree=gdb 01\n"))),
    Reader("binary-set", binary_set, (*TARS, gzip.compress(TARS[0])), (DISK.Refused, OSError), binary(TAR_WORDS)),
)
