"""The host's package managers: what is installed, and what removing some packages would take along."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Collection, Sequence

LISTS = {
    "apt": ["dpkg-query", "-W", "-f", "${db:Status-Abbrev}${binary:Package}\\n"],
    "dnf": ["rpm", "-qa", "--qf", "%{NAME}\\n"],
    "dnf5": ["rpm", "-qa", "--qf", "%{NAME}\\n"],
    "pacman": ["pacman", "-Qq"],
    "homebrew": ["brew", "list", "--formula", "-1"],
}
# Where Homebrew lies on Apple's and on Intel's processors; only a login shell has it in PATH.
BREW_PATH = ("/opt/homebrew/bin", "/usr/local/bin")
# dpkg's letters for what isn't on the host: not installed, and removed but for its configuration.
ABSENT, REMOVED = "n", "c"
# And for what was being installed or removed when dpkg was killed.
HALF = "HUFWt"
# Of the relations between packages, those for which nothing is installed with the lab's settings.
NO_NEED = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
# Seconds to wait for another run of the package manager.
LOCK_WAIT = 600.0
# What dpkg says of its own locks. A package's script may meet other ones, such as an account tool's, and fails then.
LOCKED = "locked by another process"
CONFIGURE = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
# Of packages that can't be configured any more, dpkg takes back what it had unpacked only if it is forced to.
PURGE = ["dpkg", "--force-depends", "--force-remove-reinstreq", "--force-remove-essential", "--purge"]


def parse_list(manager: str, text: str, but: str = ABSENT + REMOVED) -> list[str]:
    """Return the sorted package names in the output of the manager's list command.

    With apt, those in one of dpkg's states `but` are left out. A package that dpkg had only begun with counts.
    """
    lines = text.splitlines()
    if manager == "apt":
        # "ii " is installed, "iU " unpacked, "rc " removed but for its configuration; the third letter is an error.
        lines = [line[3:] for line in lines if line[1:2] not in ("", *but)]
    return sorted({line.strip() for line in lines if line.strip()})


def installed(manager: str) -> list[str]:
    """Return the names of all installed packages; ValueError for a manager that isn't known."""
    return parse_list(manager, _listed(manager))


def missing(manager: str, wanted: Sequence[str]) -> list[str]:
    """Return those of `wanted` that aren't installed whole; a name that only another package provides is one too."""
    if manager != "apt":
        there = set(installed(manager))
    else:
        # dpkg names the architecture of some packages, and of every foreign one. A third letter is an error.
        own = ":" + _output(["dpkg", "--print-architecture"]).strip()
        whole = (line[3:] for line in _listed(manager).splitlines() if line[1:3] == "i ")
        there = {name[: -len(own)] if name.endswith(own) else name for name in whole}
    return [name for name in wanted if name not in there]


def present(manager: str) -> list[str]:
    """Return the names of all packages of which there is anything on the host."""
    return parse_list(manager, _listed(manager), ABSENT)


def half_done(manager: str) -> list[str]:
    """Return the names of the packages that dpkg was killed at; other managers don't tell."""
    if manager != "apt":
        return []
    every = {letter for letter in "nciHUFWt" if letter not in HALF}
    return parse_list(manager, _listed(manager), "".join(sorted(every)))


def finish(manager: str) -> bool:
    """Let dpkg finish what a killed run of it left, without which apt does nothing more; False where that is nothing.

    What can't be finished, for want of its archive, stays as it is.
    """
    if manager != "apt" or not (_output(["dpkg", "--audit"]).strip() or _has_journal()):
        return False
    end = time.monotonic() + LOCK_WAIT
    while LOCKED in _dpkg(CONFIGURE) and time.monotonic() < end:
        time.sleep(1)
    return True


def take_back(manager: str, names: Sequence[str]) -> list[str]:
    """Purge those of `names` that dpkg left half done, and return them."""
    half = sorted(set(half_done(manager)) & set(names))
    if half:
        _dpkg([*PURGE, *half])
    return half


def _has_journal() -> bool:
    return any(name.isdigit() for name in os.listdir("/var/lib/dpkg/updates"))


