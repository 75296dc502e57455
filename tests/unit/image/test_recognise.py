"""The format of a file that is passed as a disk: it is used, or refused with the format's name."""

from __future__ import annotations

import gzip
import lzma
import os
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.labfixture import LabPrefix, host_tool
from support.running import DONE, image, started, until
from unit.image.test_multiboot import header, placed

from rumplab.errors import RumplabError
from rumplab.image import multiboot, recognise
from rumplab.machine import boot_media

BOOT = bytes(510) + b"\x55\xaa" + bytes(1 << 16)


def at(offset: int, magic: bytes) -> bytes:
    content = bytearray(BOOT)
    if offset < 0:
        return bytes(content) + magic.ljust(-offset, b"\0")
    content[offset : offset + len(magic)] = magic
    return bytes(content)


@pytest.mark.parametrize("kind", recognise.KINDS, ids=lambda kind: kind.name.replace(" ", "-"))
def test_everything_that_is_recognised_is_refused_by_name(tmp_path: Path, kind: recognise.Kind) -> None:
    path = tmp_path / "x"
    path.write_bytes(at(kind.offset, kind.magic))
    with pytest.raises(RumplabError, match="which isn't supported; ") as raised:
        boot_media.inspect(str(path))
    assert kind.name in str(raised.value)


@pytest.mark.parametrize(
    ("form", "options", "name"),
    [
        ("vdi", "", "VDI"),
        ("vpc", "", "VHD"),
        ("vpc", "subformat=fixed", "VHD"),
        ("vhdx", "", "VHDX"),
        ("qed", "", "QED"),
        ("parallels", "", "Parallels"),
        ("qcow", "", "version 1"),
    ],
)
def test_images_that_qemu_makes_are_named(tmp_path: Path, form: str, options: str, name: str) -> None:
    path = tmp_path / "x"
    argv = [host_tool("qemu-img"), "create", "-q", "-f", form, *(["-o", options] if options else []), str(path), "8M"]
    subprocess.run(argv, timeout=60, check=True)
    with pytest.raises(RumplabError, match=f"{name}.*qemu-img convert -f {form} -O qcow2"):
        recognise.format_of(str(path))


def test_the_error_for_a_compressed_file_says_how_to_unpack_it(tmp_path: Path) -> None:
    for content, tool in ((gzip.compress(BOOT), "gunzip"), (lzma.compress(BOOT), "unxz")):
        path = tmp_path / "x.img"
        path.write_bytes(content)
        with pytest.raises(RumplabError, match=f"unpack it first: {tool}"):
            recognise.format_of(str(path))


@pytest.mark.parametrize("subformat", ["monolithicSparse", "streamOptimized", "monolithicFlat", "twoGbMaxExtentSparse"])
def test_a_vmdk_of_any_kind_is_exported(lab: LabPrefix, pcihello: Path, tmp_path: Path, subformat: str) -> None:
    """The exported disk has the same content, and the VMDK boots."""
    qemu_img = host_tool("qemu-img")
    lab.component("qemu", {"qemu-system-x86_64": host_tool("qemu-system-x86_64"), "qemu-img": qemu_img})
    raw, disk = image(lab, pcihello, tmp_path / "a.img"), tmp_path / "a.vmdk"
    argv = [qemu_img, "convert", "-O", "vmdk", "-o", f"subformat={subformat}", str(raw), str(disk)]
    subprocess.run(argv, timeout=60, check=True)
    before = disk.read_bytes()
    result = lab.tool("export", disk, "--vmware", tmp_path / "vm")
    assert result.returncode == 0, result.stderr
    argv = [qemu_img, "compare", str(tmp_path / "vm" / "disk.vmdk"), str(raw)]
    subprocess.run(argv, timeout=60, check=True, capture_output=True)
    machine = started(lab, disk, "--snapshot", "--console", "serial")
    until(lambda: DONE in Path(machine["directory"], "serial.log").read_text())
    assert disk.read_bytes() == before


