"""Measure how much longer `rumplab build` takes than the tools that it calls.

    tools/python bench/build.py [FILES] [ROUNDS]

The benchmark writes a C program of FILES (default 100) files and as many headers. A link with a cross compiler's name
to the host's gcc stands for the toolchain, and a bake script copies its input. The benchmark compares the build of the
unchanged program, which calls no tool, with the start of Python and with one reading of the files. It compares the
build of a changed program with the same commands run directly. Both sides run alternately, ROUNDS (default 7) times.
It prints the medians in seconds, and asserts nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

STAMP = "0" * 64


def write_program(directory: Path, files: int) -> None:
    """Write a program of `files` functions in `directory`, each with its own header; main.c includes all."""
    directory.mkdir()
    for number in range(files):
        body = "\n".join(f"\tx = x * {line} + {number};" for line in range(50))
        (directory / f"f{number}.h").write_text(f"int f{number}(int);\n")
        function = f"int f{number}(int x)\n{{\n{body}\n\treturn x;\n}}\n"
        (directory / f"f{number}.c").write_text(f'#include "f{number}.h"\n{function}')
    headers = "".join(f'#include "f{number}.h"\n' for number in range(files))
    calls = " + ".join(f"f{number}(1)" for number in range(files)) or "0"
    (directory / "main.c").write_text(f"{headers}int main(void) {{ return ({calls}) & 1; }}\n")


def write_lab(prefix: Path, gcc: str) -> Path:
    """Make a lab that has only component rump_toolchain, of substitutes; return the path of its rumplab.json."""
    tools = prefix / "bin"
    components = prefix / "etc" / "components.d"
    for directory in (tools, components):
        directory.mkdir(parents=True)
    (tools / "x86_64-linux-gnu-gcc").symlink_to(gcc)
    bake = tools / "rumprun-bake"
    bake.write_text('#!/bin/sh\nexec cp "$3" "$2"\n')
    bake.chmod(0o755)
    configuration = prefix / "etc" / "rumprun-bake.conf"
    configuration.write_text("conf hw_generic\nfnoc\n")
    common = {"schema": 1, "version": "1"}
    lab = {**common, "prefix": str(prefix), "user": "lab", "group": "lab", "provision": "./provision"}
    paths = {
        "rumprun-gcc": str(tools / "x86_64-linux-gnu-gcc"),
        "rumprun-bake": str(bake),
        "bake-conf": str(configuration),
    }
    component = {**common, "name": "rump_toolchain", "state": "installed", "stamp": STAMP, "paths": paths}
    (components / "rump_toolchain.json").write_text(json.dumps(component))
    path = prefix / "etc" / "rumplab.json"
    path.write_text(json.dumps(lab))
    return path


def seconds(work: Callable[[], None]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def medians(rounds: int, *works: Callable[[], None]) -> list[float]:
    """Return the median of the seconds that each of `works` takes; they run in turn, `rounds` times."""
    times = [[seconds(work) for work in works] for _ in range(rounds)]
    return [statistics.median(side) for side in zip(*times, strict=True)]


def main() -> None:
    given = [int(argument) for argument in sys.argv[1:3]]
    files, rounds = given + [100, 7][len(given) :]
    gcc = shutil.which("gcc")
    if gcc is None:
        sys.exit("bench/build.py: gcc is not installed; install it")
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        program = scratch / "program"
        write_program(program, files)
        environment = {
            **os.environ,
            "RUMPLAB_CONFIG": str(write_lab(scratch / "lab", gcc)),
            "XDG_CACHE_HOME": str(scratch / "cache"),
        }

        def call(*argv: str | Path) -> None:
            subprocess.run([*argv], check=True, stdout=subprocess.DEVNULL, env=environment)

        def build() -> None:
            call(sys.executable, "-m", "rumplab", "build", program, "-o", scratch / "program.bin")

        def start() -> None:
            call(sys.executable, "-c", "import argparse, json, hashlib, subprocess, tempfile, shutil, pathlib")

        def read() -> None:
            call("sha256sum", *sorted(program.iterdir()))

        def change() -> None:
            (program / "main.c").write_text(f"int unused{time.monotonic_ns()};\n" + text)
            build()

        def by_hand() -> None:
            call(gcc, "-g", "-o", scratch / "by-hand", *sorted(program.glob("*.c")))
            call("cp", scratch / "by-hand", scratch / "by-hand.bin")

        text = (program / "main.c").read_text()
        build()
        # If a header is newer than the build that reads it, rumplab build assumes that it changed during the build.
        time.sleep(0.1)
        change()
        unchanged, python, reading = medians(rounds, build, start, read)
        tools, changed = medians(rounds, by_hand, change)
    print(f"{files} C files and {files} headers, {rounds} rounds, medians")
    print(f"unchanged: rumplab build                   {unchanged:.3f} s")
    print(f"           Python's start and its imports  {python:.3f} s")
    print(f"           sha256sum of all files          {reading:.3f} s")
    print(f"changed:   rumplab build                   {changed:.3f} s")
    print(f"           the tools by hand               {tools:.3f} s")
    print(f"           over the tools                  {changed - tools:.3f} s")


if __name__ == "__main__":
    main()
