"""``rumplab doctor``: checks whether this host can run the lab. It repairs nothing; it only stores the results of
its probes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from rumplab import output
from rumplab.container import builder_images
from rumplab.errors import RumplabError
from rumplab.guest.definition import open_guests
from rumplab.host import accounts, child_environment, ports, regular
from rumplab.host.answers import MALFORMED
from rumplab.lab import config, recorded, verified
from rumplab.lab.config import DAMAGED, REMEDY, Component, Lab
from rumplab.machine import accel, sandbox
from rumplab.machine.registry import open_machines

EPILOG = """\
Each line is ok, warn or fail; warn and fail say what to do. The exit status is 1 if a line is fail. Nothing is changed.

examples:
  rumplab doctor
  rumplab doctor --reprobe      test the accelerators again, ignore the earlier result
  rumplab doctor --json
"""
OLDEST_PYTHON = (3, 9)
TOOL_SECONDS = 10
GIB = 1 << 30
LOW_DISK = 2 * GIB
NO_DISK = GIB // 8
TUN = Path("/dev/net/tun")
BRIDGE_HELPERS = (
    "/usr/lib/qemu/qemu-bridge-helper",
    "/usr/libexec/qemu-bridge-helper",
)
# The option with which each tool prints its version. Of the other paths, doctor only checks that they exist.
VERSION_ARGUMENTS = {
    "gcc": "--version",
    "g++": "--version",
    "cpp": "--version",
    "gdb": "--version",
    "qemu-system-x86_64": "--version",
    "qemu-img": "--version",
    "sfdisk": "--version",
    "mke2fs": "-V",
    "debugfs": "-V",
    "grub-mkimage": "--version",
}


@dataclass(frozen=True)
class Check:
    """One line of the report. `level` is `ok`, `warn` or `fail`; `remedy` says what to do."""

    subject: str
    level: str
    detail: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--reprobe", action="store_true", help="test the accelerators again")


def check_python() -> Check:
    """Checks the version of the Python that runs this tool."""
    version = platform.python_version()
    if sys.version_info[:2] < OLDEST_PYTHON:
        return Check("python", "fail", version, "install Python 3.9 or newer and provision again")
    return Check("python", "ok", f"{version} ({sys.executable})")


def first_line(argv: list[str]) -> str:
    """Runs `argv` and returns the first line of its output, on either stream. Raises OSError or one of subprocess's
    exceptions if the program can't run, fails, or does not end within TOOL_SECONDS."""
    result = subprocess.run(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=child_environment.of(child_environment.TOOL),
        timeout=TOOL_SECONDS,
        check=True,
    )
    lines = [line for line in output.own_lines(result.stdout.decode(errors="replace")) if line.strip()]
    return lines[0] if lines else "prints no version"


def check_path(subject: str, logical: str, path: str, remedy: str) -> Check:
    """Checks that a component's path exists and, if it is one of VERSION_ARGUMENTS, that the tool runs."""
    if not os.path.exists(path):
        return Check(subject, "fail", f"{path} is missing", remedy)
    if logical not in VERSION_ARGUMENTS:
        return Check(subject, "ok", path)
    try:
        return Check(subject, "ok", f"{first_line([path, VERSION_ARGUMENTS[logical]])} ({path})")
    except subprocess.TimeoutExpired:
        return Check(subject, "fail", f"{path} did not answer within {TOOL_SECONDS} s", remedy)
    except (OSError, subprocess.CalledProcessError) as error:
        return Check(subject, "fail", f"{path} does not run: {error}", remedy)


def check_components(lab: Lab) -> Iterator[Check]:
    """Checks each component, and each path of those that are installed."""
    for component in lab.components():
        if component.state == DAMAGED:
            yield Check(component.name, "fail", component.reason or DAMAGED, component.remedy)
            continue
        if component.state != "installed":
            reason = component.reason or "no reason recorded"
            yield Check(component.name, "warn", f"{component.state}: {reason}", component.remedy)
            continue
        for logical, path in component.paths.items():
            yield check_path(f"{component.name}/{logical}", logical, path, component.remedy)
        if component.tree:
            yield from check_tree(lab, component, component.tree)
        for path in recorded.of_programs(component).altered:
            # Upgrading the host changes its own programs, so this is only a warning. A tree must never change.
            level, when = ("fail", "installed") if component.tree else ("warn", "described")
            yield Check(component.name, level, f"{path} has changed since it was {when}", component.remedy)


