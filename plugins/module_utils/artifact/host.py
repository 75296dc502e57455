"""Check whether programs that were built elsewhere can run on this host."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Mapping


def glibc() -> str:
    """Return the version of the host's GNU libc, or "" if the host has another C library."""
    try:
        said = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""
    return said.removeprefix("glibc ") if said.startswith("glibc ") else ""


def as_numbers(version: str) -> list[int]:
    """Return the numbers at the beginning of a version, for comparison: `2.31-9` -> [2, 31]."""
    return [int(number) for number in re.split(r"[^0-9.]", version, maxsplit=1)[0].split(".") if number]


def mismatch(wanted: Mapping[str, str]) -> str:
    """Return why a tree with the requirements `wanted` (system, machine, glibc, instead) can't work here, or ""."""
    here = {"system": platform.system(), "machine": platform.machine(), "glibc": glibc()}
    same = all(here[key] == wanted[key] for key in ("system", "machine") if wanted.get(key))
    if same and (not wanted.get("glibc") or as_numbers(here["glibc"]) >= as_numbers(wanted["glibc"])):
        return ""
    libc = f" with glibc {wanted['glibc']} or later" if wanted.get("glibc") else ""
    own_libc = f" with glibc {here['glibc']}" if here["glibc"] else " without glibc"
    return (
        f"its programs need {wanted.get('system', 'any system')} on {wanted.get('machine', 'any machine')}{libc}, "
        f"and this host is {here['system']} on {here['machine']}{own_libc if libc else ''}. {wanted.get('instead', '')}"
    ).strip()
