"""GRUB boots the kernel of the lab's menu with the arguments that a NetBSD kernel expects."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from support.running import until
from support.staging import ROOT, command, needs_compiler, needs_qemu

from rumplab.guest.definition import open_guests
from rumplab.lab import config

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

SOURCE = ROOT / "tests" / "netbsdboot" / "kernel.c"
RB_KDB = 0x40


@pytest.fixture(scope="module", params=["i386", "amd64"])
def kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A kernel as 32-bit and as 64-bit ELF; the entry of NetBSD/amd64's kernel is 32-bit code, too."""
    path = tmp_path_factory.mktemp("kernel") / "my netbsd"
    flags = ["-m32", "-O1", "-ffreestanding", "-fno-pie", "-fno-stack-protector", "-fcf-protection=none", "-nostdlib"]
    link = ["-static", "-no-pie", "-Wl,-Ttext=0x100000,--build-id=none"]
    subprocess.run(["gcc", *flags, *link, "-o", path, SOURCE], timeout=60, check=True)
    if request.param == "amd64":
        subprocess.run([command("objcopy"), "-O", "elf64-x86-64", path], timeout=60, check=True)
    return path


@pytest.fixture
def guests(lab: LabPrefix) -> LabPrefix:
    tools = {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")}
    lab.component("qemu", tools)
    return lab


def told(lab: LabPrefix, *words: str) -> dict[str, str]:
    """Start the guest; map the first word of each line that the kernel prints of its arguments to the rest."""
    result = lab.tool("guest", "start", "nb", *words)
    assert result.returncode == 0, result.stderr
    until(lambda: "\ntold" in lab.tool("logs", "nb").stdout)
    said = lab.tool("logs", "nb").stdout.partition("howto ")[1:]
    assert lab.tool("guest", "stop", "nb", "--now").returncode == 0
    lines = (line.partition(" ") for line in "".join(said).splitlines())
    return {first: rest for first, _, rest in lines}


def test_flags_root_device_and_console(guests: LabPrefix, kernel: Path, tmp_path: Path) -> None:
    disk = tmp_path / "root, ü.img"
    disk.write_bytes(bytes(1 << 20))
    made = guests.tool("guest", "create", "nb", "--kernel", kernel, "--disk", disk)
    assert made.returncode == 0, made.stderr
    with_debugger = told(guests, "--kgdb")
    assert int(with_debugger["howto"], 16) & RB_KDB
    assert with_debugger["root"] == "wd1a"
    assert with_debugger["bootpath"] == "netbsd"
    assert with_debugger["console"] == f"com at {0x3F8:08x} speed {115200:08x}"
    assert not int(told(guests)["howto"], 16) & RB_KDB


def test_a_replaced_kernel_is_booted(guests: LabPrefix, kernel: Path, tmp_path: Path) -> None:
    """The boot disk is made again only when the kernel file has changed."""
    file = tmp_path / "netbsd"
    file.write_bytes(kernel.read_bytes())
    guests.tool("guest", "create", "nb", "--kernel", file)
    assert "root" not in told(guests)
    image = open_guests(config.load()).directory("nb") / "boot.img"
    before = image.stat().st_mtime_ns
    told(guests)
    assert image.stat().st_mtime_ns == before
    file.write_bytes(kernel.read_bytes() + b"built again")
    told(guests)
    assert image.stat().st_mtime_ns != before
