"""``rumplab guest create``: writes a guest's definition."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from rumplab.cli import network_options
from rumplab.cli.arguments import memory
from rumplab.errors import RumplabError, UsageError
from rumplab.guest import ipkdb, kernels
from rumplab.guest.definition import ARCHES, DIRECT, GRUB, IPKDB, LINUX, NETBSD, SOURCE_NAME, Guest, open_guests
from rumplab.guest.kernels import Kernel
from rumplab.host import regular
from rumplab.image import multiboot, recorded
from rumplab.image.grub import COMMAND_LINE_LIMIT
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine.registry import check_name

EPILOG = """\
Without --kernel and --linux, the guest has the NetBSD kernel and disk that './provision --tags netbsd_guest' has built;
each start takes the newest ones. --kernel and --symbols name a NetBSD kernel that you have built with KGDB. --linux
names the vmlinux of a Linux kernel that you have built with KGDB; --bzimage without it boots any Linux kernel.

examples:
  rumplab guest create nb
  rumplab guest create own --kernel netbsd --symbols netbsd.gdb --disk root.img --root wd1a
  rumplab guest create nb8 --config ipkdb
  rumplab guest create lx --linux obj/vmlinux --initrd initrd.cpio
"""
DEFAULT_MEMORY = "256M"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest's name")
    parser.add_argument(
        "--arch", choices=ARCHES, help="the kernel's architecture (default: amd64; with --config ipkdb: i386)"
    )
    parser.add_argument(
        "--release", metavar="VERSION", help="start only this release of the lab's kernel, for example 10.1"
    )
    parser.add_argument(
        "--config", metavar="NAME", help="one of the lab's other kernels: ipkdb, or a name in netbsd_guest_more_kernels"
    )
    parser.add_argument("--kernel", metavar="FILE", help="a NetBSD kernel instead of the lab's")
    parser.add_argument(
        "--symbols", metavar="FILE", help="the file with that kernel's debugging information: netbsd.gdb"
    )
    parser.add_argument(
        "--sources",
        metavar="[NAME=]DIR",
        help=f"DIR has the sources that the symbols look for in NAME (default: {SOURCE_NAME})",
    )
    parser.add_argument(
        "--boot",
        choices=(GRUB, DIRECT),
        help="load the kernel by GRUB's knetbsd or by QEMU's own loader (default: what fits the kernel)",
    )
    parser.add_argument("--linux", metavar="VMLINUX", help="a Linux kernel with KGDB instead of a NetBSD one")
    parser.add_argument(
        "--bzimage",
        metavar="FILE",
        help="a Linux kernel's bootable file, such as /boot/vmlinuz (default: the one in the build tree of --linux)",
    )
    parser.add_argument("--initrd", metavar="FILE", help="initial RAM file system of a Linux kernel")
    parser.add_argument("--append", metavar="STRING", help="more words for the command line of a Linux kernel")
    parser.add_argument(
        "--disk", metavar="FILE", help="the root disk (default: for the lab's kernel, the lab's disk; else none)"
    )
    parser.add_argument(
        "--allow-backing",
        action="store_true",
        help="accept a --disk that names other files, such as a qcow2 with a backing file",
    )
    parser.add_argument(
        "--root", metavar="DEVICE", help="the root device, as the guest calls it, for example wd1a (default: what fits)"
    )
    parser.add_argument(
        "--memory",
        type=memory,
        default=DEFAULT_MEMORY,
        metavar="SIZE",
        help="in MiB, or with M or G behind it (default: %(default)s)",
    )
    network_options.add_arguments(parser)


def is_linux(args: argparse.Namespace) -> bool:
    return args.linux is not None or args.bzimage is not None


def check_usage(args: argparse.Namespace) -> None:
    """Raises UsageError for options that contradict each other."""
    if is_linux(args):
        for option in ("kernel", "symbols", "release", "config", "boot"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option} is for NetBSD; leave it out, or leave --linux out")
        if args.arch == "i386":
            raise UsageError("--linux is for amd64 kernels; leave --arch out")
    else:
        for option in ("initrd", "append"):
            if getattr(args, option) is not None:
                raise UsageError(f"--{option} goes with --linux; add that, or leave --{option} out")
    for option in ("symbols", "boot", "sources"):
        if getattr(args, option) is not None and args.kernel is None and not is_linux(args):
            raise UsageError(f"--{option} goes with --kernel; the lab's own kernel has what it needs")
    if args.allow_backing and args.disk is None:
        raise UsageError("--allow-backing goes with --disk; the lab's own disk is one file")
    if args.config is not None and args.kernel is not None:
        raise UsageError("--config and --kernel both name the kernel; use one of them")
    for option in ("append", "root"):
        text = getattr(args, option)
        if text is not None and (not text.isprintable() or len(text) > COMMAND_LINE_LIMIT):
            raise UsageError(f"--{option} must be one line of text; shorten it, and leave control characters out")
    if args.root is not None and not all(character.isalnum() or character in "/=-_" for character in args.root):
        raise UsageError(f"--root {args.root} is not a device; use for example wd1a")


def existing(path: str) -> str:
    """Returns `path` made absolute. RumplabError unless it is a file."""
    if not os.path.isfile(path):
        raise RumplabError(f"{path}: no such file; name one that exists")
    return os.path.abspath(path)


def with_symbols(option: str, path: str) -> str:
    """Returns `path`, the value of `option`, made absolute. UsageError unless it is an ELF file, from which GDB can
    load symbols."""
    absolute = existing(path)
    with regular.opened(absolute) as stream:
        problem = multiboot.elf_problem(stream.read(multiboot.SEARCH))
    if problem:
        raise UsageError(f"{option} {path} {problem}; name the file with the symbols")
    return absolute


def bzimage_of(vmlinux: str) -> str:
    """Returns the bzImage of the build tree that contains `vmlinux`. RumplabError if there is none."""
    path = Path(vmlinux).parent / "arch" / "x86" / "boot" / "bzImage"
    if not path.is_file():
        raise RumplabError(f"there is no {path} to boot {vmlinux}; name the bzImage with --bzimage")
    return str(path)


def source_places(text: str | None) -> tuple[str, str | None]:
    """Returns NAME and DIR of `--sources`; DIR is None without the option. RumplabError unless DIR is a directory."""
    if text is None:
        return SOURCE_NAME, None
    name, equals, directory = text.rpartition("=")
    # The directory's name itself may contain an equals sign.
    if os.path.isdir(text) or not equals or not name.startswith("/"):
        name, directory = SOURCE_NAME, text
    if not os.path.isdir(directory):
        raise RumplabError(f"{directory}: no such directory; name one that exists")
    return name, os.path.abspath(directory)


def make_guest(args: argparse.Namespace, lab: Lab, platform: str) -> Guest:
    """Returns the definition that the command line asks for. RumplabError for a file that doesn't exist."""
    cards = network_options.cards(args, platform)
    kernel: str | None
    symbols: str | None
    disk = recorded.settle(lab, existing(args.disk), None, args.allow_backing) if args.disk else None
    if disk is not None and disk.format is None:
        raise UsageError(f"{args.disk} is a program, not a disk image; name the root disk")
    if is_linux(args):
        symbols = with_symbols("--linux", args.linux) if args.linux is not None else None
        kernel = existing(args.bzimage) if args.bzimage is not None else bzimage_of(symbols or "")
    else:
        kernel = existing(args.kernel) if args.kernel else None
        symbols = with_symbols("--symbols", args.symbols) if args.symbols else kernel
    source_name, sources = source_places(args.sources)
    return Guest(
        name=args.name,
        kind=LINUX if is_linux(args) else NETBSD,
        arch=args.arch or (ipkdb.ARCH if args.config == IPKDB else ARCHES[0]),
        kernel=kernel,
        symbols=symbols,
        sources=sources,
        source_name=source_name,
        release=args.release,
        config=args.config,
        boot=args.boot,
        disk=disk.path if disk else None,
        disk_format=disk.format if disk and disk.format else "raw",
        root=args.root,
        initrd=existing(args.initrd) if args.initrd else None,
        append=args.append,
        memory=args.memory,
        nics=cards,
        pci_bridge=not args.no_pci_bridge,
        vmnet=args.vmnet,
    )


def describe(guest: Guest, kernel: Kernel) -> str:
    """Returns a description of the guest in one line."""
    system = "Linux" if guest.kind == LINUX else f"NetBSD {kernel.release}" if kernel.release else "NetBSD"
    disk = f"disk {kernel.disk}" if kernel.disk else "no disk"
    return f"{guest.name}: {system}/{guest.arch}, {kernel.file}, {disk}"


def run(args: argparse.Namespace, platform: str = sys.platform) -> int:
    check_name(args.name)
    check_usage(args)
    lab = config.load()
    guest = make_guest(args, lab, platform)
    kernel = kernels.resolve(lab, guest)
    open_guests(lab).add(guest)
    mode = IPKDB if guest.config == IPKDB else "kgdb"
    print(f"{describe(guest, kernel)}; start it with: rumplab guest start {guest.name} --{mode}")
    return 0
