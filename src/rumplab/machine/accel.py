"""Chooses the accelerator for this host: debugs a small guest with each one, and stores the result.

It isn't enough that /dev/kvm can be opened. Some nested or emulated KVMs run a guest many times slower than TCG, or
never run it; others run guests but support no breakpoints. So the probe stops a guest at breakpoints and measures the
time of a known amount of work. The probe has a time limit.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rumplab.host import child_environment, children
from rumplab.host.answers import MALFORMED, check_fields, typed
from rumplab.host.files import work_directory
from rumplab.machine import qemu_argv

ACCELS = ("auto", "kvm", "hvf", "tcg")
PROBE_SECONDS = 5.0
CACHE = ".accel.json"
KVM = Path("/dev/kvm")
ROM_SIZE = 0x10000
RESET_VECTOR = 0xFFF0
# The address of the ROM's first byte. After a reset, CS has this base until the first far jump.
CODE_BASE = 0xFFFF0000
EXIT_VALUE = 0x2A
# isa-debug-exit ends QEMU with (value << 1) | 1.
EXIT_CODE = EXIT_VALUE << 1 | 1
# The probe's version. A stored result of another version is not used.
PROBE = 2
# Kinds of breakpoints: the packets of GDB's remote protocol, and the names in messages.
HARDWARE, SOFTWARE = "Z1", "Z0"
KINDS = {HARDWARE: "hardware", SOFTWARE: "software"}


@dataclass(frozen=True)
class Result:
    """The result of probing one accelerator. `seconds` is the time of the whole QEMU run; `detail` says why the probe
    failed, if it did."""

    name: str
    works: bool
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Choice:
    """The accelerator that `auto` means, and the results from which it was chosen. They are empty if the host has only
    TCG. `remembered` says that the choice was stored earlier."""

    chosen: str
    results: tuple[Result, ...] = ()
    remembered: bool = False


WORK = bytes.fromhex(
    "bb8000"  # mov bx, 128
    "b9ffff"  # outer: mov cx, 0xffff
    "49"  # inner: dec cx
    "75fd"  # jnz inner
    "4b"  # dec bx
    "75f7"  # jnz outer
)
END = bytes([0xB0, EXIT_VALUE, 0xE6, qemu_argv.EXIT_PORT, 0xF4, 0xEB, 0xFD])  # mov al; out; hlt; jmp back
# The breakpoints, as offset in the ROM and kind: one before the guest's work, one after it.
STOPS = ((0, HARDWARE), (len(WORK), SOFTWARE))


def rom() -> bytes:
    """Returns a ROM of 64 KiB that replaces the firmware. Its code executes about 8 million decrements, then ends QEMU
    through isa-debug-exit."""
    code = WORK + END
    jump = b"\xe9" + ((-(RESET_VECTOR + 3)) & 0xFFFF).to_bytes(2, "little")
    image = bytearray(ROM_SIZE)
    image[: len(code)] = code
    image[RESET_VECTOR : RESET_VECTOR + len(jump)] = jump
    return bytes(image)


def probe_argv(emulator: str, accel: str, rom_path: str) -> list[str]:
    """Returns QEMU's command line for a stopped machine that has only the ROM and the exit device. Its debug stub is on
    QEMU's standard input and output, which no other user can reach."""
    return [emulator, "-machine", f"pc,accel={accel}", "-m", "16", "-nodefaults", "-display", "none",
            "-no-reboot", "-bios", rom_path, "-S", "-gdb", "stdio",
            "-device", f"isa-debug-exit,iobase={qemu_argv.EXIT_PORT:#x},iosize=0x4"]  # fmt: skip


def probe(emulator: str, accel: str, seconds: float = PROBE_SECONDS) -> Result:
    """Debugs the ROM with the accelerator `accel`. Returns after about `seconds` at most, even if QEMU can't be
    killed."""
    # Imported here because it takes long to load, and most starts use the stored result.
    import tempfile

    with work_directory("probe") as directory:
        path = directory / "probe.rom"
        path.write_bytes(rom())
        with tempfile.TemporaryFile() as errors:
            began = time.monotonic()
            with children.running(
                probe_argv(emulator, accel, str(path)),
                _kill,
                child_environment.of(child_environment.QEMU),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                bufsize=0,
            ) as process:
                try:
                    problem = _debug(process, began + seconds)
                    code = process.wait(max(began + seconds - time.monotonic(), 0.01))
                except (subprocess.TimeoutExpired, TimeoutError):
                    return Result(accel, False, seconds, f"did not finish within {seconds:.0f} s")
            took = time.monotonic() - began
            errors.seek(0)
            messages = errors.read().decode(errors="replace").strip().splitlines()
    if code != EXIT_CODE:
        return Result(accel, False, took, messages[-1] if messages else f"QEMU ended with {code}")
    if problem:
        return Result(accel, False, took, f"runs a guest but can't debug it: {problem}")
    return Result(accel, True, took)


