"""`rumplab net` on a real kernel, in network namespaces of the tests' own. Needs root, dnsmasq, nft and ip."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from unit.network.test_settings import GOOD, parsed

from rumplab.commands.net import GROUP, status
from rumplab.errors import RumplabError
from rumplab.ipkdb import reach
from rumplab.lab import config
from rumplab.machine import nics
from rumplab.machine.nics import Nic
from rumplab.machine.registry import Machine
from rumplab.network import bridge, record

SECONDS = 30
SYSCTLS = "grep -r . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf 2>/dev/null | sort"


class Namespace:
    """A network namespace with a lab that has the component bridge. `process` keeps the namespace alive."""

    def __init__(self, lab: LabPrefix, process: subprocess.Popen[str]) -> None:
        self.lab, self.process = lab, process
        self.directory = lab.prefix / "var" / "net"

    def run(self, *argv: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", f"--net=/proc/{self.process.pid}/ns/net", "--", *argv]
        done = subprocess.run(
            enter, env=self.lab.environment, capture_output=True, text=True, timeout=SECONDS, check=False
        )
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done

    def net(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return self.run(*self.lab.argv("net", *words), check=check)

    def state(self) -> str:
        found: str = json.loads(self.net("status", "--json").stdout)["state"]
        return found

    def settings(self, **changes: object) -> None:
        (self.lab.prefix / "etc" / "bridge.json").write_text(json.dumps({**GOOD, **changes}))

    def snapshot(self) -> list[str]:
        """Return all the state that `up` and `down` together must not change."""
        looks = ("ip -j addr", "ip -j route show table all", "nft list ruleset", SYSCTLS)
        return [self.run("sh", "-c", look).stdout for look in looks]

    def tool(self, name: str, script: str) -> None:
        """Replace a program by a script; `@tool@` in the script stands for the program's path."""
        path = self.lab.prefix / name
        path.write_text("#!/bin/sh\n" + script.replace("@tool@", host_tool(name)))
        path.chmod(0o755)
        self.lab.component("bridge", {**PATHS(), name: str(path)})


def PATHS() -> dict[str, str]:
    return {name: host_tool(name) for name in ("ip", "nft", "dnsmasq")}


