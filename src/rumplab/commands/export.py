"""`rumplab export`: writes a directory that VMware opens, with the disk, a debug stub and the symbols."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rumplab.cli.arguments import unprivileged_port
from rumplab.errors import RumplabError, UsageError
from rumplab.host.files import sha256
from rumplab.host.process import interruptible
from rumplab.image import disk, formats, recognise, recorded, vmdk
from rumplab.lab import config
from rumplab.machine import boot_media
from rumplab.machine.registry import open_machines
from rumplab.vmware import directory as layout
from rumplab.vmware import vmx

EPILOG = """\
The command writes machine.vmx, disk.vmdk, the program with its symbols, and README.txt with the GDB command into DIR.
If it fails, DIR is as it was before.

examples:
  rumplab export hello.img --vmware hello.vmwarevm
  rumplab export hello.img --vmware hello --adapter lsisas1068 --port 8865
  rumplab debug --vmware hello main          attach to it, after you have started machine.vmx in VMware
"""
SERIALS = ("file", "pipe")
MIB = 1024 * 1024
MEMORY_STEP = 4
# The longest path of a pipe, in bytes: sun_path has 104 bytes on macOS, with the closing NUL.
PIPE_LIMIT = 100


def memory(text: str) -> int:
    """Returns `text` as MiB of memory. VMware takes multiples of 4 only."""
    if not re.fullmatch("[0-9]{1,7}", text) or int(text) < MEMORY_STEP or int(text) % MEMORY_STEP:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number of MiB that is a multiple of 4")
    return int(text)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("image", metavar="IMAGE", help="a disk image: raw, qcow2 or VMDK; 'rumplab stage' makes one")
    parser.add_argument("--vmware", metavar="DIR", type=Path, required=True, help="the directory to make")
    parser.add_argument("--force", action="store_true", help="replace DIR if an earlier export made it")
    parser.add_argument(
        "--format", choices=recognise.FORMATS, help="IMAGE's format (default: the one that rumplab has recorded for it)"
    )
    parser.add_argument(
        "--allow-backing",
        action="store_true",
        help="accept an IMAGE that names other files, such as a qcow2 with a backing file",
    )
    parser.add_argument(
        "--port",
        type=unprivileged_port,
        default=vmx.PORT,
        help="TCP port of the debug stub, on 127.0.0.1 (default: %(default)s)",
    )
    parser.add_argument(
        "--adapter",
        choices=vmx.ADAPTERS,
        default=vmx.ADAPTERS[0],
        help="the disk's controller: LSI Logic 1000:0030 (the default) or LSI SAS 1000:0054",
    )
    parser.add_argument(
        "--subformat",
        choices=vmdk.SUBFORMATS,
        default=vmdk.SUBFORMATS[0],
        help="the VMDK's layout; streamOptimized is compressed (default: %(default)s)",
    )
    parser.add_argument(
        "--memory", type=memory, default=128, metavar="MIB", help="the machine's memory (default: %(default)s)"
    )
    parser.add_argument(
        "--serial",
        choices=SERIALS,
        default=SERIALS[0],
        help="the first serial port: the file serial.log in DIR, or the UNIX socket serial.pipe there (default:"
        " %(default)s)",
    )
    parser.add_argument("--json", action="store_true", help="report as JSON")


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    lab = config.load()
    qemu_img = lab.component("qemu").path("qemu-img")
    found = recorded.settle(lab, args.image, args.format, args.allow_backing)
    kind = found.format
    if kind is None:
        raise UsageError(f"{args.image} is a program; make an image of it first with 'rumplab stage'")
    target = Path(os.path.abspath(args.vmware))
    check_target(target, Path(found.path), args.force)
    machine = virtual_machine(args, target)
    machines = open_machines(lab)
    size = disk.virtual_size(qemu_img, found.path, kind, machines)
    with interruptible(), temporary_sibling(target) as work:
        steps = formats.vmdk_steps(qemu_img, kind, found.path, f"./{layout.DISK}", size, args.subformat)
        # The program is hashed while qemu-img converts.
        with ThreadPoolExecutor(1) as beside:
            copying = beside.submit(copy_program, found, work / layout.PROGRAM)
            disk.run_all(steps, work, size, found.path, machines)
            digest = copying.result()
        describe(machine, digest, work)
        replace_export(work, target)
    seconds = time.monotonic() - started
    warn(
        f"VMware's debug stub listens on TCP port {machine.port} of 127.0.0.1 while the machine runs, and every user of"
        " this host can attach to it and control the guest, its memory and its disk; use it only on a host of your own"
    )
    report(args, target, machine, digest, seconds)
    return 0


def virtual_machine(args: argparse.Namespace, target: Path) -> vmx.Machine:
    """Returns the machine that the command line asks for. UsageError if the path of its pipe is too long."""
    piped = args.serial == "pipe"
    serial = str(target / layout.PIPE) if piped else layout.SERIAL
    if piped and len(os.fsencode(serial)) > PIPE_LIMIT:
        raise UsageError(f"{serial} is too long for a socket's path; choose a shorter DIR, or --serial file")
    return vmx.Machine(
        name=target.stem or target.name,
        disk=layout.DISK,
        serial=serial,
        pipe=piped,
        adapter=args.adapter,
        port=args.port,
        memory=args.memory,
    )


def check_target(target: Path, image: Path, force: bool) -> None:
    """Raises RumplabError if the export can't or mustn't be written to `target`."""
    if not target.parent.is_dir():
        raise RumplabError(f"{target.parent} is not a directory; create it or choose another DIR")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise RumplabError(f"{target.parent} is not writable; choose another DIR")
    if not os.path.lexists(target):
        return
    if target.is_symlink() or not target.is_dir():
        raise RumplabError(f"{target} exists and is not a directory; choose another DIR")
    if not any(target.iterdir()):
        return
    if not layout.is_export(target):
        raise RumplabError(f"{target} holds files that no export made; choose another DIR")
    if not force:
        raise RumplabError(f"{target} exists; replace it with --force or choose another DIR")
    if image.resolve().is_relative_to(target.resolve()):
        raise RumplabError(f"{image} is in {target}, which the export would replace; choose another DIR")
    if locked := layout.locks(target):
        raise RumplabError(f"{target} is in use: VMware left {locked[0].name} there; shut the machine down first")


@contextlib.contextmanager
def temporary_sibling(target: Path) -> Iterator[Path]:
    """Yields a new directory beside `target`, and removes it at the end unless it was renamed. Its mode follows the
    umask."""
    path = target.parent / f".rumplab-export-{secrets.token_hex(8)}"
    try:
        path.mkdir()
    except OSError as error:
        raise RumplabError(f"cannot write in {target.parent}: {error.strerror}; choose another DIR") from error
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def copy_program(found: boot_media.Media, target: Path) -> str | None:
    """Copies the staged program to `target` and returns its SHA-256. If the program is unknown, lost or changed, prints
    a warning and returns None."""
    if found.program is None:
        warn(f"{found.path} has no program on record, so there will be no symbols; stage it to have them")
        return None
    if not os.path.isfile(found.program):
        warn(f"{found.program} is gone, so there will be no symbols; stage the image again")
        return None
    if sha256(found.program) != found.program_sha256:
        warn(f"{found.program} has changed since it was staged, so it is left out; stage the image again")
        return None
    shutil.copyfile(found.program, target)
    return found.program_sha256


def warn(message: str) -> None:
    print(f"rumplab export: {message}", file=sys.stderr)


def describe(machine: vmx.Machine, digest: str | None, work: Path) -> None:
    """Writes machine.vmx, README.txt and the export's description into `work`."""
    about = {"schema": 1, "program_sha256": digest}
    texts = {
        layout.CONFIGURATION: vmx.write(vmx.settings(machine)),
        layout.README: layout.readme(machine, digest is not None),
        layout.DESCRIPTION: json.dumps(about, indent=2) + "\n",
    }
    for name, text in texts.items():
        (work / name).write_text(text, encoding="utf-8", errors="replace")


def replace_export(work: Path, target: Path) -> None:
    """Renames `work` to `target`. Keeps an earlier export under another name until that has succeeded."""
    if not target.exists():
        work.rename(target)
        return
    aside = work.with_name(f"{work.name}.old")
    target.rename(aside)
    try:
        work.rename(target)
    except BaseException:
        aside.rename(target)
        raise
    shutil.rmtree(aside, ignore_errors=True)


def report(args: argparse.Namespace, target: Path, machine: vmx.Machine, digest: str | None, seconds: float) -> None:
    if args.json:
        about = {"directory": str(target), "port": machine.port, "program": digest is not None}
        print(json.dumps({**about, "seconds": round(seconds, 3)}))
    else:
        print(
            f"{target}: made in {seconds:.1f} s; open {layout.CONFIGURATION} in VMware, then attach with:"
            f" rumplab debug --vmware {args.vmware}"
        )
