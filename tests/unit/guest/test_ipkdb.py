"""Guests with IPKDB: their definitions, and examples/ipkdb in QEMU with the host's GDB."""

from __future__ import annotations

import argparse
import json
import os
import pwd
import re
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

import pytest
from ipkdb.kernel import KEY
from support.labfixture import LabPrefix, host_tool
from support.running import until
from support.staging import EXAMPLES, build, command, needs_compiler, needs_qemu
from unit.network.test_settings import GOOD

from rumplab.commands.guest import debug, list_, start
from rumplab.errors import RumplabError, UsageError
from rumplab.gdb import command_line
from rumplab.guest import debugger, hardware, ipkdb, kernel_debugger, kernels, starting
from rumplab.guest.definition import IPKDB, LINUX, NETBSD, Guest
from rumplab.guest.kernels import Kernel
from rumplab.host import ports
from rumplab.ipkdb import key, reach
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine import nics
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine, open_machines

GUEST = Guest("e", NETBSD, "i386", kernel="/netbsd", nics=(Nic(),))
SECONDS = 90


def devices(argv: list[str]) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == "-device"]


def test_the_card_is_in_its_slot_which_nothing_else_takes() -> None:
    guest = ipkdb.with_card(GUEST, None, 4711, ())
    spec = Spec("qemu", "tcg", program="/netbsd", nics=guest.nics)
    argv = hardware.machine_argv(spec, guest, Kernel("/netbsd", None, "direct"), None)
    cards = [word for word in devices(argv) if ",bus=" in word]
    assert cards[2] == f"ne2k_pci,netdev=net1,mac={guest.nics[1].mac},bus=pci.0,addr={ipkdb.slot():x}"
    assert cards[0].startswith("pci-bridge,") and not cards[0].endswith(f",addr={ipkdb.slot():x}")
    assert cards[1].endswith(",bus=pci.1,addr=1")
    (network,) = [word for word in argv if word.startswith("user,id=net1")]
    assert network.endswith(",hostfwd=udp:127.0.0.1:4711-:1138")
    assert guest.nics[0] == GUEST.nics[0]
    assert guest.nics[1].mac != guest.nics[0].mac


def test_the_card_goes_where_the_guests_others_are() -> None:
    on_bridge = replace(GUEST, nics=(Nic(net=nics.BRIDGE, mac=""),))
    assert [card.net for card in ipkdb.with_card(on_bridge, None, None, ()).nics] == [nics.BRIDGE, nics.BRIDGE]
    assert ipkdb.with_card(on_bridge, nics.USER, None, ()).nics[1].forwards[0].protocol == "udp"
    assert ipkdb.with_card(GUEST, nics.BRIDGE, None, ()).nics[1] == Nic("ne2k_pci", "bridge", "", slot=ipkdb.slot())
    with pytest.raises(UsageError, match="reached by its address"):
        ipkdb.with_card(GUEST, nics.BRIDGE, 4711, ())


def test_ssh_is_not_forwarded_to_the_debuggers_card() -> None:
    cards = ipkdb.with_card(replace(GUEST, nics=()), None, 4711, ()).nics
    assert starting.with_ssh(cards, avoid=()) == cards


@pytest.mark.parametrize(
    ("guest", "complaint"),
    [
        (replace(GUEST, arch="amd64"), "e is netbsd/amd64, and IPKDB is NetBSD's, on PCs for i386 only"),
        (replace(GUEST, kind=LINUX), "e is linux/i386"),
        (replace(GUEST, kernel=None), "has kgdb, not IPKDB; make a guest with --config ipkdb"),
        (replace(GUEST, nics=(Nic(),) * nics.MOST), "and IPKDB needs one more"),
    ],
)
def test_guests_that_cannot_have_ipkdb(guest: Guest, complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint):
        ipkdb.check(guest)
    ipkdb.check(GUEST)
    ipkdb.check(replace(GUEST, kernel=None, config=IPKDB))


@pytest.mark.parametrize(
    "words",
    ["--ipkdb --kgdb", "--ipkdb --qemu-stub", "--ipkdb --wait", "--ipkdb-port 4711", "--kgdb --ipkdb-net bridge"],
)
def test_contradictions_of_start(words: str) -> None:
    parser = argparse.ArgumentParser()
    start.add_arguments(parser)
    with pytest.raises(UsageError):
        start.check_usage(parser.parse_args(["e", *words.split()]))


def logged(directory: Path, said: str, guest: str = IPKDB, cards: tuple[Nic, ...] = ()) -> Machine:
    """Return a machine with `said` in its console's log."""
    machine = Machine(name="e", directory=str(directory), gdb_port=1, guest=guest, nics=cards, pid=os.getpid())
    machine.serial_log.write_text(said, encoding="utf-8")
    return machine


