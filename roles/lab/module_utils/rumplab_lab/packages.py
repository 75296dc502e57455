"""The host's package managers: what is installed, and what removing some packages would take along."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence

LISTS = {
    "apt": ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${binary:Package}\\n"],
    "dnf": ["rpm", "-qa", "--qf", "%{NAME}\\n"],
    "dnf5": ["rpm", "-qa", "--qf", "%{NAME}\\n"],
    "pacman": ["pacman", "-Qq"],
    "homebrew": ["brew", "list", "--formula", "-1"],
}


def parse_list(manager: str, text: str) -> list[str]:
    """Return the sorted package names in the output of the manager's list command."""
    lines = text.splitlines()
    if manager == "apt":
        # "ii " is installed; "rc " is a removed package whose configuration is still there.
        lines = [line[3:] for line in lines if line[1:2] == "i"]
    return sorted({line.strip() for line in lines if line.strip()})


def installed(manager: str) -> list[str]:
    """Return the names of all installed packages; ValueError for a manager that isn't known."""
    if manager not in LISTS:
        raise ValueError(f"the package manager '{manager}' isn't one of {', '.join(sorted(LISTS))}")
    run = subprocess.run(LISTS[manager], capture_output=True, text=True, check=True, timeout=120)
    return parse_list(manager, run.stdout)


def automatic(manager: str) -> set[str]:
    """Return the packages that came as somebody's dependencies, as far as the manager can tell."""
    if manager != "apt":
        return set()
    run = subprocess.run(["apt-mark", "showauto"], capture_output=True, text=True, check=True, timeout=120)
    # apt leaves the host's own architecture out, dpkg names it for some packages.
    plain = set(run.stdout.split())
    return {name for name in installed(manager) if name in plain or name.split(":")[0] in plain}


def of_interpreter(manager: str) -> set[str]:
    """Return the packages of the Python that runs this: without it, nothing could be taken away any more."""
    if manager != "apt":
        return set()
    argv = ["dpkg-query", "-S", os.path.realpath(sys.executable)]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    return {line.split(": ")[0] for line in run.stdout.splitlines() if ": " in line}


def parse_apt_simulation(text: str) -> set[str]:
    """Return the packages that `apt-get -s remove` says it would remove."""
    return {match.group(1) for match in re.finditer(r"^(?:Remv|Purg) (\S+)", text, re.MULTILINE)}


def removable(manager: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split `names` into (those that can go, those that something not in `names` has come to need).

    Only apt removes what depends on a package along with it without being asked; the others refuse by themselves.
    """
    present = set(installed(manager))
    ours = [name for name in names if name in present]
    needed_here = of_interpreter(manager)
    kept = [name for name in ours if name in needed_here]
    going = [name for name in ours if name not in kept]
    if manager != "apt":
        return going, kept
    # Each round keeps the packages whose removal would take a stranger along, until no stranger goes.
    for _ in range(len(going) + 1):
        strangers = _strangers(going)
        if not strangers:
            break
        needed = [name for name in going if _strangers([name]) & strangers] or going[:]
        kept += needed
        going = [name for name in going if name not in needed]
    return going, sorted(kept)


def _strangers(names: Sequence[str]) -> set[str]:
    if not names:
        return set()
    run = subprocess.run(
        ["apt-get", "-s", "-q", "-o", "Debug::NoLocking=true", "remove", *names],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    plain = {name.split(":")[0] for name in names}
    return {name for name in parse_apt_simulation(run.stdout) if name.split(":")[0] not in plain}
