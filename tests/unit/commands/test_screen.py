"""The screen of a machine: as text and as a picture, with --follow, and `rumplab type`."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import shutil
import signal
import struct
import subprocess
import time
import zlib
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.running import DONE, started, until

from rumplab.commands import type as typing_verb
from rumplab.commands.screen import POLL_SECONDS
from rumplab.errors import NotProvisioned, RumplabError, UsageError
from rumplab.machine import consoles, screen, vga_text
from rumplab.machine.boot_media import Media
from rumplab.machine.vga_text import Layout, Picture

SHAPE = Layout(80, 25, 9, 16)
# Boot sectors, in real mode.
GRAPHICS = "b81300 cd10 f4 ebfd"  # mode 13h, then halted
ECHO = "b80300 cd10 31c0 cd16 b40e bb0700 cd10 ebf3"  # text mode; writes each typed key to the screen
# Text mode; 'x' in row 5 of the memory; register 13 of the CRT controller makes row 5 the first of the screen.
SCROLLED = "b80300 cd10 b800b8 8ec0 26c70620037807 bad403 b80d90 ef b80c01 ef f4 ebfd"


def picture(rows: list[str]) -> Picture:
    """Return a picture with a dot in each cell that isn't blank."""
    pixels = bytearray(720 * 400 * 3)
    for row, line in enumerate(rows):
        for column, character in enumerate(line):
            if character != " ":
                at = ((row * 16 + 7) * 720 + column * 9 + 4) * 3
                pixels[at : at + 3] = b"\xaa\xaa\xaa"
    return Picture(720, 400, bytes(pixels))


def memory(rows: list[str]) -> bytes:
    cells = "".join(row.ljust(80) for row in rows).encode("cp437")
    return b"".join(bytes([cell, 7]) for cell in cells).ljust(vga_text.SIZE, b"\0")


def boot_sector(path: Path, code: str) -> Path:
    sector = bytes.fromhex(code).ljust(510, b"\0") + b"\x55\xaa"
    path.write_bytes(sector.ljust(8 << 20, b"\0"))
    return path


def test_characters_are_those_that_the_card_draws() -> None:
    shown = vga_text.characters()
    assert len(shown) == 256
    assert (shown[0], shown[0x20], shown[0xFF], shown[1], shown[0x41], shown[0x7F]) == (" ", " ", " ", "☺", "A", "⌂")
    assert (shown[0xC9], shown[0xDB], shown[0xE1]) == ("╔", "█", "ß")


def test_the_rows_are_read_where_the_picture_shows_them() -> None:
    """A kernel that scrolls by moving the screen's start leaves older rows in the memory above it."""
    lengths = random.Random(1).choices(range(60), k=90)
    written = [f"line {number} {'#' * length}.  " for number, length in enumerate(lengths)]
    assert vga_text.text(memory(written), picture(written[0:25]), SHAPE) == [line.rstrip() for line in written[0:25]]
    assert vga_text.text(memory(written), picture(written[61:86]), SHAPE) == [line.rstrip() for line in written[61:86]]


def test_a_guest_that_writes_meanwhile_does_not_move_the_screen() -> None:
    assert vga_text.start(memory(["one", "two", "three"]), picture(["one", "tw"]), SHAPE) == 0
    assert vga_text.text(memory([]), picture([]), SHAPE) == [""] * 25


@pytest.mark.parametrize(
    ("size", "mode", "last_row", "shape"),
    [
        ((720, 400), 3, 24, Layout(80, 25, 9, 16)),
        ((720, 400), 0xF0, 0x13, Layout(80, 25, 9, 16)),
        ((720, 400), 3, 49, Layout(80, 50, 9, 8)),
        ((640, 400), 3, 24, Layout(80, 25, 8, 16)),
        ((360, 400), 1, 24, Layout(40, 25, 9, 16)),
        ((640, 400), 0x13, 24, None),
        ((320, 200), 0x13, 24, None),
        ((640, 480), 0x12, 29, None),
        ((1024, 768), 3, 24, None),
    ],
)
def test_text_modes_and_graphics_modes_are_distinguished(
    size: tuple[int, int], mode: int, last_row: int, shape: Layout | None
) -> None:
    assert vga_text.layout(Picture(*size, b""), mode, last_row) == shape


def test_a_picture_becomes_png_without_a_change() -> None:
    pixels = bytes(range(60))
    read = vga_text.read_ppm(b"P6\n5 4\n255\n" + pixels)
    assert read == Picture(5, 4, pixels)
    made = vga_text.png(read)
    assert made.startswith(b"\x89PNG\r\n\x1a\n")
    assert struct.unpack_from(">II", made, 16) == (5, 4)
    at = made.index(b"IDAT")
    (length,) = struct.unpack_from(">I", made, at - 4)
    lines = zlib.decompress(made[at + 4 : at + 4 + length])
    assert lines == b"".join(b"\0" + pixels[row * 15 : row * 15 + 15] for row in range(4))


