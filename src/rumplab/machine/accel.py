"""Finds out which accelerator serves on this host, by debugging a guest in each, and remembers it.

That a device node opens proves nothing: nested and emulated KVMs open, then run a guest many times slower
than QEMU's own translator, or never; and there are some that run guests and let nobody debug them. So the probe
stops a guest at breakpoints and times a known amount of its work, bounded in seconds.
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

from rumplab.host import child_environment
from rumplab.host.answers import MALFORMED, check_fields, typed
from rumplab.host.files import work_directory
from rumplab.machine import qemu_argv

ACCELS = ("auto", "kvm", "hvf", "tcg")
PROBE_SECONDS = 5.0
CACHE = ".accel.json"
KVM = Path("/dev/kvm")
ROM_SIZE = 0x10000
RESET_VECTOR = 0xFFF0
# Where the processor's addresses of the ROM begin as long as nothing but near jumps has been executed.
CODE_BASE = 0xFFFF0000
EXIT_VALUE = 0x2A
# isa-debug-exit ends QEMU with (value << 1) | 1.
EXIT_CODE = EXIT_VALUE << 1 | 1
# More than a packet has.
LONGEST = 1 << 16
# What a remembered answer rests on; another number asks again.
PROBE = 2
# As GDB's protocol names them, and people.
HARDWARE, SOFTWARE = "Z1", "Z0"
KINDS = {HARDWARE: "hardware", SOFTWARE: "software"}


@dataclass(frozen=True)
class Result:
    """What probing one accelerator showed: seconds of the whole QEMU run, and why it failed if it did."""

    name: str
    works: bool
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class Verdict:
    """The accelerator that `auto` means, and the results it rests on (empty when there was no choice)."""

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
# Where the guest is stopped, and how: before its work, and after it.
STOPS = ((0, HARDWARE), (len(WORK), SOFTWARE))


def rom() -> bytes:
    """A ROM of 64 KiB in place of the firmware: some 8 million decrements, then an exit by isa-debug-exit."""
    code = WORK + END
    jump = b"\xe9" + ((-(RESET_VECTOR + 3)) & 0xFFFF).to_bytes(2, "little")
    image = bytearray(ROM_SIZE)
    image[: len(code)] = code
    image[RESET_VECTOR : RESET_VECTOR + len(jump)] = jump
    return bytes(image)


def probe_argv(emulator: str, accel: str, rom_path: str) -> list[str]:
    """A machine with nothing but the ROM and the exit device, stopped, with its debug stub on QEMU's own standard
    input and output, which nobody else can reach."""
    return [emulator, "-machine", f"pc,accel={accel}", "-m", "16", "-nodefaults", "-display", "none",
            "-no-reboot", "-bios", rom_path, "-S", "-gdb", "stdio",
            "-device", f"isa-debug-exit,iobase={qemu_argv.EXIT_PORT:#x},iosize=0x4"]  # fmt: skip


def probe(emulator: str, accel: str, seconds: float = PROBE_SECONDS) -> Result:
    """Debugs the ROM under `accel`. Returns after at most about `seconds`, even if QEMU can't be killed."""
    # Only here: most starts go by what is remembered, and it takes long to load.
    import tempfile

    with work_directory("probe") as directory:
        path = directory / "probe.rom"
        path.write_bytes(rom())
        with tempfile.TemporaryFile() as errors:
            began = time.monotonic()
            process = subprocess.Popen(
                probe_argv(emulator, accel, str(path)),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=child_environment.of(child_environment.QEMU),
                bufsize=0,
            )
            try:
                missed = _debug(process, began + seconds)
                code = process.wait(max(began + seconds - time.monotonic(), 0.01))
            except (subprocess.TimeoutExpired, TimeoutError):
                _abandon(process)
                return Result(accel, False, seconds, f"did not finish within {seconds:.0f} s")
            finally:
                for stream in (process.stdin, process.stdout):
                    if stream is not None:
                        stream.close()
            took = time.monotonic() - began
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
    if code != EXIT_CODE:
        return Result(accel, False, took, said[-1] if said else f"QEMU ended with {code}")
    if missed:
        return Result(accel, False, took, f"runs a guest and can't debug it: {missed}")
    return Result(accel, True, took)


def _debug(process: subprocess.Popen[bytes], deadline: float) -> str:
    """Stops the guest at STOPS by way of QEMU's stub and lets it go on to its end; what went wrong, if something did.
    TimeoutError at `deadline`, on the clock of time.monotonic."""
    missed = ""
    for offset, kind in STOPS:
        place = f"{CODE_BASE + offset:x}"
        what = f"a {KINDS[kind]} breakpoint"
        try:
            answer = _ask(process, f"{kind},{place},1", deadline)
            if answer != "OK":
                missed = missed or f"{what} is refused ({answer or 'no answer'})"
                continue
            stopped = _ask(process, "c", deadline)
            if not stopped.startswith(("T05", "S05")):
                return missed or f"{what} is not hit"
            _ask(process, f"{kind.lower()},{place},1", deadline)
        except EOFError:
            return missed or f"QEMU ended before {what} was hit"
    # A guest that couldn't be stopped has ended by now.
    with contextlib.suppress(EOFError):
        _send(process, "c")
    return missed


