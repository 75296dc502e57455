"""Real GDBs, built with the compilers known to work, attached to QEMU. Each takes minutes, so only with --all."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.driving import Lab, of

HERE = Path(__file__).resolve().parents[1]
SOCKET = "/tmp/gdb-of-gcc"
pytestmark = pytest.mark.skipif(os.environ.get("RUMPLAB_TEST_ALL") != "1", reason="builds GDB twice; for ./test --all")

# Debian's source packages of the releases, by path in the archive, with the hashes of its signed indexes. 10.1 is that
# of Debian 11; 18.1 is the current one, which the archive will remove one day. The third host keeps all of them.
SOURCES: dict[str, dict[str, Any]] = {
    "10.1": {
        "path": "pool/main/g/gdb/gdb-source_10.1-1.7_all.deb",
        "size": 29840700,
        "sha256": "c3ca0e706580ab407d28662c380bbf62b63792f6d1b7d46922e3b0fb33eec241",
    },
    "18.1": {
        "path": "pool/main/g/gdb/gdb-source_18.1-3_all.deb",
        "size": 22625660,
        "sha256": "3daf5f22d565929f56e3e9c5b5e0bc28f2deba1613755c272eccfff58f3f6b67",
    },
}


@pytest.fixture
def lab(host: Any) -> Lab:
    """The container."""
    return Lab(host)


@contextlib.contextmanager
def machine(lab: Lab) -> Iterator[str]:
    """Start a machine that waits at its reset vector and ends after two minutes; yield GDB's command to attach."""
    stub = f"-chardev socket,path={SOCKET},server=on,wait=off,id=stub -gdb chardev:stub"
    lab.sh(
        f"timeout 120 qemu-system-x86_64 -accel tcg -S -display none -serial none -monitor none {stub} "
        f"-daemonize -pidfile {SOCKET}.pid"
    )
    try:
        yield f"target remote {SOCKET}"
    finally:
        lab.sh(f"kill $(cat {SOCKET}.pid)")


def pin(version: str) -> dict[str, Any]:
    """Return the pin of a release's source, as role gdb takes it."""
    found = {**SOURCES[version], "member": "usr/src/gdb.tar.*"}
    path = found.pop("path")
    return {
        **found,
        "urls": [f"apt:{path}", f"https://snapshot.debian.org/archive/debian/20261101T000000Z/{path}"],
    }


@pytest.mark.parametrize(("version", "compilers"), [("10.1", ["9"]), ("18.1", [])])
def test_a_release_is_built_by_what_it_is_known_to_build_with(lab: Lab, version: str, compilers: list[str]) -> None:
    name = f"gdb_{version.replace('.', '_')}"
    settings = {
        "row_role": "gdb",
        "rumplab_prefix": of(name),
        "gdb_version": version,
        "gdb_source": pin(version),
        "gdb_compilers": compilers,
    }
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    argv = ["ansible-playbook", "-i", inventory, str(HERE / "row.yml"), "-e", json.dumps(settings)]
    argv += ["-e", "rumplab_built_cache=/var/cache/rumplab-built"]
    ran = subprocess.run(argv, capture_output=True, text=True, timeout=3000, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    described = lab.descriptor("gdb", of(name))
    assert (described["state"], described["source"], described["version"]) == ("installed", "upstream", version)
    gdb = f"{of(name)}/gdb/bin/x86_64-elf-gdb"
    # A program names the compiler that made it.
    maker = lab.sh(f"readelf -p .comment {gdb}")
    assert ("9.3.0" in maker) == bool(compilers), maker
    with machine(lab) as attach:
        commands = ["set architecture i386:x86-64", attach, "p/x $rip", "info registers eflags"]
        options = " ".join(f"-ex {shlex.quote(command)}" for command in commands)
        said = lab.sh(f"timeout 60 {gdb} -nx -batch {options} 2>&1 </dev/null")
    assert "$1 = 0xfff0" in said and "eflags" in said and "too long" not in said
