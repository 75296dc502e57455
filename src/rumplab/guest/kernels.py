"""Which files a guest's kernel, its symbols, its sources and its disk are."""

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
    """A guest's files, resolved: `file` boots by `boot`, `cdrom` has a pcictl for it."""

    file: str
    symbols: str | None
    boot: str
    disk: str | None = None
    cdrom: str | None = None
    release: str | None = None


def resolve(lab: Lab, guest: Guest) -> Kernel:
    """The files of `guest` as they are now. NotProvisioned while the lab has no kernel for it; RumplabError for
    a file that is gone, and for a lab's kernel of another release than the guest's."""
    if guest.kernel is not None:
        file, symbols, release = guest.kernel, guest.symbols, guest.release
    else:
        component = built(lab, guest)
        require_readable(component.path("kernel"), guest)
        file, symbols, release = component.path("kernel"), component.path("symbols"), component.version
    for path in (file, symbols, guest.disk, guest.initrd):
        if path is not None and not os.path.isfile(path):
            raise RumplabError(f"{path} of guest '{guest.name}' is gone; put it back, or make the guest anew")
    # Links of the lab may be switched while the guest runs: it has booted what they led to.
    return Kernel(
        file=os.path.realpath(file),
        symbols=os.path.realpath(symbols) if symbols else None,
        boot=guest.boot or way(Path(file), guest.kind),
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
    """The directory that the guest's `source_name` stands for: its own, else the lab's for the lab's kernel."""
    return guest.sources or beside(lab, guest, "netbsd_sources", "sources")


def disk(lab: Lab, guest: Guest) -> str | None:
    """The root disk: the guest's own, else the lab's where the kernel is the lab's and there is one."""
    if guest.disk is not None:
        return os.path.realpath(guest.disk)
    found = beside(lab, guest, f"netbsd_disk_{guest.arch}", "disk")
    return os.path.realpath(found) if found else None


def require_readable(kernel: str, guest: Guest) -> None:
    """RumplabError when the kernel isn't for this user's eyes, since a secret is compiled into it."""
    if os.path.exists(kernel) and not os.access(kernel, os.R_OK):
        owner = pwd.getpwuid(os.stat(kernel).st_uid).pw_name
        raise RumplabError(
            f"{kernel} has a key in it, and only {owner} may read it; use guest '{guest.name}' as {owner}"
        )


def beside(lab: Lab, guest: Guest, component: str, path: str) -> str | None:
    """A path of a component that belongs to the lab's own kernel, and that a guest can do without. None for a kernel
    that isn't the lab's, and where there is none."""
    if guest.kernel is not None:
        return None
    with contextlib.suppress(NotProvisioned):
        # Role ipkdb's kernel is of another release than netbsd_guest's, and so is all that goes with it.
        return lab.component(f"{component}_{IPKDB}" if guest.config == IPKDB else component).path(path)
    return None


def way(kernel: Path, kind: str) -> str:
    """How `kernel` boots: directly, where QEMU's own loader takes it, else by GRUB."""
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
