"""Measure how long role gcc takes after the download: to unpack the packages, and to build, test and install the tree.

    tools/python bench/gcc.py [ROUNDS]

The benchmark fetches the packages once, as the role does, into a temporary prefix, and then makes the tree ROUNDS
(default 5) times. It needs binutils and libc's headers. The goal is a median of at most 15 s on two cores. The
benchmark prints the times, and asserts nothing.
"""

from __future__ import annotations

import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar
from fixtures.upstream.support import ROOT, opener, provide, request

ROUNDS = 5
WANTED = 15.0
# In MiB, the same value as in roles/gcc.
SPACE = 400
ROLE = ROOT / "roles/gcc"


def recipe() -> tuple[dict[str, Any], dict[str, str]]:
    """Return the role's recipe, and the paths that the tree must have."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for name in ("defaults", "vars"):
        variables.update(loader.load_from_file(str(ROLE / name / "main.yml"), trusted_as_template=True))
    fill = Templar(loader=loader, variables=variables).template
    return fill(variables["__gcc_build"]), fill(variables["__gcc_paths"])


def parts() -> list[dict[str, Any]]:
    """Return the pin of each package."""
    pins = yaml.safe_load((ROOT / "inventory/group_vars/all/pins.yml").read_text("utf-8"))["rumplab_pins"]["gcc"]
    row = pins["versions"]["9.3.0"]
    return [
        {"urls": [host.replace("@file@", path).replace("@date@", row["date"]) for host in pins["hosts"]], **pin}
        for path, pin in row["packages"].items()
    ]


def seconds(wanted: dict[str, Any], state: str) -> float:
    """Return the seconds that the request `wanted` takes; exit unless its result has this state."""
    began = time.monotonic()
    answer = provide(wanted, opener)
    took = time.monotonic() - began
    if answer.get("state") != state:
        sys.exit(f"bench/gcc.py: the state is not {state}: {answer}")
    return took


def main() -> None:
    """Fetch the packages, make the tree and print the times."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    build, paths = recipe()
    source = {"parts": parts()}
    with tempfile.TemporaryDirectory() as directory:
        prefix = Path(directory)
        more = {"name": "gcc", "version": "9.3.0", "build": build, "paths": paths, "fetch_timeout": 30.0}
        more["space"] = SPACE
        fetching = seconds(request(prefix, source, only="source", **more), "fetched")
        made = []
        for _ in range(rounds):
            made.append(seconds(request(prefix, source, **more), "installed"))
            shutil.rmtree(prefix / "store")
            os.unlink(prefix / "gcc")
    print(f"fetching {sum(part['size'] for part in source['parts']) / 1e6:.0f} MB  {fetching:6.1f} s")
    print(f"the rest            {statistics.median(made):6.1f} s   (wanted: at most {WANTED:.0f})")


if __name__ == "__main__":
    main()