def check_tree(lab: Lab, component: Component, tree: str) -> Iterator[Check]:
    """Checks that the tree is in use and complete, without reading its files."""
    problem = recorded.link_problem(lab, component.name, tree)
    try:
        if not problem and not recorded.is_stamped(component, tree):
            problem = f"{tree}/{recorded.COMPLETE} isn't what the descriptor says"
    except OSError as error:
        problem = f"{tree}/{recorded.COMPLETE}: {error.strerror}"
    if problem:
        yield Check(component.name, "fail", problem, component.remedy)


def check_accelerators(lab: Lab, reprobe: bool) -> Iterator[Check]:
    """Reports the result of each accelerator's probe, and the accelerator that `--accel auto` takes."""
    component = lab.component("qemu")
    root = open_machines(lab).root
    choice = accel.decide(component.path("qemu-system-x86_64"), component.version, root, reprobe)
    for result in choice.results:
        yield describe(result, choice.chosen)
    how = "remembered" if choice.remembered else "tried now" if choice.results else "no other on this host"
    yield Check("accelerator", "ok", f"--accel auto takes {choice.chosen} ({how})")


def describe(result: accel.Result, chosen: str) -> Check:
    """Returns the line for one accelerator's result. `chosen` is the one that `--accel auto` takes."""
    subject = f"accelerator/{result.name}"
    if result.works and (result.name == chosen or result.name == "tcg"):
        return Check(subject, "ok", f"ran the probe in {result.seconds:.2f} s")
    if result.works:
        return Check(
            subject,
            "warn",
            f"works, but took {result.seconds:.2f} s for the probe: slower than {chosen}",
            "nothing to do; --accel auto avoids it",
        )
    level = "fail" if result.name == "tcg" else "warn"
    return Check(subject, level, result.detail, accelerator_remedy(result.name))


def accelerator_remedy(name: str) -> str:
    """Returns what to do if the accelerator `name` doesn't work."""
    if name == "kvm" and not os.access(accel.KVM, os.R_OK | os.W_OK):
        if not accel.KVM.exists():
            return "load KVM's module, as root: modprobe kvm"
        return accounts.how_to_open(accel.KVM, "kvm")
    if name == "tcg":
        return "provision QEMU again: ./provision --tags qemu"
    return "nothing to do; --accel auto avoids it"


def check_sandbox(lab: Lab) -> Check:
    """Checks that QEMU's sandbox works. It limits what a guest that breaks out of QEMU can do."""
    if not sys.platform.startswith("linux"):
        return Check("sandbox", "ok", "not on this system: QEMU has one on Linux only")
    component = lab.component("qemu")
    if sandbox.supported(component.path("qemu-system-x86_64"), component.version, open_machines(lab).root):
        return Check("sandbox", "ok", "QEMU runs in it")
    return Check(
        "sandbox", "warn", "QEMU can't run in its own", "use a QEMU with seccomp for guests that you don't trust"
    )


def check_guests(lab: Lab) -> Iterator[Check]:
    """Reports each damaged definition of this user's guests."""
    problems: list[str] = []
    open_guests(lab).all(problems.append)
    for problem in problems:
        yield Check("guest", "warn", problem)


def check_tap() -> Check:
    """Checks the access to the tun device, without opening it."""
    if sys.platform == "darwin":
        return Check("tap", "ok", "not used on macOS: user networking and vmnet need no device")
    if not TUN.exists():
        return Check("tap", "warn", f"{TUN} does not exist", "user networking works without; else: sudo modprobe tun")
    if os.access(TUN, os.R_OK | os.W_OK):
        return Check("tap", "ok", f"{TUN} can be opened")
    return Check("tap", "warn", f"{TUN} can't be opened", "user networking works without; ask the administrator")


