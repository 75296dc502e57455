"""Compare the time of role gdb's build with that of configure and make run directly; print both and their ratio.

Usage: tools/python bench/gdb.py TARBALL      (a GDB release, or the archive in a distribution's gdb-source package)

Both build the same unchanged source with the same recipe and as many jobs as there are cores, one after the other,
without ccache. This takes twice the time of a build, and 2 GiB in the directory for temporary files.
"""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from fixtures.upstream.support import ROOT, opener, provide, request

LIMIT = 7200
# In MiB, the same value as in roles/gdb.
SPACE = 1500


def load_recipe() -> dict[str, Any]:
    """Return role gdb's variables, with the text of the configure script inserted in the recipe."""
    variables: dict[str, Any] = yaml.safe_load((ROOT / "roles/gdb/vars/main.yml").read_text())
    for command in variables["__gdb_build"]["commands"]:
        configure = variables["__gdb_configure"]
        command["argv"] = [configure if "__gdb_configure" in part else part for part in command["argv"]]
    variables["__gdb_build"]["environment"]["CCACHE_DISABLE"] = "1"
    return variables


def by_the_role(tarball: Path, directory: Path, variables: dict[str, Any]) -> float:
    """Return the seconds that the role's code takes from the archive to the installed tree."""
    wanted = request(
        directory,
        {"urls": [tarball.name], "sha256": hashlib.sha256(tarball.read_bytes()).hexdigest()},
        name="gdb",
        version="0",
        edits=variables["__gdb_edits"],
        build=variables["__gdb_build"],
        files=variables["__gdb_files"],
        paths=variables["__gdb_paths"],
        mirror=str(tarball.parent),
        candidates=["mirror"],
        strict=True,
        jobs=0,
        build_timeout=LIMIT,
        space=SPACE,
    )
    start = time.monotonic()
    answer = provide(wanted, opener)
    if answer.get("failed"):
        sys.exit(answer["msg"])
    return time.monotonic() - start


def by_hand(tarball: Path, directory: Path, variables: dict[str, Any]) -> float:
    """Return the seconds that tar and the recipe's commands take when they are run directly."""
    recipe, edit = variables["__gdb_build"], variables["__gdb_edits"][0]
    start = time.monotonic()
    source, build = directory / "source", directory / "build"
    source.mkdir()
    build.mkdir()
    unpack = ["tar", "-xf", str(tarball), "-C", str(source), "--strip-components=1"]
    subprocess.run(unpack, check=True, timeout=600)
    path = source / edit["file"]
    text = path.read_text(encoding="latin-1")
    anchor = re.compile(edit["anchor"], re.MULTILINE | re.DOTALL)
    path.write_text(anchor.sub(lambda _: edit["replacement"], text), encoding="latin-1")
    places = {
        "@source@": str(source),
        "@build@": str(build),
        "@dest@": str(directory / "dest"),
        "@jobs@": str(os.cpu_count()),
    }
    environment = {**os.environ, **recipe["environment"], "LC_ALL": "C"}
    with (directory / "log").open("wb") as log:
        for command in recipe["commands"]:
            argv = [re.sub("@[a-z]+@", lambda place: places[place[0]], part) for part in command["argv"]]
            subprocess.run(argv, cwd=build, env=environment, stdout=log, stderr=log, check=True, timeout=LIMIT)
    return time.monotonic() - start


def main() -> None:
    """Build twice and print the ratio."""
    tarball = Path(sys.argv[1]).resolve()
    variables = load_recipe()
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        hand = by_hand(tarball, Path(first), variables)
        role = by_the_role(tarball, Path(second), variables)
    print(f"by hand {hand:.0f} s, by the role {role:.0f} s, ratio {role / hand:.2f}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main()
