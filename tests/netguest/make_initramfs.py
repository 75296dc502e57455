"""Make a guest for network tests: Debian's kernel, and an initramfs with busybox and the kernel's own drivers.

    make_initramfs.py KERNEL.deb BUSYBOX.deb DIRECTORY

writes `vmlinuz` and `initrd` to DIRECTORY. It needs only dpkg-deb. The guest runs guest.sh, and the kernel's command
line chooses what it does.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

# The initramfs also has the modules that these depend on: each module names them.
MODULES = ("e1000", "virtio_net", "virtio_pci", "8139cp", "ne2k-pci", "8021q")
DEPENDS = re.compile(rb"\0depends=([\w,-]*)\0")
APPLETS = ("ip", "udhcpc", "nc", "ping", "dd", "md5sum", "tee", "cat", "mount", "insmod", "poweroff", "sleep",
           "cut", "mkfifo", "mkdir", "ifconfig", "grep", "timeout", "readlink")  # fmt: skip
HERE = Path(__file__).resolve().parent
SECONDS = 120
# Name, mode, content, device numbers.
Member = tuple[str, int, bytes, tuple[int, int]]


def entry(name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0), inode: int = 0) -> bytes:
    """Return one member of a cpio archive in the format `newc` (cpio(5)), padded to four bytes."""
    path = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + path
    return pad(head) + pad(content)


def pad(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)


def archive(members: Iterable[Member]) -> bytes:
    """Return a cpio archive of the members."""
    body = b"".join(
        entry(name, mode, content, device, inode) for inode, (name, mode, content, device) in enumerate(members, 1)
    )
    return body + entry("TRAILER!!!", 0)


def dependencies(module: bytes) -> list[str]:
    """Return the modules that a module depends on, read from its `depends` field."""
    match = DEPENDS.search(module)
    names = match[1].decode() if match else ""
    return [name for name in names.split(",") if name]


def in_order(wanted: Iterable[str], modules: dict[str, bytes]) -> list[str]:
    """Return `wanted` and their dependencies, dependencies first. Raise KeyError for a missing module."""
    order: list[str] = []

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        for need in dependencies(modules[name]):
            visit(need)
        if name not in order:
            order.append(name)

    for name in wanted:
        visit(name)
    return order


def members(busybox: bytes, modules: dict[str, bytes], order: list[str]) -> list[Member]:
    """Return all members of the initramfs."""
    none = (0, 0)
    found = [(name, 0o040755, b"", none) for name in ("bin", "dev", "proc", "sys", "tmp", "modules")]
    found.append(("dev/console", 0o020600, b"", (5, 1)))
    found.append(("bin/busybox", 0o100755, busybox, none))
    found += [(f"bin/{applet}", 0o120777, b"busybox", none) for applet in ("sh", *APPLETS)]
    found += [(f"modules/{n:02}-{name}.ko", 0o100644, modules[name], none) for n, name in enumerate(order)]
    found.append(("init", 0o100755, (HERE / "guest.sh").read_bytes(), none))
    found.append(("lease.sh", 0o100755, (HERE / "lease.sh").read_bytes(), none))
    return found


def unpack(package: Path, into: Path) -> None:
    subprocess.run(["dpkg-deb", "-x", str(package), str(into)], check=True, timeout=SECONDS)


def main(kernel: Path, busybox: Path, directory: Path) -> None:
    with tempfile.TemporaryDirectory() as name:
        tree = Path(name)
        unpack(kernel, tree)
        unpack(busybox, tree)
        found = {path.stem.replace("-", "_"): path for path in tree.glob("lib/modules/**/drivers/**/*.ko")}
        found |= {path.stem.replace("-", "_"): path for path in tree.glob("lib/modules/**/net/**/*.ko")}
        needed = {stem: path.read_bytes() for stem, path in found.items()}
        order = in_order(MODULES, needed)
        directory.mkdir(parents=True, exist_ok=True)
        binary = next(path for path in tree.glob("**/bin/busybox") if path.is_file()).read_bytes()
        (directory / "initrd").write_bytes(archive(members(binary, needed, order)))
        (directory / "vmlinuz").write_bytes(next(tree.glob("boot/vmlinuz-*")).read_bytes())


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