def _debug(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Stops the guest at each of STOPS through QEMU's debug stub, then lets it run to its end. Returns the first
    problem, or "". TimeoutError at `deadline`, a time of time.monotonic."""
    problem = ""
    for offset, kind in STOPS:
        place = f"{CODE_BASE + offset:x}"
        what = f"a {KINDS[kind]} breakpoint"
        try:
            answer = _ask(process, f"{kind},{place},1", deadline)
            if answer != "OK":
                problem = problem or f"{what} is refused ({answer or 'no answer'})"
                continue
            stopped = _ask(process, "c", deadline)
            if not stopped.startswith(("T05", "S05")):
                return problem or f"{what} is not hit"
            _ask(process, f"{kind.lower()},{place},1", deadline)
        except EOFError:
            return problem or f"QEMU ended before {what} was hit"
    # If no breakpoint stopped the guest, QEMU may have ended by now.
    with contextlib.suppress(EOFError):
        _send(process, "c")
    return problem


def _send(process: subprocess.Popen[bytes], data: str) -> None:
    """Sends `data` as a packet of GDB's remote protocol. EOFError if QEMU has ended."""
    # Imported only here: most starts of a machine remember the probe's result.
    from rumplab.gdb import rsp

    _write(process, rsp.frame(data.encode("ascii")))


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    if process.stdin is None:
        raise ValueError("the probe has no pipe to QEMU")
    try:
        process.stdin.write(data)
    except BrokenPipeError:
        raise EOFError from None


def _ask(process: subprocess.Popen[bytes], data: str, deadline: float) -> str:
    """Sends a packet and returns the stub's answer. EOFError if QEMU has ended, TimeoutError at `deadline`."""
    from rumplab.gdb import rsp

    _send(process, data)
    if process.stdout is None:
        raise ValueError("the probe has no pipe from QEMU")
    parser = rsp.Parser()
    while True:
        if not select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError
        more = os.read(process.stdout.fileno(), 4096)
        if not more:
            raise EOFError
        for part in parser.feed(more):
            if isinstance(part, rsp.Packet):
                _write(process, b"+")
                return part.data.decode("ascii", errors="replace")


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kills a QEMU that doesn't answer. Doesn't wait longer than a second, since a process that is blocked in the
    kernel does not end."""
    process.kill()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.returncode = -9  # With a return code, Popen does not wait for it again.


def candidate() -> str | None:
    """Returns the hardware accelerator that this host may have: hvf on macOS, kvm if its device exists, else None."""
    if sys.platform == "darwin":
        return "hvf"
    return "kvm" if KVM.exists() else None


def choose(results: list[Result]) -> str:
    """Returns the fastest accelerator that works. If none does, returns `tcg`: then QEMU's own message says why."""
    working = [result for result in results if result.works]
    return min(working, key=lambda result: result.seconds).name if working else "tcg"


def key(emulator: str, version: str | None) -> dict[str, Any]:
    """Returns the versions and permissions on which the choice depends. A stored choice with another key is not
    used."""
    kvm = os.stat(KVM).st_mtime_ns if KVM.exists() else None
    return {
        "probe": PROBE,
        "qemu": [emulator, version, os.stat(emulator).st_mtime_ns],
        "kernel": os.uname().release,
        "kvm": [kvm, os.access(KVM, os.R_OK | os.W_OK)],
    }


def decide(
    emulator: str, version: str | None, directory: Path, reprobe: bool = False, seconds: float = PROBE_SECONDS
) -> Choice:
    """Returns the accelerator that `auto` means. It is the choice stored in `directory`, if QEMU, the kernel and the
    device are unchanged and `reprobe` is false. Otherwise it probes each accelerator for at most `seconds`, and stores
    the choice."""
    hardware = candidate()
    cache = directory / CACHE
    wanted = key(emulator, version)
    if not reprobe and (known := recall(cache, wanted)):
        return known
    if hardware is None and not reprobe:
        return Choice("tcg")
    names = [name for name in (hardware, "tcg") if name]
    if hardware and not reprobe:
        print(f"rumplab: trying {' and '.join(names)} (once; at most {seconds:.0f} s each)…", file=sys.stderr)
    results = [probe(emulator, name, seconds) for name in names]
    made = Choice(choose(results), tuple(results))
    remember(cache, wanted, made)
    return made


def recall(cache: Path, wanted: dict[str, Any]) -> Choice | None:
    """Returns the stored choice if its key is `wanted`; None otherwise."""
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        if data["key"] != wanted:
            return None
        results = tuple(Result(**result) for result in data["results"])
        for result in results:
            check_fields(result)
        return Choice(typed(data["chosen"], str), results, True)
    except (OSError, *MALFORMED):
        return None


def remember(cache: Path, wanted: dict[str, Any], made: Choice) -> None:
    """Stores the choice `made`. If the file can't be written, only prints a warning: the next start probes again."""
    data = {
        "key": wanted,
        "chosen": made.chosen,
        "results": [asdict(result) for result in made.results],
    }
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
        temporary.replace(cache)
    except OSError as error:
        print(f"rumplab: cannot store the choice of the accelerator in {cache}: {error.strerror}", file=sys.stderr)
        temporary.unlink(missing_ok=True)
