"""Finds out which accelerator serves on this host, by running a guest in each, and remembers it.

That a device node opens proves nothing: nested and emulated KVMs open, then run a guest many times slower
than QEMU's own translator, or never. So the probe times a known amount of guest work, bounded in seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rumplab import qemu, surroundings

ACCELS = ("auto", "kvm", "hvf", "tcg")
PROBE_SECONDS = 5.0
CACHE = ".accel.json"
KVM = Path("/dev/kvm")
ROM_SIZE = 0x10000
RESET_VECTOR = 0xFFF0
EXIT_VALUE = 0x2A
# isa-debug-exit ends QEMU with (value << 1) | 1.
EXIT_CODE = EXIT_VALUE << 1 | 1


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


def rom() -> bytes:
    """A ROM of 64 KiB in place of the firmware: some 8 million decrements, then an exit by isa-debug-exit."""
    code = bytes.fromhex(
        "bb8000"  # mov bx, 128
        "b9ffff"  # outer: mov cx, 0xffff
        "49"  # inner: dec cx
        "75fd"  # jnz inner
        "4b"  # dec bx
        "75f7"  # jnz outer
    ) + bytes([0xB0, EXIT_VALUE, 0xE6, qemu.EXIT_PORT, 0xF4, 0xEB, 0xFD])  # mov al; out; hlt; jmp back
    jump = b"\xe9" + ((-(RESET_VECTOR + 3)) & 0xFFFF).to_bytes(2, "little")
    image = bytearray(ROM_SIZE)
    image[: len(code)] = code
    image[RESET_VECTOR : RESET_VECTOR + len(jump)] = jump
    return bytes(image)


def probe_argv(emulator: str, accel: str, rom_path: str) -> list[str]:
    """A machine with nothing but the ROM and the exit device."""
    return [emulator, "-machine", f"pc,accel={accel}", "-m", "16", "-nodefaults", "-display", "none",
            "-no-reboot", "-bios", rom_path,
            "-device", f"isa-debug-exit,iobase={qemu.EXIT_PORT:#x},iosize=0x4"]  # fmt: skip


def probe(emulator: str, accel: str, seconds: float = PROBE_SECONDS) -> Result:
    """Runs the ROM under `accel`. Returns after at most about `seconds`, even if QEMU can't be killed."""
    # Only here: most starts go by what is remembered, and it takes long to load.
    import tempfile

    with tempfile.TemporaryDirectory(prefix="rumplab-probe-") as directory:
        path = Path(directory) / "probe.rom"
        path.write_bytes(rom())
        with tempfile.TemporaryFile() as errors:
            began = time.monotonic()
            process = subprocess.Popen(
                probe_argv(emulator, accel, str(path)),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                env=surroundings.of(surroundings.QEMU),
            )
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                _abandon(process)
                return Result(accel, False, seconds, f"did not finish within {seconds:.0f} s")
            took = time.monotonic() - began
            errors.seek(0)
            said = errors.read().decode(errors="replace").strip().splitlines()
    if code == EXIT_CODE:
        return Result(accel, True, took)
    return Result(accel, False, took, said[-1] if said else f"QEMU ended with {code}")


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
        return Verdict(data["chosen"], tuple(Result(**result) for result in data["results"]), True)
    except (OSError, ValueError, KeyError, TypeError):
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