@pytest.mark.parametrize("content", [b"", b"P5\n1 1\n255\nx", b"P6\n2 2\n255\nxxx", b"P6 1 1 255"])
def test_a_file_that_is_not_a_picture_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        vga_text.read_ppm(content)


def test_the_monitors_answer_is_parsed_into_memory() -> None:
    said = "00000000000b8000: 0x07680721 0x00000001\r\n00000000000b8008: 0xff000000\r\n"
    assert screen.words(said) == bytes.fromhex("21076807 01000000 000000ff")


def test_a_character_that_needs_shift_is_typed_with_it() -> None:
    assert typing_verb.keys_of('a"B\n') == [["a"], ["shift", "apostrophe"], ["shift", "b"], ["ret"]]
    printable = {chr(number) for number in range(0x20, 0x7F)}
    assert {*typing_verb.PLAIN, *typing_verb.SHIFTED} == printable | {"\n", "\t"}
    assert typing_verb.combination("Ctrl-Alt-Del") == ["ctrl", "alt", "delete"]


@pytest.mark.parametrize(
    ("text", "named"), [("aé", r"'\xe9' (character 2"), ("\x1b", r"'\x1b' (character 1"), ("€", "u20ac")]
)
def test_a_character_that_has_no_key_is_named(text: str, named: str) -> None:
    with pytest.raises(UsageError, match=re.escape(named)):
        typing_verb.keys_of(text)


@pytest.mark.parametrize(
    ("media", "console"),
    [
        (Media("/x", None, "/x", None), "serial"),
        (Media("/x.img", "raw", "/x", "00"), "serial"),
        (Media("/x.img", "qcow2", None, None), "vga"),
        (Media("/x.iso", "raw", None, None, True), "vga"),
    ],
)
def test_the_console_is_chosen_by_what_boots(media: Media, console: str) -> None:
    assert consoles.choose("auto", media) == console
    assert [consoles.choose(wanted, media) for wanted in ("serial", "vga")] == ["serial", "vga"]


