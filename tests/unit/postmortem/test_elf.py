"""ELF files, whole and damaged."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.staging import command

from rumplab.postmortem import elf, vmcoreinfo
from rumplab.postmortem.elf import Note, Segment

NAMES = ("main", "halt", "linux_banner", "init_top_pgt")


def core(wide: bool) -> bytes:
    """Returns a core with a note and some memory."""
    note = elf.note_bytes(Note(b"CORE", 1, b"registers"))
    memory = b"memory"
    segments = [
        Segment(elf.PT_NOTE, 64, 0, 0, len(note)),
        Segment(elf.PT_LOAD, 64 + len(note), 0x1000, 0x2000, len(memory)),
    ]
    at = 64 + len(note) + len(memory)
    header = elf.core_header(wide, elf.EM_X86_64 if wide else elf.EM_386, at, len(segments))
    return header.ljust(64, b"\0") + note + memory + b"".join(elf.segment_bytes(one, wide) for one in segments)


@pytest.mark.parametrize("wide", [False, True])
def test_a_written_core_is_read_back(wide: bool) -> None:
    found = elf.parse(core(wide))
    assert (found.wide, found.kind, found.missing()) == (wide, elf.ET_CORE, 0)
    assert found.notes() == [Note(b"CORE", 1, b"registers")]
    (memory,) = found.loads()
    assert (memory.virtual, memory.physical) == (0x1000, 0x2000)
    assert found.data[memory.offset : memory.offset + memory.size] == b"memory"


def test_a_header_offset_beyond_the_address_space_is_reported() -> None:
    damaged = bytearray(core(True))
    damaged[39] = 128
    with pytest.raises(elf.InvalidElf, match="behind its end"):
        elf.parse(bytes(damaged))


@pytest.mark.parametrize("size", [0, 3, 6, 40, 63])
def test_a_truncated_core_is_reported(size: int) -> None:
    with pytest.raises(elf.InvalidElf):
        elf.parse(core(True)[:size])


def test_symbols_have_the_values_that_nm_prints(pcihello: Path) -> None:
    import subprocess

    listed = subprocess.run([command("nm"), pcihello], capture_output=True, text=True, check=True).stdout
    known = {line.split()[2]: int(line.split()[0], 16) for line in listed.splitlines() if len(line.split()) == 3}
    # Some names are the ends of other names.
    names = [name for name in known if len(name) > 1]
    assert len(names) > 20
    assert elf.parse(pcihello.read_bytes()).symbols(names) == {name: known[name] for name in names}


@pytest.mark.parametrize("content", [b"", b"text"])
def test_a_file_that_is_not_elf_is_reported(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x"
    path.write_bytes(content)
    with pytest.raises(elf.InvalidElf):
        elf.read(str(path))


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_damaged_file_is_refused_or_read_within_its_bounds(pcihello: Path, data: st.DataObject) -> None:
    whole = data.draw(st.sampled_from([core(False), core(True), pcihello.read_bytes()]))
    damaged = bytearray(whole)
    for at, value in data.draw(st.lists(st.tuples(st.integers(0, 127), st.integers(0, 255)), max_size=6)):
        damaged[at if data.draw(st.booleans()) else -1 - at] = value
    try:
        found = elf.parse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
        found.notes()
    except elf.InvalidElf:
        return
    found.symbols(NAMES)
    found.missing()
    vmcoreinfo.build_id(found)
    vmcoreinfo.made(found, lambda address, size: None)
