"""Finds the files of a guest's kernel, its symbols, its sources and its disk."""

from __future__ import annotations

import contextlib
import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.guest.definition import DIRECT, GRUB, IPKDB, LINUX, Guest
from rumplab.image import multiboot
from rumplab.lab.config import Component, Lab, tag


@dataclass(frozen=True)
class Kernel:
    """A guest's files, with symbolic links resolved. `boot` tells how `file` boots (GRUB or DIRECT); `cdrom` is the ISO
    image with a pcictl for this kernel."""

    file: str
    symbols: str | None
    boot: str
    disk: str | None = None
    cdrom: str | None = None
    release: str | None = None


def resolve(lab: Lab, guest: Guest) -> Kernel:
    """The current files of `guest`. NotProvisioned when the lab has no kernel for it, or one of another release;
    RumplabError when a file is missing."""
    if guest.kernel is not None:
        file, symbols, release = guest.kernel, guest.symbols, guest.release
    else:
        component = built(lab, guest)
        require_readable(component.path("kernel"), guest)
        file, symbols, release = component.path("kernel"), component.path("symbols"), component.version
    for path in (file, symbols, guest.disk, guest.initrd):
        if path is not None and not os.path.isfile(path):
            raise RumplabError(f"{path} of guest '{guest.name}' is gone; restore it, or delete and create the guest")
    # The lab may switch its links while the guest runs; the record must name the files that were booted.
    return Kernel(
        file=os.path.realpath(file),
        symbols=os.path.realpath(symbols) if symbols else None,
        boot=guest.boot or boot_method(Path(file), guest.kind),
        disk=disk(lab, guest),
        cdrom=beside(lab, guest, f"netbsd_pcictl_{guest.arch}", "iso"),
        release=release,
    )


def built(lab: Lab, guest: Guest) -> Component:
    """The component with the lab's kernel for `guest`. NotProvisioned names the command that builds one."""
    name, what = f"netbsd_kernel_{guest.arch}", f"NetBSD kernel for {guest.arch}"
    if guest.config is not None:
        name, what = f"{name}_{guest.config}", f"{what} called '{guest.config}'"
    role = tag(name)
    remedy = f"{lab.provision} --tags {role}"
    try:
        component = lab.component(name)
    except NotProvisioned as error:
        raise NotProvisioned(
            f"no {what} has been built yet; build one, which takes most of an hour: {remedy};"
            " or give one with --kernel and --symbols"
        ) from error
    if guest.release not in (None, component.version):
        raise NotProvisioned(
            f"the lab's kernel for {guest.arch} is of NetBSD {component.version}, and guest '{guest.name}' wants"
            f" {guest.release}; build that: {remedy} -e {role}_release={guest.release}"
        )
    return component


def sources(lab: Lab, guest: Guest) -> str | None:
    """The directory of the guest's sources: the guest's own; else the lab's, if the kernel is the lab's; else None."""
    return guest.sources or beside(lab, guest, "netbsd_sources", "sources")


def disk(lab: Lab, guest: Guest) -> str | None:
    """The root disk: the guest's own; else the lab's, if the kernel is the lab's; else None."""
    if guest.disk is not None:
        return os.path.realpath(guest.disk)
    found = beside(lab, guest, f"netbsd_disk_{guest.arch}", "disk")
    return os.path.realpath(found) if found else None


def require_readable(kernel: str, guest: Guest) -> None:
    """RumplabError when this user may not read the kernel: a kernel with IPKDB contains a secret key."""
    if os.path.exists(kernel) and not os.access(kernel, os.R_OK):
        owner = pwd.getpwuid(os.stat(kernel).st_uid).pw_name
        raise RumplabError(
            f"{kernel} has a key in it, and only {owner} may read it; use guest '{guest.name}' as {owner}"
        )


def beside(lab: Lab, guest: Guest, component: str, path: str) -> str | None:
    """The path `path` of an optional component that belongs to the lab's kernel. None when the guest has another
    kernel, or the component isn't provisioned."""
    if guest.kernel is not None:
        return None
    with contextlib.suppress(NotProvisioned):
        # Role ipkdb builds a kernel of another release than role netbsd_guest, with components of its own.
        return lab.component(f"{component}_{IPKDB}" if guest.config == IPKDB else component).path(path)
    return None


def boot_method(kernel: Path, kind: str) -> str:
    """How `kernel` boots: DIRECT if QEMU's own loader accepts it, else GRUB. RumplabError when it isn't a kernel."""
    if kind == LINUX:
        return DIRECT
    with kernel.open("rb") as handle:
        head = handle.read(multiboot.SEARCH)
    problem = multiboot.elf_problem(head)
    if problem:
        raise RumplabError(f"{kernel} {problem}")
    if multiboot.boots_directly(head):
        return DIRECT
    if multiboot.hosted(head):
        raise RumplabError(f"{kernel} is a program for an operating system, not a kernel; name the kernel, as netbsd")
    return GRUB
