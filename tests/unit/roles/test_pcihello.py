"""The demo unikernel: its layout, its reproducible build, and its output when booted."""

from __future__ import annotations

import shutil
import struct
import subprocess
from pathlib import Path

import pytest
import yaml
from support.demos import EXAMPLES, ROOT
from support.staging import DONE, boot, build, copy_example, needs_compiler, needs_qemu

from rumplab.image.multiboot import check_program

pytestmark = needs_compiler

PT_LOAD = 1
ADDRESS_FIELDS = 0x10000
COMPILERS = [name for name in ("gcc", *(f"gcc-{n}" for n in range(9, 16))) if shutil.which(name)]
BRIDGED = ("-nic", "none", "-device", "pci-bridge,chassis_nr=2,id=pci.1")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(
        copy_example(tmp_path_factory.mktemp("source") / "pcihello"),
        tmp_path_factory.mktemp("program") / "pcihello.bin",
    )


def segments(image: bytes) -> list[tuple[int, int, int, int]]:
    """Return (file offset, physical address, size in the file, size in memory) of each PT_LOAD segment of an ELF64."""
    (start,) = struct.unpack_from("<Q", image, 32)
    size, count = struct.unpack_from("<HH", image, 54)
    found = []
    for index in range(count):
        kind, _, *fields = struct.unpack_from("<IIQQQQQQ", image, start + index * size)
        if kind == PT_LOAD:
            offset, _, physical, in_file, in_memory, _ = fields
            found.append((offset, physical, in_file, in_memory))
    return found


def test_flat_load_equals_the_segments(program: Path) -> None:
    """By the Multiboot header's address fields, a loader copies the same bytes as by the ELF headers."""
    image = program.read_bytes()
    check_program(program)
    at = image.index(struct.pack("<I", 0x1BADB002))
    flags, _, header, load, load_end, bss_end, entry = struct.unpack_from("<7I", image, at + 4)
    assert flags & ADDRESS_FIELDS
    start = at - (header - load)
    for offset, address, in_file, in_memory in segments(image):
        assert offset - start == address - load
        assert load <= address <= address + in_file <= load_end
        assert address + in_memory <= bss_end
    assert load <= entry < load_end
    assert image[4] == 2, "must be an ELF64"
    assert b".debug_info" in image and b".symtab" in image


def installed(directory: str, place: Path) -> Path:
    """Install an example's sources with the command of role examples; return their directory."""
    recipe = yaml.safe_load((ROOT / "roles" / "examples" / "vars" / "main.yml").read_text("utf-8"))
    (command,) = (step["argv"][:3] for step in recipe["__examples_sources"])
    place.mkdir()
    subprocess.run([*command, "cp", directory, str(place)], cwd=EXAMPLES, timeout=60, check=True)
    return place


def loaded(program: Path) -> bytes:
    """Return the bytes that a loader copies into memory."""
    flat = program.with_suffix(".flat")
    subprocess.run(["objcopy", "-O", "binary", str(program), str(flat)], timeout=60, check=True)
    return flat.read_bytes()


@pytest.mark.parametrize("example", ["pcihello", "kgdb", "ipkdb", "overrun"])
def test_the_installed_sources_of_an_example_build_the_same_program(example: str, tmp_path: Path) -> None:
    ours = build(EXAMPLES / example, tmp_path / "ours.bin")
    theirs = build(installed(example, tmp_path / "src"), tmp_path / "theirs.bin")
    assert loaded(ours) == loaded(theirs)


@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_build_depends_on_no_path(tmp_path: Path, compiler: str) -> None:
    first = build(copy_example(tmp_path / "a"), tmp_path / "a.bin", f"CC={compiler}")
    second = build(copy_example(tmp_path / "b ü $x"), tmp_path / "second.bin", f"CC={compiler}")
    assert first.read_bytes() == second.read_bytes()
    assert str(tmp_path).encode() not in first.read_bytes()


@pytest.mark.qemu
@needs_qemu
@pytest.mark.parametrize("compiler", COMPILERS)
def test_a_device_behind_a_bridge_is_listed(tmp_path: Path, compiler: str) -> None:
    program = build(copy_example(tmp_path / "source"), tmp_path / "pcihello.bin", f"CC={compiler}")
    status, said = boot("-kernel", str(program), *BRIDGED, "-device", "e1000,bus=pci.1,addr=1")
    assert status == DONE
    lines = said.splitlines()
    assert "01:01.0 8086:100e class 020000" in lines
    functions = [line for line in lines if " class " in line]
    assert f"pcihello: {len(functions)} PCI functions" in lines
    assert lines[-1] == "pcihello: done"


@pytest.mark.qemu
@needs_qemu
def test_nested_bridges_and_devices_with_several_functions_are_scanned(program: Path) -> None:
    status, said = boot(
        *("-kernel", str(program), *BRIDGED),
        *("-device", "pci-bridge,chassis_nr=3,id=pci.2,bus=pci.1,addr=4"),
        *("-device", "e1000,bus=pci.2,addr=7.0,multifunction=on"),
        *("-device", "virtio-rng-pci,bus=pci.2,addr=7.5,disable-modern=on"),
    )
    assert status == DONE
    assert "01:04.0 1b36:0001 class 060400" in said
    assert "02:07.0 8086:100e class 020000" in said
    assert "02:07.5 1af4:1005 class 00ff00" in said
    assert "02:07.1" not in said


@pytest.mark.qemu
@needs_qemu
def test_prints_command_line_and_module(program: Path, tmp_path: Path) -> None:
    module = tmp_path / "module.json"
    content = '{"a": "\\"ü$"}\n' + "x" * 5000
    module.write_text(content)
    status, said = boot("-kernel", str(program), "-append", 'one "two"', "-initrd", str(module))
    assert status == DONE
    assert f'pcihello: command line: {program} one "two"\n' in said
    assert f"pcihello: module 0: {len(content.encode())} bytes, " in said
    assert f"\n{content}\n" in said


@pytest.mark.qemu
@needs_qemu
@pytest.mark.parametrize(
    ("statement", "line"),
    [
        ('__asm__ volatile("ud2");', "exception 06 error 00000000 rip "),
        ("*(volatile int *)0x200000000 = 1;", "exception 0e error 00000002 rip "),
        ('__asm__ volatile("int $13");', "exception 0d "),
    ],
)
def test_an_exception_is_reported_and_causes_no_reset(tmp_path: Path, statement: str, line: str) -> None:
    source = copy_example(tmp_path / "source")
    main = source / "main.c"
    text = main.read_text()
    assert text.count("console_init();") == 1
    main.write_text(text.replace("console_init();", f"console_init(); {statement}"))
    # Replace halt() by a write to QEMU's exit port, which ends QEMU with a status.
    exceptions = source / "exceptions.c"
    exceptions.write_text(exceptions.read_text().replace("\thalt();", "\tout8(0xf4, 3);\n\thalt();"))
    status, said = boot("-kernel", str(build(source, tmp_path / "fault.bin")))
    assert status == 7, said
    assert line in said
    assert "cr2" in said and "pcihello: done" not in said
