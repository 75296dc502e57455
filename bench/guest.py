"""Compare `rumplab guest start --kgdb` and `guest debug` with QEMU and GDB started directly.

    tools/python bench/guest.py [ROUNDS]

The benchmark needs gcc, make, QEMU, qemu-img and GDB on PATH. It builds examples/kgdb, and makes a lab of the host's
tools in a temporary directory. It measures the time from the start of QEMU, or of rumplab, until GDB has printed a
variable of the waiting kernel. "By hand" is QEMU with the same devices, and a GDB with the kernel's symbols that
attaches to the socket as soon as the console shows that the kernel waits. Both sides run alternately, ROUNDS (default
5) times. The benchmark prints the medians in seconds and their ratio, and asserts nothing.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from support.demos import KGDB_EXAMPLE, build
from support.labfixture import LabPrefix, make_lab

ROUNDS = 5
SECONDS = 120
WAITING = b"kgdb waiting..."
TOOLS = ("qemu-system-x86_64", "qemu-img", "gdb")
QUESTION = "print counter"
NAME = "bench"


def tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        sys.exit(f"{name} is not on PATH; install it")
    return path


def prepare(directory: Path, program: Path) -> LabPrefix:
    """Make a lab in `directory` that has guest NAME, and return it."""
    lab = make_lab(directory / "lab", directory)
    lab.component("qemu", {name: tool(name) for name in TOOLS[:2]})
    lab.component("gdb", {"gdb": tool("gdb")})
    result = lab.tool("guest", "create", NAME, "--kernel", program)
    if result.returncode:
        sys.exit(result.stderr)
    return lab


def check(said: str) -> None:
    if "$1 = 0" not in said:
        sys.exit(f"GDB did not reach the kernel:\n{said}")


def clock(file: Path) -> str:
    """Return the GDB command that writes the time to `file`, so that the time GDB takes to quit isn't measured."""
    return f"shell date +%s.%N > {file}"


def by_hand(program: Path) -> float:
    with tempfile.TemporaryDirectory(prefix="rb") as directory:
        line, log, prompt = f"{directory}/com1", Path(directory) / "log", Path(directory) / "prompt"
        log.touch()
        began = time.time()
        argv = [tool(TOOLS[0]), "-machine", "pc,accel=tcg", "-m", "256M", "-display", "none", "-smp", "1"]
        argv += ["-device", "pci-bridge,chassis_nr=2,id=pci.1", "-nic", "user,model=e1000"]
        argv += ["-kernel", str(program), "-append", "-d", "-serial", f"file:{log}"]
        argv += ["-chardev", f"socket,id=com1,path={line},server=on,wait=off", "-serial", "chardev:com1"]
        with subprocess.Popen(argv) as machine:
            while WAITING not in log.read_bytes():
                time.sleep(0.01)
            gdb = [tool("gdb"), "-q", "-nx", "-batch", str(program), "-ex", f"target remote {line}"]
            gdb += ["-ex", QUESTION, "-ex", clock(prompt)]
            done = subprocess.run(gdb, capture_output=True, text=True, timeout=SECONDS, check=False)
            machine.kill()
        check(done.stdout)
        return float(prompt.read_text()) - began


def by_the_lab(lab: LabPrefix) -> float:
    prompt = lab.runtime / "prompt"
    began = time.time()
    started = lab.tool("guest", "start", NAME, "--kgdb", "--accel", "tcg")
    done = lab.tool("guest", "debug", NAME, "--batch", "--ex", QUESTION, "--ex", clock(prompt), timeout=SECONDS)
    check(started.stderr + done.stdout)
    lab.tool("guest", "stop", NAME, "--now")
    return float(prompt.read_text()) - began


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    with tempfile.TemporaryDirectory(prefix="rb") as directory:
        program = build(KGDB_EXAMPLE, Path(directory) / "kgdb.bin", "ARCH=amd64")
        lab = prepare(Path(directory), program)
        pairs = [(by_hand(program), by_the_lab(lab)) for _ in range(rounds)]
        hand, ours = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"to the prompt: by hand {hand:.2f} s, by rumplab guest {ours:.2f} s, ratio {ours / hand:.2f}")


if __name__ == "__main__":
    main()
