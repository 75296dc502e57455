"""The example kernel with IPKDB, debugged with the lab's GDB, QEMU and bridge by an unprivileged user."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

COMPONENTS = "/opt/rumplab/etc/components.d"
USER = (
    "setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all"
    " env HOME=/nonexistent timeout 120"
)
KEY = "/tmp/ipkdb.key"
DEBUGGED = "rumplab ipkdb connect demo --key-file " + KEY


def component(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(f"{COMPONENTS}/{name}.json").content_string)
    return found


@pytest.fixture
def machine(host: Host) -> Iterator[str]:
    """Start a kernel that waits for its debugger; yield the machine's name."""
    kernel = component(host, "ipkdbdemo")["paths"]["kernel"]
    host.check_output(f"{USER} sh -c 'umask 077; echo a key of the laboratory > {KEY}'")
    network = "--nic ne2k_pci --no-pci-bridge --forward udp:1138:1138"
    host.check_output(f"{USER} rumplab run {kernel} --name demo --args=-d {network} --detach -- -initrd {KEY}")
    yield "demo"
    host.check_output(f"{USER} rumplab stop --all")
    host.check_output("rm -f %s", KEY)


def debugged(host: Host, *commands: str) -> str:
    """Return the output of the lab's GDB for these commands, over the lab's bridge."""
    demo, gdb = component(host, "ipkdbdemo")["paths"], component(host, "gdb")["paths"]["gdb"]
    words = [f"file {demo['kernel']}", f"set substitute-path /usr/src/ipkdb {demo['source']}"]
    # On a busy host, the translator starts so slowly that GDB would send its first packet twice.
    words += ["set remotetimeout 30", f"target remote | {DEBUGGED} --stdio", *commands]
    line = " ".join(f"-ex '{word}'" for word in words)
    return str(host.run(f"{USER} {gdb} -nx -batch {line} 2>&1 </dev/null").stdout)


def test_it_comes_from_the_repository(host: Host) -> None:
    demo = component(host, "ipkdbdemo")
    assert (demo["state"], demo["source"], demo["licence"]) == ("installed", "bundle", "MIT")
    assert host.file(demo["paths"]["kernel"]).user == "rumplab"
    sources = set(host.file(demo["paths"]["source"]).listdir())
    assert {"access.S", "boot.S", "commands.c", "glue.c", "inet.c", "ipkdb.h", "ne.c", "small.h"} <= sources


def test_every_point_of_the_list_for_ports(host: Host, machine: str) -> None:
    ran = host.run(f"{USER} rumplab ipkdb check-port {machine} --key-file {KEY} --oversized --json")
    assert ran.rc == 0, ran.stdout + ran.stderr
    rows = json.loads(ran.stdout)
    assert len(rows) > 20
    assert {row["result"] for row in rows} == {"ok"}


def test_gdb_breaks_steps_and_changes_and_comes_again(host: Host, machine: str) -> None:
    said = debugged(
        host,
        *("break counter_step if amount == 2", "continue", "bt", "stepi", "info registers eip", "print amount"),
        *("set var ramdisk[1] = 77", "print ramdisk[1]", "set var $ecx = 99", "print $ecx", "delete"),
        *("set var *(short *)&counter_step = 0x0b0f", "detach"),
    )
    assert re.search(r"^Breakpoint 1, counter_step \(amount=.*2\) at .*main\.c:", said, re.MULTILINE), said
    assert re.search(r"^[0-9]+\s+counter \+= amount;$", said, re.MULTILINE)
    assert re.search(r"^#2 .* main \(.*\) at .*main\.c:", said, re.MULTILINE)
    assert re.search(r"^eip +0x\w+ +0x\w+ <counter_step\+\d+>", said, re.MULTILINE)
    assert "$1 = 2" in said and "$2 = 77 " in said and "$3 = 99" in said
    # It continues, reaches the invalid instruction and panics; the panic waits for a debugger.
    again = debugged(host, "bt 4", "print ramdisk[1]", "detach")
    assert re.search(r"^#1 .* ipkdb_panic \(\)", again, re.MULTILINE), again
    assert "$1 = 77 " in again
    console = host.check_output(f"{USER} rumplab logs {machine}")
    assert "panic: trap at 0x" in console and console.count("debugged by nobody@") == 2