@pytest.fixture
def space(empty_lab: LabPrefix) -> Iterator[Namespace]:
    """A namespace with IPv4 forwarding on one interface only, and with links that don't change any more."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    empty_lab.component("bridge", PATHS())
    host_tool("nsenter")
    keeper = subprocess.Popen([host_tool("unshare"), "--net", "sh", "-c", "echo; exec sleep 300"], text=True, stdout=-1)
    assert keeper.stdout is not None
    keeper.stdout.readline()
    found = Namespace(empty_lab, keeper)
    found.settings()
    found.run(
        "sh",
        "-ec",
        "echo 0 >/proc/sys/net/ipv4/ip_forward; ip link set lo up; ip addr add 192.168.7.1/24 dev lo;"
        "echo 1 >/proc/sys/net/ipv4/conf/lo/forwarding",
    )
    yield found
    found.net("down", "--force", check=False)
    keeper.kill()
    keeper.wait(10)


@pytest.mark.parametrize("nat", [False, True])
def test_up_and_down_leave_no_trace(space: Namespace, nat: bool) -> None:
    space.settings(nat=nat)
    before = space.snapshot()
    assert "is up" in space.net("up").stdout
    assert space.state() == "up"
    assert space.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == f"{int(nat)}\n"
    assert "up already" in space.net("up").stdout
    assert "is down" in space.net("down").stdout
    assert space.snapshot() == before
    assert os.listdir(space.directory) == [record.LOCK]
    assert "down already" in space.net("down").stdout


def test_the_printed_script_does_the_same(space: Namespace) -> None:
    before = space.snapshot()
    up = space.net("up", "--dry-run").stdout
    assert space.snapshot() == before
    assert not space.directory.exists()
    space.run("sh", "-c", up)
    assert space.state() == "up"
    space.run("sh", "-c", space.net("down", "--dry-run").stdout)
    assert space.state() == "down"
    assert space.snapshot() == before


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("tool", "words"),
    [("ip", "link add"), ("nft", "-f -"), ("ip", "addr add"), ("ip", "link set"), ("dnsmasq", "--pid-file")],
)
def test_a_killed_up_can_be_finished_and_undone(space: Namespace, tool: str, words: str, when: str) -> None:
    space.settings(nat=True)
    before = space.snapshot()
    act = '@tool@ "$@"; ' if when == "after" else ""
    for finish in (True, False):
        space.tool(tool, f'case "$*" in *"{words}"*) {act}kill -9 $PPID; exit ;; esac\nexec @tool@ "$@"\n')
        assert space.net("up", check=False).returncode == -9
        space.lab.component("bridge", PATHS())
        if finish:
            space.net("up")
            assert space.state() == "up"
        space.net("down")
        assert space.snapshot() == before


def test_a_failed_up_undoes_what_it_did(space: Namespace) -> None:
    """Another server listens on port 53 of all addresses."""
    before = space.snapshot()
    listener = "import socket,time; s=socket.socket(); s.bind(('', 53)); s.listen(); print(flush=True); time.sleep(60)"
    enter = ["nsenter", f"--net=/proc/{space.process.pid}/ns/net", "python3", "-c", listener]
    with subprocess.Popen(enter, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        failed = space.net("up", check=False)
        other.kill()
    assert failed.returncode == 1
    assert "in use" in failed.stderr
    assert "bind-dynamic" in failed.stderr
    assert space.snapshot() == before


def test_a_failed_repeat_leaves_the_firewall_under_the_guests(space: Namespace) -> None:
    before = space.snapshot()
    space.net("up")
    rules = space.run("nft", "list", "ruleset").stdout
    assert "table inet rumplab" in rules
    os.kill(int((space.directory / "dnsmasq.pid").read_text()), signal.SIGKILL)
    space.tool("dnsmasq", "exit 2\n")
    assert space.net("up", check=False).returncode == 1
    assert space.run("nft", "list", "ruleset").stdout == rules
    assert "10.0.1.1/24" in space.run("ip", "addr", "show", "rumplab0").stdout
    assert space.state() == "partial"
    space.net("down")
    assert space.snapshot() == before


def test_a_program_that_cannot_be_run_is_named_and_the_rest_undone(space: Namespace) -> None:
    before = space.snapshot()
    space.tool("dnsmasq", "")
    (space.lab.prefix / "dnsmasq").chmod(0o644)
    failed = space.net("up", check=False)
    assert failed.returncode == 1
    assert f"cannot run {space.lab.prefix / 'dnsmasq'}: Permission denied; check that it" in failed.stderr
    assert space.snapshot() == before
    assert os.listdir(space.directory) == [record.LOCK]


def test_an_interrupted_up_is_undone(space: Namespace) -> None:
    before = space.snapshot()
    space.tool("dnsmasq", "kill -INT $PPID; exec sleep 1\n")
    assert space.net("up", check=False).returncode == 128 + signal.SIGINT
    assert space.snapshot() == before


def test_taken_names_and_addresses_are_refused_before_anything_is_done(space: Namespace) -> None:
    space.run("ip", "link", "add", "lan0", "type", "bridge")
    space.run("ip", "addr", "add", "172.31.0.1/24", "dev", "lan0")
    before = space.snapshot()
    space.settings(address="192.168.7.200/24", dhcp=["192.168.7.210", "192.168.7.220"])
    assert "overlaps 192.168.7.1/24 of interface lo" in space.net("up", check=False).stderr
    space.settings(bridge="lan0")
    refused = space.net("up", check=False)
    assert refused.returncode == 1
    assert "lan0 exists and is not this lab's: bridge interface" in refused.stderr
    assert "172.31.0.1/24" in refused.stderr
    space.net("down")
    assert space.snapshot() == before


def test_other_settings_need_a_down_first(space: Namespace) -> None:
    before = space.snapshot()
    space.net("up")
    space.settings(bridge="other0")
    refused = space.net("up", check=False)
    assert refused.returncode == 1
    assert "rumplab0 is up with earlier settings" in refused.stderr
    # `down` removes what `up` made, even if the settings have changed since.
    space.net("down")
    assert space.snapshot() == before


@pytest.mark.parametrize("how", ["carried out", "printed"])
def test_a_strict_umask_hides_nothing_from_the_status(space: Namespace, how: str) -> None:
    up = space.net("up", "--dry-run").stdout if how == "printed" else shlex.join(space.lab.argv("net", "up"))
    space.run("sh", "-c", f"umask 077\n{up}")
    assert space.directory.stat().st_mode & 0o777 == 0o755
    assert {(space.directory / name).stat().st_mode & 0o777 for name in ("state.json", "leases")} == {0o644}


def test_two_ups_at_once_have_the_effect_of_one(space: Namespace) -> None:
    enter = ["nsenter", f"--net=/proc/{space.process.pid}/ns/net", "--", *space.lab.argv("net", "up")]
    runs = [subprocess.Popen(enter, env=space.lab.environment, stdout=-1, stderr=-1, text=True) for _ in range(3)]
    said = sorted(run.communicate(timeout=SECONDS)[0] for run in runs)
    assert [run.returncode for run in runs] == [0, 0, 0]
    assert ["already" in text for text in said].count(False) == 1
    assert space.state() == "up"


def test_down_needs_neither_dnsmasq_nor_the_settings(space: Namespace) -> None:
    before = space.snapshot()
    space.net("up")
    space.lab.component("bridge", {**PATHS(), "dnsmasq": "/nonexistent/dnsmasq"})
    assert "/nonexistent/dnsmasq of component bridge is missing" in space.net("up", check=False).stderr
    (space.lab.prefix / "etc" / "bridge.json").unlink()
    space.net("down")
    assert space.snapshot() == before


def test_a_port_on_the_bridge_prevents_down(space: Namespace) -> None:
    space.net("up")
    space.run("ip", "tuntap", "add", "tap7", "mode", "tap")
    space.run("ip", "link", "set", "tap7", "master", "rumplab0")
    refused = space.net("down", check=False)
    assert refused.returncode == 1
    assert "rumplab0 is in use by tap7" in refused.stderr
    assert "is down" in space.net("down", "--force").stdout
    space.run("ip", "link", "delete", "tap7")


def test_a_record_of_another_boot_is_ignored(space: Namespace) -> None:
    before = space.snapshot()
    space.net("up")
    text = (space.directory / "state.json").read_text()
    space.net("down")
    data = json.loads(text)
    data["session"] = "another boot/1"
    data["sysctls"] = {"ip_forward": "1"}
    (space.directory / "state.json").write_text(json.dumps(data))
    assert space.state() == "down"
    space.net("up")
    space.net("down")
    assert space.snapshot() == before


def test_a_directory_that_does_not_belong_to_root_is_refused(space: Namespace) -> None:
    space.directory.symlink_to("/tmp")
    refused = space.net("up", check=False)
    assert refused.returncode == 1
    assert "not a directory that only root can write to" in refused.stderr


def test_without_a_bridge_the_remedy_is_named(empty_lab: LabPrefix) -> None:
    for action in ("up", "down", "status"):
        ran = empty_lab.tool("net", action)
        assert ran.returncode == 3
        message = "this lab has no bridge; set bridge_manage: true and run: ./provision --tags bridge"
        assert ran.stderr == f"rumplab net: {message}\n"


def test_without_root_the_error_shows_the_command_with_sudo() -> None:
    bridge.require_root("up", 0)
    with pytest.raises(RumplabError, match="run: sudo rumplab net up"):
        bridge.require_root("up", 1000)


@pytest.mark.parametrize(
    ("words", "flag"),
    [(["up", "--force"], "--force"), (["status", "--dry-run"], "--dry-run"), (["up", "--json"], "--json")],
)
def test_options_of_other_actions_are_usage_errors(empty_lab: LabPrefix, words: list[str], flag: str) -> None:
    ran = empty_lab.tool("net", *words)
    assert ran.returncode == 2
    assert f"unrecognized arguments: {flag}" in ran.stderr


@pytest.mark.parametrize("action", ["up", "down", "status"])
def test_macos_says_that_there_is_nothing_to_do_and_what_needs_root(
    action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    args = argparse.Namespace(force=False, dry_run=False, json=False)
    assert GROUP.module(action).run(args, platform="darwin") == 0
    text = capsys.readouterr().out
    assert "vmnet" in text
    assert "sudo rumplab run" in text
    assert ("nothing to do" in text) is (action != "status")


def test_macos_status_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert status.run(argparse.Namespace(json=True), platform="darwin") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "vmnet"


BOOTP = Path(__file__).resolve().parents[2] / "netguest" / "bootp.py"


def bootp(space: Namespace, mac: str) -> str:
    """Return the address that a BOOTP client on a port of the bridge gets."""
    return space.run(sys.executable, str(BOOTP), "guest0", mac).stdout.strip()


def test_a_bootp_client_keeps_its_address(space: Namespace) -> None:
    """A kernel that waits in IPKDB sends such requests."""
    space.net("up")
    mac = "52:54:00:00:00:77"
    space.run("ip", "link", "add", "port0", "type", "veth", "peer", "name", "guest0")
    space.run("ip", "link", "set", "port0", "master", parsed().bridge, "up")
    space.run("ip", "link", "set", "guest0", "up")
    address = bootp(space, mac)
    assert parsed().first <= ipaddress.IPv4Address(address) <= parsed().last
    # BOOTP has no renewal, so the lease never ends. A second request gets the same address.
    assert bootp(space, mac) == address
    assert bootp(space, "52:54:00:00:00:78") != address
    (lease,) = [line for line in (space.directory / "leases").read_text().splitlines() if mac in line]
    assert lease.split()[:3] == ["0", mac, address]
    leases = json.loads(space.net("status", "--json").stdout)["dhcp"]["leases"]
    assert {"mac": mac, "address": address}.items() <= next(item for item in leases if item["mac"] == mac).items()
    # The translator finds the kernel by its lease.
    card = Nic("ne2k_pci", nics.BRIDGE, mac, slot=3)
    machine = Machine(name="e", directory=str(space.lab.runtime), gdb_port=1, nics=(card,))
    assert reach.place_of(machine, config.load()) == (ipaddress.IPv4Address(address), 1138)