def check_bridge_helper() -> Check:
    """Looks for qemu-bridge-helper. Only bridged networking needs it."""
    for path in BRIDGE_HELPERS:
        if os.path.exists(path):
            setuid = bool(os.stat(path).st_mode & 0o4000)
            return Check("bridge helper", "ok", f"{path}{', setuid' if setuid else ', not setuid'}")
    return Check("bridge helper", "ok", "none; only bridged networking would use it")


def check_port() -> Check:
    """Checks that the loopback interface has a free port."""
    try:
        return Check("debug ports", "ok", f"127.0.0.1 gives free ports (now {ports.free()})")
    except OSError as error:
        return Check("debug ports", "fail", f"no port on 127.0.0.1: {error}", "bring the loopback interface up")


def check_disk(lab: Lab) -> Check:
    """Checks the free space of the lab's file system."""
    free = shutil.disk_usage(lab.prefix).free
    detail = f"{free / GIB:.1f} GiB free in {lab.prefix}"
    if free < LOW_DISK:
        level = "fail" if free < NO_DISK else "warn"
        return Check("disk", level, detail, f"free some: builds want {LOW_DISK // GIB} GiB")
    return Check("disk", "ok", detail)


def check_records(lab: Lab) -> Iterator[Check]:
    """Checks the manifest's two copies, which uninstalling needs, and the record of verification."""
    texts = []
    for path in (lab.prefix / "var" / "manifest.json", lab.prefix / "etc" / "manifest.json"):
        try:
            with open(path, encoding="utf-8", opener=regular.plain) as stream:
                text = stream.read()
            json.loads(text)["entries"]
            texts.append(text)
        except FileNotFoundError:
            yield Check("manifest", "fail", f"{path} is lost", lab.provision)
        except (OSError, *MALFORMED):
            yield Check("manifest", "fail", f"{path} is damaged", lab.provision)
    if len(texts) == 2:
        same = texts[0] == texts[1]
        level, detail = ("ok", "kept twice") if same else ("fail", "its copy says something else")
        yield Check("manifest", level, detail, "" if same else lab.provision)
    try:
        verified.is_verified(lab, [])
    except RumplabError as error:
        yield Check("verified", "fail", *str(error).split(REMEDY, 1))


def check_images(lab: Lab) -> Iterator[Check]:
    """Reports the state of the builder images, if the lab has any."""
    try:
        found = builder_images.present(lab)
    except RumplabError as error:
        yield Check("images", "fail", *str(error).split(REMEDY, 1))
        return
    for one in found:
        if one.state == "installed":
            yield Check(one.image, "ok", f"present, stamp {(one.stamp or '')[:12]}")
        elif one.state == "unknown":
            yield Check(one.image, "warn", "no Docker engine answers", "start it, where images are wanted")
        else:
            yield Check(one.image, "warn", ": ".join(filter(None, (one.state, one.reason))), one.remedy)


def checks(lab: Lab, reprobe: bool) -> Iterator[Check]:
    """Runs all checks, and yields them in the order in which they are printed."""
    yield check_python()
    yield from check_components(lab)
    yield from check_records(lab)
    try:
        yield from check_accelerators(lab, reprobe)
    except RumplabError as error:
        yield Check("accelerator", "fail", str(error), f"{lab.provision} --tags qemu")
    else:
        yield check_sandbox(lab)
    try:
        yield from check_guests(lab)
    except RumplabError as error:
        yield Check("guests", "warn", str(error))
    yield check_tap()
    yield check_bridge_helper()
    yield check_port()
    yield from check_images(lab)
    yield check_disk(lab)


def line(check: Check) -> str:
    remedy = f"; {check.remedy}" if check.remedy else ""
    return f"{check.level:4}  {check.subject}: {check.detail}{remedy}"


def run(args: argparse.Namespace) -> int:
    results = []
    for check in checks(config.load(), args.reprobe):
        results.append(check)
        if not args.json:
            print(line(check), flush=True)
    if args.json:
        print(output.as_json([asdict(check) for check in results]))
    return 1 if any(check.level == "fail" for check in results) else 0
