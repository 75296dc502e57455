"""Programs of other projects on a screen: an unprivileged user runs them, reads the screen, types and debugs."""

from __future__ import annotations

import json
import re
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

GUESTS = "/opt/guests"
# The magic numbers at the beginning of a Multiboot header, and in eax when the loader starts the program.
HEADER, LOADER = 0x1BADB002, "0x2badb002"
ADDRESS_FIELDS = 0x10000
BOOT_SECTOR = "0x7c00"
# Boot sectors, in real mode: mode 13h and a halt; text mode and each key on the screen.
SECTORS = {
    "graphics": r"\270\023\000\315\020\364\353\375",
    "echo": r"\270\003\000\315\0201\300\315\026\264\016\273\007\000\315\020\353\363",
}
USER = (
    "setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all"
    " env HOME=/nonexistent timeout 90"
)
RUMPLAB = f"{USER} rumplab"
LOST = "GAME OVER"
PROGRAM = "/opt/rumplab/pcihello/pcihello.bin"


@pytest.fixture(autouse=True)
def no_machine_left(host: Any) -> Iterator[None]:
    yield
    host.check_output(f"{RUMPLAB} stop --all")
    assert json.loads(host.check_output(f"{RUMPLAB} ps --json")) == []


def until(host: Any, name: str, shows: Callable[[str], Any], seconds: float = 90) -> str:
    """Wait until `shows` is true for the screen of `name`, and return the screen."""
    deadline = time.monotonic() + seconds
    while True:
        looked = host.run(f"{RUMPLAB} screen {name}")
        said: str = looked.stdout
        if shows(said):
            return said
        assert time.monotonic() < deadline, looked
        time.sleep(0.3)


def debugged(host: Any, name: str, place: str, expression: str) -> str:
    """Run the machine to `place`, and return the debugger's value of `expression`."""
    said = host.check_output(f"{RUMPLAB} debug {name} '*{place}' --batch --ex 'output/x {expression}' --ex 'echo \\n'")
    return str(said.splitlines()[-2])


def entry(host: Any, program: str) -> str:
    """Return the program's entry address: that of its Multiboot header if it has one, else that of its ELF header."""
    content: bytes = host.file(program).content
    header = content.index(HEADER.to_bytes(4, "little"))
    (flags,) = struct.unpack_from("<I", content, header + 4)
    place = header + 28 if flags & ADDRESS_FIELDS else 24
    return f"{struct.unpack_from('<I', content, place)[0]:#x}"


def started(host: Any, words: str) -> None:
    said = host.check_output(f"{RUMPLAB} run {words} --detach --accel tcg")
    assert "console vga" in said
    assert "its console is the screen: rumplab screen" in said


def test_ipxe_finds_the_machine_of_the_notes(host: Any) -> None:
    # If the guest can't reach the host's loopback interface, QEMU's DHCP server sends no gateway.
    started(host, f"{GUESTS}/ipxe.iso --wait --host-loopback")
    assert debugged(host, "ipxe", BOOT_SECTOR, "$pc") == BOOT_SECTOR
    said = until(host, "ipxe", lambda screen: "192.168.76.9" in screen)
    assert "54:54:00:55:55:55 using 82540em on 0000:01:01.0" in said
    assert "gw 192.168.76.2" in said
    logs = host.run(f"{RUMPLAB} logs ipxe")
    assert (logs.rc, logs.stdout) == (0, "")
    assert "the console is the screen: rumplab screen ipxe" in logs.stderr


def test_xen_starts_under_the_debugger_and_sets_a_graphics_mode(host: Any) -> None:
    words = "--memory 512M --args 'placeholder noreboot vga=gfx-800x600x32'"
    started(host, f"{GUESTS}/xen.elf --console vga --wait {words}")
    assert debugged(host, "xen", entry(host, f"{GUESTS}/xen.elf"), "$eax") == LOADER
    deadline = time.monotonic() + 90
    while "graphics mode, 800x600, and has no text" not in host.run(f"{RUMPLAB} screen xen").stderr:
        assert time.monotonic() < deadline
        time.sleep(0.3)
    data = json.loads(host.check_output(f"{RUMPLAB} screen xen --json --png /tmp/xen.png"))
    assert (data["mode"], data["width"], data["height"], data["rows"]) == ("graphics", 800, 600, None)
    # The PNG header has the size after the signature and the chunk's length and name.
    size = bytes.fromhex(host.check_output("od -An -tx1 -j16 -N8 /tmp/xen.png"))
    assert size == (800 << 32 | 600).to_bytes(8, "big")


