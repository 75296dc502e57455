"""Query the host's package managers: which packages are installed, and which can be removed alone."""

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
# Homebrew's directories on Apple silicon and on Intel; only a login shell has them in PATH.
BREW_PATH = ("/opt/homebrew/bin", "/usr/local/bin")
# dpkg's status letters: not installed; removed except for its configuration files.
ABSENT, REMOVED = "n", "c"
# dpkg's status letters of packages that it was installing or removing when it was killed.
HALF = "HUFWt"
# Relations between packages for which apt, with the lab's settings, installs nothing.
NO_NEED = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
# Seconds to wait for another run of the package manager.
LOCK_WAIT = 600.0
# dpkg's message about its own lock. (A package's script may fail at another lock, such as that of useradd.)
LOCKED = "locked by another process"
CONFIGURE = ["dpkg", "--force-confdef", "--force-confold", "--configure", "-a"]
# dpkg removes a package that it unpacked and can't configure only with these options.
PURGE = ["dpkg", "--force-depends", "--force-remove-reinstreq", "--force-remove-essential", "--purge"]


def parse_list(manager: str, text: str, but: str = ABSENT + REMOVED) -> list[str]:
    """Return the sorted package names in the output of the manager's list command.

    With apt, packages whose status letter is in `but` are left out. A package that is only partly installed counts.
    """
    lines = text.splitlines()
    if manager == "apt":
        # "ii " is installed, "iU " unpacked, "rc " removed except for its configuration; a third letter is an error.
        lines = [line[3:] for line in lines if line[1:2] not in ("", *but)]
    return sorted({line.strip() for line in lines if line.strip()})


def installed(manager: str) -> list[str]:
    """Return the names of all installed packages; ValueError for an unknown manager."""
    return parse_list(manager, _listed(manager))


def missing(manager: str, wanted: Sequence[str]) -> list[str]:
    """Return the packages of `wanted` that aren't fully installed, and the names that are only virtual packages."""
    if manager != "apt":
        there = set(installed(manager))
    else:
        # dpkg appends the architecture to some names, and to every foreign one. A third status letter is an error.
        own = ":" + _output(["dpkg", "--print-architecture"]).strip()
        whole = (line[3:] for line in _listed(manager).splitlines() if line[1:3] == "i ")
        there = {name[: -len(own)] if name.endswith(own) else name for name in whole}
    return [name for name in wanted if name not in there]


def present(manager: str) -> list[str]:
    """Return the names of all packages that have at least configuration files on the host."""
    return parse_list(manager, _listed(manager), ABSENT)


def half_done(manager: str) -> list[str]:
    """Return the names of the packages that a killed dpkg left partly installed; [] for other managers."""
    if manager != "apt":
        return []
    every = {letter for letter in "nciHUFWt" if letter not in HALF}
    return parse_list(manager, _listed(manager), "".join(sorted(every)))


def finish(manager: str) -> bool:
    """Let dpkg finish what a killed dpkg has left, since apt refuses to work before; False if there is nothing to do.

    A package that dpkg can't finish because its archive is missing stays as it is.
    """
    if manager != "apt" or not (_output(["dpkg", "--audit"]).strip() or _has_journal()):
        return False
    end = time.monotonic() + LOCK_WAIT
    while LOCKED in _dpkg(CONFIGURE) and time.monotonic() < end:
        time.sleep(1)
    return True


def take_back(manager: str, names: Sequence[str]) -> list[str]:
    """Purge the packages of `names` that dpkg left partly installed, and return them."""
    half = sorted(set(half_done(manager)) & set(names))
    if half:
        _dpkg([*PURGE, *half])
    return half


def _has_journal() -> bool:
    return any(name.isdigit() for name in os.listdir("/var/lib/dpkg/updates"))


def _dpkg(argv: Sequence[str]) -> str:
    """Run dpkg without prompts, and return its error output if it fails, else ""."""
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
    """Return the packages that apt marks as automatically installed; none for other managers."""
    if manager != "apt":
        return set()
    # apt omits the host's architecture from names; dpkg appends it to some.
    plain = set(_output(["apt-mark", "showauto"]).split())
    return {name for name in installed(manager) if name in plain or name.split(":")[0] in plain}


def dependencies(manager: str, names: Sequence[str]) -> set[str]:
    """Return `names` and their dependencies, direct and indirect, from apt's package lists; only `names` without apt.

    The marks of `automatic` don't suffice: apt writes them last, so that after it was killed, its dependencies count as
    installed by the user.
    """
    if manager != "apt" or not names:
        return set(names)
    argv = ["apt-cache", *(f"--no-{kind}" for kind in NO_NEED), "--recurse", "depends", *names]
    run = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=120)
    # Each package is at the beginning of a line; a name in <> is a virtual package.
    found = re.findall(r"^([a-z0-9][^\s:<>]*)", run.stdout, re.MULTILINE)
    return {*names, *found}


def installed_for(manager: str, new: Collection[str], wanted: Sequence[str]) -> set[str]:
    """Return the packages of `new` that belong to or are dependencies of `wanted`, or are marked as automatic."""
    needed = dependencies(manager, wanted)
    return {name for name in new if name.split(":")[0] in needed} | (set(new) & automatic(manager))


def of_interpreter(manager: str) -> set[str]:
    """Return the packages of the Python that runs this module: uninstalling must not remove it."""
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
    """Return the packages that `apt-get -s remove` would remove, from its output."""
    return {match.group(1) for match in re.finditer(r"^(?:Remv|Purg) (\S+)", text, re.MULTILINE)}


def parse_brew_deps(text: str) -> dict[str, set[str]]:
    """Return each formula's dependencies, from the lines `NAME: NEEDED …` of `brew deps --installed`."""
    lines = (line.partition(":") for line in text.splitlines() if ":" in line)
    return {name.strip(): set(needed.split()) for name, _, needed in lines}


def removable(manager: str, names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Split `names` into (those that can be removed, those that a package outside `names` needs).

    apt removes the packages that depend on a removed one without asking, and Homebrew refuses the whole list if another
    formula needs one of it. dnf and pacman need no such check: they decide for each package.
    """
    there = set(present(manager))
    ours = [name for name in names if name in there]
    needed_here = of_interpreter(manager)
    kept = [name for name in ours if name in needed_here]
    going = [name for name in ours if name not in kept]
    if manager == "homebrew":
        needs = parse_brew_deps(_output(["brew", "deps", "--installed", "--formula"]))
        # brew deps lists indirect dependencies too, so one pass is enough.
        others = there.difference(going)
        kept += [name for name in going if any(name in needs.get(other, ()) for other in others)]
        return [name for name in going if name not in kept], sorted(kept)
    if manager != "apt":
        return going, kept
    # Each round keeps the packages whose removal would remove one outside the list, until no such package is removed.
    for _ in range(len(going) + 1):
        others = _also_removed(going)
        if not others:
            break
        needed = [name for name in going if _also_removed([name]) & others] or going[:]
        kept += needed
        going = [name for name in going if name not in needed]
    return going, sorted(kept)


def _also_removed(names: Sequence[str]) -> set[str]:
    """Return the packages outside `names` that apt would remove together with them."""
    if not names:
        return set()
    said = _output(["apt-get", "-s", "-q", "-o", "Debug::NoLocking=true", "remove", *names])
    plain = {name.split(":")[0] for name in names}
    return {name for name in parse_apt_simulation(said) if name.split(":")[0] not in plain}