def _dpkg(argv: Sequence[str]) -> str:
    """Run dpkg unattended, and return what it says of an error."""
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C"}
    run = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=900, env=environment
    )
    return run.stderr if run.returncode else ""


def _listed(manager: str) -> str:
    if manager not in LISTS:
        raise ValueError(f"the package manager '{manager}' isn't one of {', '.join(sorted(LISTS))}")
    return _output(LISTS[manager])


def _output(argv: Sequence[str]) -> str:
    path = os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), *BREW_PATH])
    environment = {**os.environ, "PATH": path}
    return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=120, env=environment).stdout


def automatic(manager: str) -> set[str]:
    """Return the packages that came as somebody's dependencies, as far as the manager can tell."""
    if manager != "apt":
        return set()
    # apt leaves the host's own architecture out, dpkg names it for some packages.
    plain = set(_output(["apt-mark", "showauto"]).split())
    return {name for name in installed(manager) if name in plain or name.split(":")[0] in plain}


def dependencies(manager: str, names: Sequence[str]) -> set[str]:
    """Return `names` and what they need, also indirectly, as the manager's lists of packages have it.

    apt notes last what came for others' sake: after it was killed, such packages count as asked for by the user.
    """
    if manager != "apt" or not names:
        return set(names)
    argv = ["apt-cache", *(f"--no-{kind}" for kind in NO_NEED), "--recurse", "depends", *names]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    # Each package that it came to stands at the beginning of a line; a name in <> is virtual.
    found = re.findall(r"^([a-z0-9][^\s:<>]*)", run.stdout, re.MULTILINE)
    return {*names, *found}


def brought(manager: str, came: Collection[str], wanted: Sequence[str]) -> set[str]:
    """Return those of the packages that `came` which did so for the sake of `wanted`, or of any other package."""
    needed = dependencies(manager, wanted)
    return {name for name in came if name.split(":")[0] in needed} | (set(came) & automatic(manager))


def of_interpreter(manager: str) -> set[str]:
    """Return the packages of the Python that runs this: without it, nothing could be taken away any more."""
    program = os.path.realpath(sys.executable)
    if manager == "homebrew":
        # PREFIX/Cellar/FORMULA/VERSION/…
        return set(re.findall(r"/Cellar/([^/]+)/", program))
    if manager != "apt":
        return set()
    argv = ["dpkg-query", "-S", program]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    return {line.split(": ")[0] for line in run.stdout.splitlines() if ": " in line}


def parse_apt_simulation(text: str) -> set[str]:
    """Return the packages that `apt-get -s remove` says it would remove."""
    return {match.group(1) for match in re.finditer(r"^(?:Remv|Purg) (\S+)", text, re.MULTILINE)}


def parse_brew_deps(text: str) -> dict[str, set[str]]:
    """Return what each formula needs, from the lines `NAME: NEEDED …` of `brew deps --installed`."""
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): set(needed.split()) for name, _, needed in lines}


def removable(manager: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split `names` into (those that can go, those that something not in `names` has come to need).

    apt removes what depends on a package along with it without being asked, and Homebrew refuses the whole list if one
    of it is needed; the others are left to see for themselves.
    """
    there = set(present(manager))
    ours = [name for name in names if name in there]
    needed_here = of_interpreter(manager)
    kept = [name for name in ours if name in needed_here]
    going = [name for name in ours if name not in kept]
    if manager == "homebrew":
        needs = parse_brew_deps(_output(["brew", "deps", "--installed", "--formula"]))
        # The command's answer holds what is needed indirectly too, so that one look is enough.
        others = there.difference(going)
        kept += [name for name in going if any(name in needs.get(other, ()) for other in others)]
        return [name for name in going if name not in kept], sorted(kept)
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
    said = _output(["apt-get", "-s", "-q", "-o", "Debug::NoLocking=true", "remove", *names])
    plain = {name.split(":")[0] for name in names}
    return {name for name in parse_apt_simulation(said) if name.split(":")[0] not in plain}