def test_xen_is_on_the_serial_port_when_it_is_told_so(host: Any) -> None:
    words = f"{GUESTS}/xen.elf --memory 512M --args 'placeholder noreboot console=com1'"
    assert "console serial" in host.check_output(f"{RUMPLAB} run {words} --detach --accel tcg")
    deadline = time.monotonic() + 90
    while "dom0 kernel not specified" not in host.check_output(f"{RUMPLAB} logs xen"):
        assert time.monotonic() < deadline
        time.sleep(0.3)


def test_invaders_are_shot_at(host: Any) -> None:
    def gun(screen: str) -> int:
        found = re.search(r"^( *)/ \\$", screen, re.M)
        return len(found[1]) if found else -1

    started(host, f"{GUESTS}/invaders.exec --console vga --wait")
    assert debugged(host, "invaders", entry(host, f"{GUESTS}/invaders.exec"), "$eax") == LOADER
    # On a busy host, the game may miss keys and be lost; then it is played again.
    seen: list[int] = []
    deadline = time.monotonic() + 300
    while len(set(seen)) < 2:
        assert time.monotonic() < deadline, seen
        screen = until(host, "invaders", lambda screen: gun(screen) > 0 or LOST in screen)
        if LOST in screen:
            host.check_output(f"{RUMPLAB} stop invaders")
            started(host, f"{GUESTS}/invaders.exec --console vga")
            seen.clear()
            continue
        seen.append(gun(screen))
        host.check_output(f"{RUMPLAB} type invaders {'--key right ' * 5}")
    assert seen[-1] > seen[0]


def test_a_boot_sector_in_graphics_mode_and_one_that_is_typed_on(host: Any) -> None:
    for name, code in SECTORS.items():
        host.check_output(f"truncate -s 8M /tmp/{name}.img && chmod 666 /tmp/{name}.img")
        host.check_output(f"printf '{code}' | dd of=/tmp/{name}.img conv=notrunc status=none")
        host.check_output(f"printf '\\125\\252' | dd of=/tmp/{name}.img bs=1 seek=510 conv=notrunc status=none")
        started(host, f"/tmp/{name}.img")
    until(host, "echo", lambda screen: screen == "\n")
    host.check_output(f"{RUMPLAB} type echo 'Seen: \"~\"'")
    until(host, "echo", lambda screen: screen == 'Seen: "~"\n')
    looked = host.run(f"{RUMPLAB} screen graphics")
    assert (looked.rc, looked.stdout) == (1, "")
    assert "graphics mode" in looked.stderr
    assert "rumplab screen graphics --png FILE" in looked.stderr
    host.check_output(f"{RUMPLAB} screen graphics --png /tmp/graphics.png")
    assert host.check_output("head -c 4 /tmp/graphics.png | tail -c 3") == "PNG"


def test_the_screen_is_on_a_terminal_by_curses(host: Any) -> None:
    """script(1) is the terminal; the machine ends when its guest says so."""
    line = f"rumplab run {PROGRAM} --accel tcg --console vga --exit-device"
    assert "curses" in host.check_output("qemu-system-x86_64 -display help")
    ran = host.run(f"{USER} env TERM=xterm script --quiet --return --command '{line}' /tmp/typescript </dev/null")
    assert ran.rc == 33, ran
    refused = host.run(f"{RUMPLAB} run {PROGRAM} --console vga </dev/null")
    assert refused.rc == 1
    assert "the console is the screen, which needs a terminal" in refused.stderr


def test_a_drive_in_use_is_refused_with_the_machines_name(host: Any) -> None:
    host.check_output("truncate -s 4M /tmp/data.img && chmod 666 /tmp/data.img")
    words = f"{PROGRAM} --detach --wait --drive /tmp/data.img,disk=mpt"
    assert "disk sd0: /tmp/data.img (mpt)" in host.run(f"{RUMPLAB} run {words}").stderr
    refused = host.run(f"{RUMPLAB} run {words}")
    assert refused.rc == 1
    assert "/tmp/data.img is in use by machine 'pcihello'" in refused.stderr