def lab_at(prefix: Path) -> Lab:
    return Lab(prefix, "lab", "lab", "1", "./provision")


@pytest.mark.parametrize(
    ("said", "complaint"),
    [
        ("waiting for remote debugger\nfatal breakpoint trap\ndb> ", "its kernel is in DDB, which handles boot -d"),
        ("IPKDB: No interface found!\nrunning\n", "found no card for IPKDB: IPKDB_NE_PCISLOT"),
        ("IPKDBKEY must be at least 16 bytes long!\n", "IPKDBKEY is too short"),
        ("kgdb waiting...", "no options KGDB"),
        ("", "is not in IPKDB 0 s after it was asked to"),
        ("waiting for remote debugger\n", "has no address yet 0 s after"),
    ],
)
def test_why_a_kernel_does_not_come_to_ipkdb(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, complaint: str
) -> None:
    machine = logged(tmp_path, said)
    monkeypatch.setattr(Machine, "alive", lambda self: True)
    with pytest.raises(RumplabError, match=complaint):
        ipkdb.until_waiting(machine, lab_at(tmp_path), 0)
    monkeypatch.setattr(Machine, "alive", lambda self: False)
    with pytest.raises(RumplabError, match=r"has ended|can't be debugged"):
        ipkdb.until_waiting(machine, lab_at(tmp_path), 60)


def test_a_kernel_waits_until_its_console_says_more(tmp_path: Path) -> None:
    machine = logged(tmp_path, "waiting for remote debugger\nMy IP address is 10.0.2.15\n")
    assert ipkdb.waits(machine)
    assert kernel_debugger.in_debugger(machine)
    assert not ipkdb.waits(logged(tmp_path, "My IP address is 10.0.2.15\nrunning\n"))
    assert not ipkdb.waits(logged(tmp_path, ""))