@pytest.mark.qemu
def test_the_demo_is_on_the_screen_where_there_is_one(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    result = lab.tool("run", pcihello, "--detach", "--accel", "tcg", "--console", "vga", "--args", "a b")
    assert "its console is the screen: rumplab screen pcihello" in result.stdout
    until(lambda: DONE in lab.tool("screen", "pcihello").stdout)
    said = lab.tool("screen", "pcihello").stdout
    # A row has 80 characters; the tool prints it without trailing blanks.
    assert said.startswith(f"pcihello: command line: {pcihello} a b"[:80].rstrip())
    assert "\n01:01.0 8086:100e class 020000\n" in said
    logs = lab.tool("logs", "pcihello")
    assert (logs.stdout, logs.returncode) == ("", 0)
    assert "the console is the screen: rumplab screen pcihello" in logs.stderr
    data = json.loads(lab.tool("screen", "pcihello", "--json", "--png", tmp_path / "x.png").stdout)
    assert (data["mode"], data["columns"], len(data["rows"]), data["png"]) == ("text", 80, 25, str(tmp_path / "x.png"))
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")
    assert re.search(r"^pcihello +running .* vga ", lab.tool("ps").stdout, re.M)
    assert lab.tool("stop", "pcihello").returncode == 0
    assert "the console was the screen of pcihello, which has ended" in lab.tool("logs", "pcihello").stderr


@pytest.mark.qemu
def test_a_machine_without_vga_names_its_console(lab: LabPrefix, pcihello: Path) -> None:
    started(lab, pcihello, "--name", "a")
    # An option for QEMU, which the tool doesn't parse, removes the card.
    started(lab, pcihello, "--console", "vga", "--name", "b", "--", "-vga", "none")
    for name in ("a", "b"):
        result = lab.tool("screen", name)
        assert result.returncode == 1
        assert f"{name} has no VGA card, so no screen: its console is the serial port" in result.stderr
    assert "has no VGA card" in lab.tool("type", "a", "x").stderr


@pytest.mark.qemu
def test_a_graphics_screen_says_so_and_offers_its_picture(lab: LabPrefix, tmp_path: Path) -> None:
    assert started(lab, boot_sector(tmp_path / "gfx.img", GRAPHICS))["console"] == "vga"
    until(lambda: "graphics mode, " in lab.tool("screen", "gfx").stderr)
    result = lab.tool("screen", "gfx")
    assert (result.returncode, result.stdout) == (1, "")
    assert "has no text; save a picture of it with: rumplab screen gfx --png FILE" in result.stderr
    assert lab.tool("screen", "gfx", "--png", tmp_path / "gfx.png").returncode == 0
    assert (tmp_path / "gfx.png").stat().st_size > 100
    refused = lab.tool("screen", "gfx", "--png", tmp_path / "absent" / "x.png")
    assert (refused.returncode, "cannot write" in refused.stderr) == (1, True)


@pytest.mark.qemu
def test_a_scrolled_screen_is_read_as_it_is_shown(lab: LabPrefix, tmp_path: Path) -> None:
    started(lab, boot_sector(tmp_path / "scrolled.img", SCROLLED))
    until(lambda: lab.tool("screen", "scrolled").stdout == "x\n")


@pytest.mark.qemu
def test_typed_text_reaches_the_guest(lab: LabPrefix, tmp_path: Path) -> None:
    started(lab, boot_sector(tmp_path / "echo.img", ECHO))
    until(lambda: lab.tool("screen", "echo").stdout == "\n")
    text = "Az09 ~`!@#$%^&*()_+-={}|[]\\:\";'<>?,./"
    assert lab.tool("type", "echo", text).returncode == 0
    until(lambda: lab.tool("screen", "echo").stdout == f"{text}\n")
    assert lab.tool("type", "echo", "--key", "shift-q", "--key", "minus").returncode == 0
    until(lambda: lab.tool("screen", "echo").stdout == f"{text}Q-\n")
    unknown = lab.tool("type", "echo", "--key", "nonesuch")
    assert (unknown.returncode, "QEMU has no key for 'nonesuch'" in unknown.stderr) == (1, True)
    nothing = lab.tool("type", "echo")
    assert (nothing.returncode, "there is nothing to type" in nothing.stderr) == (2, True)


@pytest.mark.qemu
def test_a_machine_that_waits_has_nothing_to_show_and_takes_no_keys(lab: LabPrefix, pcihello: Path) -> None:
    started(lab, pcihello, "--console", "vga", "--wait")
    assert "waits before its first instruction" in lab.tool("screen", "pcihello").stderr
    assert "is not running (prelaunch) and takes no keys" in lab.tool("type", "pcihello", "x").stderr


@pytest.mark.qemu
def test_following_ends_with_the_machine(lab: LabPrefix, tmp_path: Path) -> None:
    started(lab, boot_sector(tmp_path / "echo.img", ECHO))
    follower = lab.start("screen", "echo", "--follow")
    until(lambda: lab.tool("screen", "echo").stdout == "\n")
    assert lab.tool("type", "echo", "seen").returncode == 0
    until(lambda: lab.tool("screen", "echo").stdout == "seen\n")
    time.sleep(2 * POLL_SECONDS)
    assert lab.tool("stop", "echo").returncode == 0
    output, errors = follower.communicate(timeout=20)
    assert (follower.returncode, errors) == (0, "")
    assert f"\nseen\n{'-' * 80}\n" in output


def test_a_screen_in_the_foreground_needs_a_terminal(lab: LabPrefix, pcihello: Path) -> None:
    result = lab.tool("run", pcihello, "--console", "vga")
    assert result.returncode == 1
    assert "needs a terminal; run this on a terminal, or run the machine in the background (--detach)" in result.stderr


def test_a_qemu_without_curses_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    emulator = tmp_path / "qemu"
    emulator.write_text("#!/bin/sh\nprintf 'Available display backend types:\\nnone\\ngtk\\n'\n", encoding="utf-8")
    emulator.chmod(0o755)
    for stream in (consoles.sys.stdin, consoles.sys.stdout):
        monkeypatch.setattr(stream, "isatty", lambda: True)
    with pytest.raises(NotProvisioned, match=r"has no curses display.*; run: \./provision --tags qemu"):
        consoles.check_terminal(str(emulator), "./provision", {"TERM": "xterm"})
    with pytest.raises(RumplabError, match="without TERM"):
        consoles.check_terminal(str(emulator), "./provision", {})
    emulator.write_text("#!/bin/sh\necho curses\n", encoding="utf-8")
    consoles.check_terminal(str(emulator), "./provision", {"TERM": "xterm"})


@pytest.mark.qemu
def test_the_screen_is_on_the_terminal_in_the_foreground(lab: LabPrefix, pcihello: Path) -> None:
    if consoles.CURSES not in consoles.displays(shutil.which("qemu-system-x86_64") or ""):
        pytest.skip("this QEMU has no curses display")
    ours, theirs = pty.openpty()
    child = subprocess.Popen(
        lab.argv("run", pcihello, "--accel", "tcg", "--console", "vga"),
        env={**lab.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    said = b""
    try:
        deadline = time.monotonic() + 30
        while b"pcihello: done" not in said:
            assert time.monotonic() < deadline, said
            said += os.read(ours, 4096)
        child.send_signal(signal.SIGTERM)
        # Read its last output: otherwise it blocks in its write to the terminal.
        while child.poll() is None and time.monotonic() < deadline:
            try:
                os.read(ours, 4096)
            except OSError:
                break
        assert child.wait(20) == 128 + signal.SIGTERM
    finally:
        child.kill()
        os.close(ours)
    assert lab.machines() == []