DESCRIPTOR = '# Disk DescriptorFile\nversion=1\nparentCID={parent}\ncreateType="{kind}"\nRW 16 {extent}\n'


@pytest.mark.parametrize(
    ("parent", "extent", "message"),
    [
        ("ffffffff", 'FLAT "/etc/passwd" 0', "a part outside its directory, '/etc/passwd'"),
        ("ffffffff", 'FLAT "../secret" 0', "a part outside its directory, '../secret'"),
        ("ffffffff", 'FLAT "link" 0', "is not a file; copy the part there"),
        ("ffffffff", 'SPARSE "gone.vmdk"', "gone.vmdk, a part of the VMDK .*, is not a file"),
        ("ffffffff", 'VMFS "part"', "a part of kind VMFS"),
        ("12345678", 'FLAT "part" 0', "a VMDK over another one"),
        ("ffffffff", "nonsense", "names no part|a part outside its directory|kind nonsense"),
    ],
)
def test_a_vmdk_descriptor_may_only_name_files_in_its_directory(
    tmp_path: Path, parent: str, extent: str, message: str
) -> None:
    (tmp_path / "part").write_bytes(BOOT)
    (tmp_path / "link").symlink_to("/etc/passwd")
    path = tmp_path / "x.vmdk"
    path.write_text(DESCRIPTOR.format(parent=parent, kind="monolithicFlat", extent=extent))
    with pytest.raises(RumplabError, match=message):
        boot_media.inspect(str(path))
    path.write_text(DESCRIPTOR.format(parent="ffffffff", kind="monolithicFlat", extent='FLAT "part" 0'))
    assert boot_media.inspect(str(path)).format == "vmdk"


def test_a_sparse_vmdk_without_data_of_its_own_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.vmdk"
    path.write_bytes(b"KDMV" + struct.pack("<IIQ", 1, 3, 0) + bytes(1024))
    with pytest.raises(RumplabError, match="without data of its own"):
        recognise.format_of(str(path))


@given(st.binary(max_size=700))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    for data in (content, b"# Disk DescriptorFile" + content, b"KDMV" + content, b"QFI\xfb" + content):
        path.write_bytes(data)
        try:
            assert recognise.format_of(str(path)) in (recognise.RAW, recognise.QCOW2, recognise.VMDK)
        except RumplabError:
            continue


def test_a_fifo_is_refused_without_waiting(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for arguments in (("run", pipe), ("guest", "create", "g", "--linux", pipe), ("run", pcihello, "--symbols", pipe)):
        result = lab.tool(*arguments, timeout=20)
        assert result.returncode == 1
        assert "is a pipe, not a file" in result.stderr or f"{pipe}: no such file" in result.stderr


def test_the_error_for_a_program_that_qemu_cannot_load_names_stage(lab: LabPrefix, tmp_path: Path) -> None:
    wide = bytearray(placed(header(0), 64))
    wide[4] = 2
    path = tmp_path / "k64.bin"
    path.write_bytes(wide.ljust(1 << 14, b"\0"))
    result = lab.tool("run", path)
    assert result.returncode == 1
    assert "make an image of it with: rumplab stage" in result.stderr
    result = lab.tool("run", "/bin/true")
    assert result.returncode == 1
    assert "has no Multiboot header" in result.stderr


def test_a_program_with_xens_entry_needs_no_multiboot_header(tmp_path: Path) -> None:
    path = tmp_path / "pvh"
    numbers = struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9) + numbers
    note = struct.pack("<III", 4, 4, 18) + b"Xen\0" + struct.pack("<I", 0x100000)
    entry = struct.pack("<IIQQQQQQ", 4, 4, 120, 0, 0, len(note), len(note), 4)
    path.write_bytes(identity + entry + note + bytes(9000))
    assert multiboot.direct_problem(str(path)) is None
    path.write_bytes(identity + entry + note.replace(b"Xen", b"GNU") + bytes(9000))
    assert "no Multiboot header" in (multiboot.direct_problem(str(path)) or "")