def test_on_the_bridge_the_address_is_the_lease_of_its_own_card(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    (empty_lab.prefix / "etc" / "bridge.json").write_text(json.dumps(GOOD))
    leases = empty_lab.prefix / "var" / "net" / "leases"
    leases.parent.mkdir(parents=True, exist_ok=True)
    lab = config.load()
    cards = (Nic(net="bridge", mac="52:54:00:00:00:01"), Nic("ne2k_pci", "bridge", "52:54:00:00:00:02", slot=3))
    machine = logged(empty_lab.runtime, "waiting for remote debugger\nMy IP address is 10.0.1.61\n", cards=cards)
    monkeypatch.setattr(Machine, "alive", lambda self: True)
    leases.write_text("0 52:54:00:00:00:01 10.0.1.60 * *\n")
    with pytest.raises(RumplabError, match="has no lease on the bridge yet"):
        reach.place_of(machine, lab)
    with pytest.raises(RumplabError, match="has no address yet"):
        ipkdb.until_waiting(machine, lab, 0)
    # The running system has a second lease for the same card, by DHCP.
    leases.write_text(
        "0 52:54:00:00:00:01 10.0.1.60 * *\n4000000000 52:54:00:00:00:02 10.0.1.62 nb *\n"
        "0 52:54:00:00:00:02 10.0.1.61 * *\n"
    )
    assert reach.place_of(machine, lab) == (IPv4Address("10.0.1.61"), 1138)
    assert list_.reached(machine, lab) == "10.0.1.61:1138"
    ipkdb.until_waiting(machine, lab, 0)


def test_gdb_gets_the_translator_and_the_kernels_sources() -> None:
    guest = replace(GUEST, sources="/here", source_name="/usr/src")
    machine = Machine(name="e", directory="/m/e", gdb_port=1234, program="/netbsd.gdb", guest=IPKDB)
    session = debugger.gdb_session(lab_at(Path("/prefix")), guest, machine, qemu_stub=False, key_file="/my key")
    commands = debug.attach_commands(session, "main")
    assert [*commands[:2], "set remotetimeout 40"] == commands[:3]
    assert 'set substitute-path "/usr/src" "/here"' in commands
    (remote,) = [line for line in commands if line.startswith("target remote | ")]
    assert " ipkdb connect e --stdio --timeout 30 --key-file '/my key'" in remote
    running = command_line.run_to("main", "break")
    assert commands[-len(running) :] == running
    by_qemu = debugger.gdb_session(lab_at(Path("/prefix")), guest, machine, qemu_stub=True)
    assert "target remote 127.0.0.1:1234" in debug.attach_commands(by_qemu, None)


@pytest.fixture
def built(empty_lab: LabPrefix, tmp_path: Path) -> LabPrefix:
    """A lab with NetBSD 10.1 for kgdb and 8.3 for IPKDB."""
    for name, version in (("", "10.1"), ("_ipkdb", "8.3")):
        kernel = tmp_path / f"netbsd{name}"
        kernel.write_bytes(b"\x7fELF\x01\x01" + bytes(10) + b"\x02\x00\x03\x00" + bytes(200))
        directory = tmp_path / f"src{name}"
        directory.mkdir()
        paths = {"kernel": str(kernel), "symbols": str(kernel)}
        empty_lab.component(f"netbsd_kernel_i386{name}", paths, version=version)
        empty_lab.component(f"netbsd_sources{name}", {"sources": str(directory)}, version=version)
    (tmp_path / "disk").touch()
    empty_lab.component("netbsd_disk_i386", {"disk": str(tmp_path / "disk")}, version="10.1")
    return empty_lab


def test_the_labs_kernel_comes_with_its_own_release(built: LabPrefix, tmp_path: Path) -> None:
    made = built.tool("guest", "create", "nb8", "--config", "ipkdb")
    assert made.returncode == 0, made.stderr
    # The disk is 10.1's, and 8.3 has none.
    assert made.stdout == (
        f"nb8: NetBSD 8.3/i386, {tmp_path}/netbsd_ipkdb, no disk; start it with: rumplab guest start nb8 --ipkdb\n"
    )
    lab = config.load()
    guest = Guest("nb8", NETBSD, "i386", config=IPKDB)
    assert kernels.sources(lab, guest) == f"{tmp_path}/src_ipkdb"
    assert kernels.sources(lab, replace(guest, config=None)) == f"{tmp_path}/src"
    assert kernels.resolve(lab, replace(guest, config=None)).disk == f"{tmp_path}/disk"
    refused = built.tool("guest", "create", "old", "--config", "ipkdb", "--release", "8.2")
    assert refused.stderr.rstrip().endswith("./provision --tags ipkdb -e ipkdb_release=8.2")


def test_without_the_kernel_the_error_names_its_role(empty_lab: LabPrefix) -> None:
    refused = empty_lab.tool("guest", "create", "nb8", "--config", "ipkdb")
    assert refused.returncode == 3
    assert "no NetBSD kernel for i386 called 'ipkdb' has been built yet" in refused.stderr
    assert "./provision --tags ipkdb;" in refused.stderr


def test_a_kernel_with_a_key_is_not_for_everybody(
    built: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: "netbsd_ipkdb" not in str(path) and real(path, mode))
    owner = pwd.getpwuid(os.getuid()).pw_name
    with pytest.raises(RumplabError, match=f"has a key in it, and only {owner} may read it"):
        kernels.resolve(config.load(), Guest("nb8", NETBSD, "i386", config=IPKDB))


# The tests below run the kernel of examples/ipkdb.


@pytest.fixture(scope="session")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """examples/ipkdb, built with the host's compiler."""
    command("gcc")
    command("make")
    return build(EXAMPLES / "ipkdb", tmp_path_factory.mktemp("ipkdb") / "ipkdb.bin")


@pytest.fixture
def e(lab: LabPrefix, kernel: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabPrefix]:
    """A lab with a guest `e` that has IPKDB and isn't started."""
    monkeypatch.delenv(key.VARIABLE, raising=False)
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    lab.component("gdb", {"gdb": host_tool("gdb")})
    guest(lab, "create", "e", "--arch", "i386", "--kernel", kernel, "--sources", f"/usr/src={EXAMPLES}")
    yield lab
    lab.tool("guest", "stop", "--all", "--now")


def guest(lab: LabPrefix, *words: str | Path) -> str:
    """Return the output of `rumplab guest WORDS`, which must succeed."""
    result = lab.tool("guest", *words, timeout=SECONDS)
    assert result.returncode == 0, result.stderr
    return result.stdout


def refused(lab: LabPrefix, *words: str | Path) -> str:
    result = lab.tool("guest", *words, timeout=SECONDS)
    assert result.returncode == 1, result.stdout
    return result.stderr


def listed(lab: LabPrefix) -> dict[str, Any]:
    (found,) = json.loads(guest(lab, "list", "--json"))
    return dict(found)


def started(lab: LabPrefix, key_file: Path, *options: str) -> str:
    """Start the guest. The key is a boot module, so that no command line of the kernel contains it."""
    return guest(lab, "start", "e", *options, "--", "-initrd", str(key_file))


@pytest.mark.qemu
@needs_qemu
@needs_compiler
def test_from_waiting_to_running_by_one_command(e: LabPrefix, key_file: Path) -> None:
    said = started(e, key_file, "--ipkdb")
    port = re.search(r", IPKDB on UDP port (\d+)\); debug it with: rumplab guest debug e\n$", said)
    assert port, said
    session = guest(
        e, "debug", "e", "counter_step", "--key-file", key_file, "--batch", "--ex", "stepi",
        "--ex", "print $eip", "--ex", "set var counter = 5", "--ex", "print counter", "--ex", "watch counter",
        "--ex", "continue", "--ex", "delete", "--ex", "detach",
    )  # fmt: skip
    assert re.search(r"Breakpoint 1, counter_step \(amount=.*\) at .*main\.c:\d+\n", session), session
    assert "$2 = 5" in session
    assert "Old value = 5" in session
    assert "[Inferior 1 (Remote target) detached]" in session
    until(lambda: "running" in e.tool("logs", "e").stdout)
    data = listed(e)
    assert (data["state"], data["debugger"], data["ipkdb"]) == ("running", False, f"127.0.0.1:{port[1]}")
    assert f"ipkdb 127.0.0.1:{port[1]}" in guest(e, "list")
    assert "doesn't listen while the kernel runs: it stops at a breakpoint" in refused(e, "break", "e")
    assert "doesn't listen while the kernel runs" in refused(e, "debug", "e", "--break", "--batch")
    # The kernel no longer listens, and the verb reports that within 5 s.
    again = e.tool("guest", "debug", "e", "--key-file", key_file, "--batch", timeout=SECONDS)
    assert "heard nothing for 5 s; its kernel has printed more since it waited" in again.stderr
    # QEMU's debug stub still works.
    assert "counter" in guest(e, "debug", "e", "--qemu-stub", "--batch", "--ex", "print &counter")
    assert guest(e, "stop", "e") == "e stopped\n"


@pytest.mark.qemu
@needs_qemu
@needs_compiler
def test_it_waits_for_one_debugger(e: LabPrefix, key_file: Path) -> None:
    started(e, key_file, "--ipkdb", "--ipkdb-net", "user")
    (machine,) = open_machines(config.load()).all()
    until(lambda: ipkdb.waits(machine))
    assert listed(e)["state"] == "waits"
    assert machine.guest == IPKDB
    with subprocess.Popen(
        e.argv("guest", "debug", "e", "--key-file", str(key_file)),
        env=e.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as first:
        until(lambda: listed(e)["debugger"], SECONDS)
        assert listed(e)["state"] == "running"
        assert "another debugger is attached to e (pid" in refused(e, "debug", "e", "--key-file", key_file)
        assert "attached" in guest(e, "list")
        said, _ = first.communicate("kill\nquit\n", timeout=SECONDS)
        assert first.returncode == 0, said


@pytest.mark.qemu
@needs_qemu
@needs_compiler
def test_a_kernel_that_waits_is_not_asked_to_shut_down(e: LabPrefix, key_file: Path) -> None:
    started(e, key_file, "--ipkdb")
    (machine,) = open_machines(config.load()).all()
    until(lambda: ipkdb.waits(machine))
    assert guest(e, "stop", "e") == "e ended without shutting down: its kernel is stopped in its debugger\n"


@pytest.mark.qemu
@needs_qemu
@needs_compiler
def test_the_key_of_the_lab_serves_and_a_wrong_one_is_named(e: LabPrefix, key_file: Path) -> None:
    own = e.prefix / "etc" / "ipkdb.key"
    own.write_bytes(KEY)
    own.chmod(0o600)
    port = ports.free(protocol="udp")
    said = started(e, key_file, "--ipkdb", "--ipkdb-port", str(port))
    assert f"IPKDB on UDP port {port})" in said
    wrong = key_file.with_name("wrong")
    wrong.write_text("another key of the same length")
    wrong.chmod(0o600)
    session = e.tool("guest", "debug", "e", "--key-file", wrong, "--batch", "--ex", "print $eip", timeout=SECONDS)
    assert "so the key may be wrong" in session.stderr + session.stdout
    assert "eip" in guest(e, "debug", "e", "--batch", "--ex", "info registers eip")


@pytest.mark.qemu
@needs_qemu
@needs_compiler
def test_a_port_that_is_taken(e: LabPrefix, key_file: Path) -> None:
    with socket.socket(type=socket.SOCK_DGRAM) as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        said = refused(e, "start", "e", "--ipkdb", "--ipkdb-port", str(port))
    assert f"port udp:{port} on 127.0.0.1 is taken" in said


def test_a_forward_leads_to_the_card_that_has_one() -> None:
    cards = ipkdb.with_card(GUEST, None, None, ()).nics
    assert cards[1].forwards[0] == Forward("udp", cards[1].forwards[0].host, 1138)
