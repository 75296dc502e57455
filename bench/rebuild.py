"""Compare a rebuild after one source edit was turned off with the first build: print both times and their ratio.

    tools/python bench/rebuild.py [gdb TARBALL]

Without arguments it builds the tests' miniature rumprun, and then again without its component pci_scsi. With `gdb` it
builds GDB from TARBALL, a release or the archive of a distribution's package gdb-source, and then again without its
source edit.

The role's own code builds both, into one prefix whose compiler cache is empty at first. If the host has no ccache, the
output says so. The miniature's sources are small, so that the ratio shows how much of the other work (git, make, the
checks of the result) a rebuild repeats. The goal is a rebuild in at most half the time. The benchmark asserts nothing.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from fixtures.upstream import make_rumprun
from fixtures.upstream.support import ROOT, opener, provide, request
from fixtures.upstream.toolchain import pin, toolchain

ROUNDS = 3
LIMIT = 7200.0
WANTED = 0.5


def seconds(wanted: Mapping[str, Any]) -> float:
    """Return the seconds that the request `wanted` takes; exit if that didn't build and install a tree."""
    began = time.monotonic()
    answer = provide(wanted, opener)
    took = time.monotonic() - began
    if answer.get("state") != "installed" or not answer.get("switched"):
        sys.exit(f"bench/rebuild.py: nothing was built: {answer}")
    return took


def miniature(directory: Path) -> tuple[float, float]:
    """Return the seconds of the miniature's first build, and of the second with one component less."""
    commits = make_rumprun.make(directory / "upstream", ROOT / "examples")
    source, prefix = pin(directory / "upstream", commits["commit"]), directory / "prefix"
    more = {"jobs": 0, "build_timeout": LIMIT}
    return (
        seconds(toolchain(prefix, source, ["ppb", "pci_scsi"], **more)),
        seconds(toolchain(prefix, source, ["ppb"], **more)),
    )


def debugger(directory: Path, tarball: Path) -> tuple[float, float]:
    """Return the seconds of GDB's first build, and of the second without its edit."""
    variables = yaml.safe_load((ROOT / "roles/gdb/vars/main.yml").read_text())
    for command in variables["__gdb_build"]["commands"]:
        script = variables["__gdb_configure"]
        command["argv"] = [script if "__gdb_configure" in part else part for part in command["argv"]]
    source = {"urls": [tarball.name], "sha256": hashlib.sha256(tarball.read_bytes()).hexdigest()}
    times = []
    for number, edits in enumerate((variables["__gdb_edits"], [])):
        wanted = request(
            directory / "prefix",
            source,
            name="gdb",
            version="0",
            mirror=str(tarball.parent),
            candidates=["mirror"],
            edits=edits,
            build=variables["__gdb_build"],
            files=variables["__gdb_files"],
            paths=variables["__gdb_paths"],
            stamps={"upstream": f"{number + 1}" * 64, "substitute": "f" * 64},
            jobs=0,
            build_timeout=LIMIT,
        )
        times.append(seconds(wanted))
    return times[0], times[1]


def main() -> None:
    """Measure and print."""
    arguments = sys.argv[1:]
    if arguments and (arguments[0] != "gdb" or len(arguments) != 2):
        sys.exit(__doc__)
    pairs = []
    for _ in range(1 if arguments else ROUNDS):
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            pairs.append(debugger(place, Path(arguments[1]).resolve()) if arguments else miniature(place))
    cold, again = (statistics.median(side) for side in zip(*pairs, strict=True))
    cache = "ccache" if shutil.which("ccache") and os.path.isdir("/usr/lib/ccache") else "NO ccache on this host"
    print(f"first build    {cold:7.2f} s")
    print(f"rebuild        {again:7.2f} s   ({cache})")
    print(f"ratio          {again / cold:7.2f}     (wanted: at most {WANTED})")


if __name__ == "__main__":
    main()