def _send(process: subprocess.Popen[bytes], data: str) -> None:
    """Sends a packet of GDB's remote protocol. EOFError when QEMU has ended."""
    _write(process, f"${data}#{sum(data.encode()) & 0xFF:02x}".encode())


def _write(process: subprocess.Popen[bytes], data: bytes) -> None:
    if process.stdin is None:
        raise ValueError("the probe has no pipe to QEMU")
    try:
        process.stdin.write(data)
    except BrokenPipeError:
        raise EOFError from None


def _ask(process: subprocess.Popen[bytes], data: str, deadline: float) -> str:
    """The answer to a packet; EOFError when QEMU has ended, TimeoutError at `deadline`."""
    _send(process, data)
    if process.stdout is None:
        raise ValueError("the probe has no pipe from QEMU")
    said = b""
    while True:
        # A packet ends with '#' and a checksum, which a pipe has no use for; a stop that nobody asked for has none.
        _, start, rest = said.partition(b"$")
        packet, end, checksum = rest.partition(b"#")
        if start and end and len(checksum) >= 2:
            _write(process, b"+")
            return packet.decode("ascii", errors="replace")
        if not select.select([process.stdout], [], [], max(deadline - time.monotonic(), 0))[0]:
            raise TimeoutError
        more = os.read(process.stdout.fileno(), 4096)
        if not more:
            raise EOFError
        said = (said + more)[-LONGEST:]


def _abandon(process: subprocess.Popen[bytes]) -> None:
    """Kills a hung QEMU. One stuck in the kernel may outlive even that: then it is left alone."""
    process.kill()
    try:
        process.wait(1)
    except subprocess.TimeoutExpired:
        process.returncode = -9  # Keeps Popen from waiting for it again.


def candidate() -> str | None:
    """The hardware accelerator that this kind of host might have."""
    if sys.platform == "darwin":
        return "hvf"
    return "kvm" if KVM.exists() else None


def choose(results: list[Result]) -> str:
    """The accelerator that worked and was quickest; `tcg` when none did, so that QEMU itself says why."""
    working = [result for result in results if result.works]
    return min(working, key=lambda result: result.seconds).name if working else "tcg"


def key(emulator: str, version: str | None) -> dict[str, Any]:
    """What the remembered answer depends on."""
    kvm = os.stat(KVM).st_mtime_ns if KVM.exists() else None
    return {
        "probe": PROBE,
        "qemu": [emulator, version, os.stat(emulator).st_mtime_ns],
        "kernel": os.uname().release,
        "kvm": [kvm, os.access(KVM, os.R_OK | os.W_OK)],
    }


def decide(
    emulator: str, version: str | None, directory: Path, reprobe: bool = False, seconds: float = PROBE_SECONDS
) -> Verdict:
    """What `auto` means: remembered in `directory` while QEMU, kernel and device are the same, or probed."""
    hardware = candidate()
    cache = directory / CACHE
    wanted = key(emulator, version)
    if not reprobe and (known := recall(cache, wanted)):
        return known
    if hardware is None and not reprobe:
        return Verdict("tcg")
    names = [name for name in (hardware, "tcg") if name]
    if hardware and not reprobe:
        print(f"rumplab: trying {' and '.join(names)} (once; at most {seconds:.0f} s each)…", file=sys.stderr)
    results = [probe(emulator, name, seconds) for name in names]
    verdict = Verdict(choose(results), tuple(results))
    remember(cache, wanted, verdict)
    return verdict


def recall(cache: Path, wanted: dict[str, Any]) -> Verdict | None:
    """The remembered verdict, if it was reached under the same conditions."""
    try:
        data = json.loads(cache.read_text(encoding="utf-8"))
        if data["key"] != wanted:
            return None
        results = tuple(Result(**result) for result in data["results"])
        for result in results:
            check_fields(result)
        return Verdict(typed(data["chosen"], str), results, True)
    except (OSError, *MALFORMED):
        return None


def remember(cache: Path, wanted: dict[str, Any], verdict: Verdict) -> None:
    """Writes the verdict. A cache that can't be written costs time, not the run."""
    data = {
        "key": wanted,
        "chosen": verdict.chosen,
        "results": [asdict(result) for result in verdict.results],
    }
    temporary = cache.with_name(f"{cache.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data) + "\n", encoding="utf-8")
        temporary.replace(cache)
    except OSError as error:
        print(f"rumplab: cannot remember the accelerator in {cache}: {error.strerror}", file=sys.stderr)
        temporary.unlink(missing_ok=True)
