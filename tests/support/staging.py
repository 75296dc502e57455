"""Functions that build, stage and boot, for tests of the demo unikernel and of the stager."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from support.demos import EXAMPLE as EXAMPLE
from support.demos import EXAMPLES as EXAMPLES
from support.demos import IPKDB_EXAMPLE as IPKDB_EXAMPLE
from support.demos import KGDB_EXAMPLE as KGDB_EXAMPLE
from support.demos import OVERRUN_EXAMPLE as OVERRUN_EXAMPLE
from support.demos import ROOT as ROOT
from support.demos import build as build

SEARCH_PATH = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
COMMANDS = ("sfdisk", "mke2fs", "debugfs", "grub-mkimage")
GRUB_MODULES = Path("/usr/lib/grub/i386-pc")
QEMU = "qemu-system-x86_64"
# pcihello writes 0x10 to isa-debug-exit, and QEMU exits with 2 * 0x10 + 1.
DONE = 33

needs_qemu = pytest.mark.skipif(shutil.which(QEMU) is None, reason=f"{QEMU} is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to give it up or to mount")
needs_compiler = pytest.mark.skipif(
    shutil.which("gcc") is None or shutil.which("make") is None, reason="gcc or make is not installed"
)


def command(name: str) -> str:
    """Return the path of a command. Skip the test if it isn't installed."""
    path = shutil.which(name, path=SEARCH_PATH)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def in_user_name_space(argv: Sequence[str | Path], environment: Mapping[str, str], directory: Path) -> tuple[int, str]:
    """Run `argv` in `directory` as root of a new user and mount name space; return the exit status and the output.

    Skip the test if the host doesn't allow user name spaces.
    """
    result = subprocess.run(
        [command("unshare"), "-Urm", *argv],
        env=environment,
        cwd=directory,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    if "unshare: " in result.stdout:
        pytest.skip("this host doesn't allow user name spaces")
    return result.returncode, result.stdout


def copy_example(destination: Path) -> Path:
    """Copy the examples to `destination`, for tests that change them or their path; return the demo's directory."""
    shutil.copytree(EXAMPLES, destination, ignore=shutil.ignore_patterns("obj*", "*.bin"))
    return destination / EXAMPLE.name


@functools.cache
def tool_paths() -> dict[str, str]:
    """Return the paths of component rump_stager on this host. Skip the test if one is missing."""
    if not (GRUB_MODULES / "boot.img").is_file():
        pytest.skip(f"GRUB's modules are not in {GRUB_MODULES}")
    return {"grub-modules": str(GRUB_MODULES), **{name: command(name) for name in COMMANDS}}


def make_lab(prefix: Path, paths: dict[str, str]) -> Path:
    """Make a prefix that has component rump_stager; return the path of its rumplab.json."""
    components = prefix / "etc" / "components.d"
    components.mkdir(parents=True)
    common = {"schema": 1, "version": "1"}
    lab = {**common, "prefix": str(prefix), "user": "lab", "group": "lab", "provision": "./provision"}
    component = {**common, "name": "rump_stager", "state": "installed", "stamp": "0" * 64, "paths": paths}
    (components / "rump_stager.json").write_text(json.dumps(component))
    path = prefix / "etc" / "rumplab.json"
    path.write_text(json.dumps(lab))
    return path


def stage_argv(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "rumplab", "stage", *map(str, arguments)]


def stage_environment(lab: Path) -> dict[str, str]:
    return {**os.environ, "RUMPLAB_CONFIG": str(lab), "PYTHONPATH": str(ROOT / "src")}


def boot(*arguments: str) -> tuple[int, str]:
    """Run QEMU without acceleration until the program ends it. Return the exit status and the serial output."""
    argv = [QEMU, "-accel", "tcg", "-m", "128", "-vga", "none", "-display", "none", "-no-reboot", "-serial", "stdio"]
    argv += ["-device", "isa-debug-exit,iobase=0xf4,iosize=4", *arguments]
    result = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=90, check=False)
    # QEMU reports its own errors with status 1; only then its standard error is of interest.
    complaint = result.stderr.decode() if result.returncode == 1 else ""
    return result.returncode, result.stdout.decode().replace("\r\n", "\n") + complaint


def boot_image(image: Path) -> tuple[int, str]:
    """Boot a staged image from a virtio disk without changing it. Return the exit status and the serial output."""
    drive = f"file={str(image).replace(',', ',,')},format=raw,if=virtio,snapshot=on"
    return boot("-nic", "none", "-drive", drive)
