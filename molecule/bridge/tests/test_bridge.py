"""Guests on the lab's bridge, in a network namespace of the scenario's own, started by an unprivileged user."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from netguest.guests import BOOT_SECONDS, GUEST, HELPER, PREFIX, Machine, network, settings, status, write_settings
from testinfra.host import Host

ALICE = "runuser -u alice -- env HOME=/home/alice timeout 90"


@pytest.fixture(scope="module")
def before(host: Host) -> dict[str, str]:
    """The network as the scenario found it."""
    return network(host)


@pytest.fixture
def bridge(host: Host, before: dict[str, str]) -> Iterator[Host]:
    """The bridge, up; afterwards everything is as it was before."""
    began = time.monotonic()
    host.check_output("rumplab net up")
    # What docker exec itself takes is in it too.
    assert time.monotonic() - began < 3
    yield host
    host.check_output("rumplab net down --force")
    assert network(host) == before


@pytest.fixture
def guests() -> Iterator[list[Machine]]:
    """The guests of a test, ended with it."""
    started: list[Machine] = []
    yield started
    for guest in started:
        guest.end()


def test_the_seam(host: Host) -> None:
    component = json.loads(host.file(f"{PREFIX}/etc/components.d/bridge.json").content_string)
    assert component["state"] == "installed"
    assert set(component["paths"]) == {"ip", "nft", "dnsmasq", "qemu-bridge-helper", "qemu-ifup", "qemu-ifdown"}
    for path in component["paths"].values():
        assert host.file(path).exists
    found = settings(host)
    assert (found["schema"], found["bridge"], found["address"]) == (1, "rumplab0", "10.0.1.1/24")
    assert found["dhcp"] == ["10.0.1.50", "10.0.1.99"]
    assert found["nat"] is False
    assert found["group"] == "rumplab"


def test_the_helper_is_the_groups_alone(host: Host) -> None:
    helper = host.file(HELPER)
    assert (helper.user, helper.group, helper.mode) == ("root", "rumplab", 0o4750)
    assert host.check_output(f"dpkg-statoverride --list {HELPER}").split()[:3] == ["root", "rumplab", "4750"]
    ran = host.run(f"runuser -u mallory -- {HELPER} --br=rumplab0 --fd=3")
    assert ran.rc != 0
    assert "Permission denied" in ran.stderr


def test_the_rules_of_others_stand_as_they_were(host: Host) -> None:
    text = host.file("/etc/qemu/bridge.conf").content_string
    assert text == "allow rumplab0\n" + host.file("/opt/before/bridge.conf").content_string


def test_the_helper_refuses_another_bridge(bridge: Host) -> None:
    bridge.check_output("ip link add other0 type bridge")
    try:
        guest = Machine(bridge, "refused", 9, netdev=f"bridge,id=n,br=other0,helper={HELPER}")
        assert guest.ran.rc != 0
        assert "denied" in guest.ran.stderr
        assert bridge.check_output("ip -j link show type tun") in ("[]", "")
    finally:
        bridge.check_output("ip link del other0")


def test_up_and_down_can_be_repeated(bridge: Host, before: dict[str, str]) -> None:
    assert "up already" in bridge.check_output("rumplab net up")
    assert status(bridge)["state"] == "up"
    assert "is down" in bridge.check_output("rumplab net down")
    assert network(bridge) == before
    assert "down already" in bridge.check_output("rumplab net down")


def test_a_run_behind_the_pci_bridge_gets_the_address_and_mac_it_was_given(host: Host) -> None:
    """User networking, by `rumplab run`: a real driver behind the PCI bridge."""
    tail = f"-kernel {GUEST}/vmlinuz -initrd {GUEST}/initrd -append 'console=ttyS0 quiet'"
    host.check_output(f"{ALICE} rumplab run {GUEST}/blank.img --name user --memory 256M --detach -- {tail}")
    deadline = time.monotonic() + BOOT_SECONDS
    while "netguest: done" not in (said := host.check_output(f"{ALICE} rumplab logs user")):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    assert "eth0 mac 54:54:00:55:55:55 driver e1000" in said
    assert "lease 192.168.76.9/24" in said
    host.check_output(f"{ALICE} rumplab stop --all")


def test_two_guests_of_a_user_without_root(bridge: Host, guests: list[Machine]) -> None:
    server = Machine(bridge, "server", 1, role="server")
    guests.append(server)
    assert server.ran.rc == 0, server.ran.stderr
    peer = server.address()
    server.wait("netguest: listening")
    client = Machine(bridge, "client", 2, role="client", peer=peer, host="10.0.1.1", mib=64)
    guests.append(client)
    sent = client.wait("netguest: sending").split()[2]
    received = server.wait("netguest: received").split()[2]
    assert sent == received
    said = client.said()
    assert "ping peer ok" in said
    assert "ping host ok" in said
    assert "router none" in said
    leases = {lease["mac"]: lease["address"] for lease in status(bridge)["dhcp"]["leases"]}
    assert leases == {"52:54:00:00:00:01": peer, "52:54:00:00:00:02": client.address()}


def test_down_is_refused_while_a_machine_is_attached(bridge: Host, guests: list[Machine]) -> None:
    tail = (
        f"-kernel {GUEST}/vmlinuz -initrd {GUEST}/initrd -append 'console=ttyS0 quiet stay=1'"
        f" -netdev bridge,id=lan,br=rumplab0,helper={HELPER} -device e1000,netdev=lan,mac=52:54:00:00:00:03"
    )
    bridge.check_output(f"{ALICE} rumplab run {GUEST}/blank.img --name held --memory 256M --detach -- {tail}")
    try:
        ran = bridge.run("rumplab net down")
        assert ran.rc == 1
        assert "(machine 'held', pid " in ran.stderr
        assert "--force" in ran.stderr
        assert status(bridge)["state"] == "up"
        assert "is down" in bridge.check_output("rumplab net down --force")
    finally:
        bridge.check_output(f"{ALICE} rumplab stop --all")


def test_without_nat_no_packet_leaves(bridge: Host, guests: list[Machine]) -> None:
    gateway = bridge.check_output("ip -j route show default").split('"gateway":"')[1].split('"')[0]
    rules = (
        "add table inet watch",
        "add chain inet watch out { type filter hook postrouting priority 300 ; }",
        "add rule inet watch out ip saddr 10.0.1.0/24 oifname != rumplab0 counter",
    )
    for rule in rules:
        bridge.check_output(f"nft {shlex.quote(rule)}")
    try:
        guest = Machine(bridge, "closed", 4, outside=gateway, host="10.0.1.1")
        guests.append(guest)
        guest.wait("netguest: ping outside failed")
        assert "counter packets 0 bytes 0" in bridge.check_output("nft list table inet watch")
    finally:
        bridge.check_output("nft delete table inet watch")


def test_with_nat_guests_reach_what_the_host_reaches(host: Host, before: dict[str, str], guests: list[Machine]) -> None:
    gateway = host.check_output("ip -j route show default").split('"gateway":"')[1].split('"')[0]
    original = settings(host)
    write_settings(host, nat=True)
    try:
        host.check_output("rumplab net up")
        guest = Machine(host, "open", 5, outside=gateway, host="10.0.1.1")
        guests.append(guest)
        guest.wait("router 10.0.1.1")
        guest.wait("netguest: ping outside ok")
        guest.end()
    finally:
        host.check_output("rumplab net down --force")
        write_settings(host, **original)
    assert network(host) == before


def test_a_full_range_is_named(host: Host, before: dict[str, str], guests: list[Machine]) -> None:
    original = settings(host)
    write_settings(host, dhcp=["10.0.1.50", "10.0.1.50"])
    try:
        host.check_output("rumplab net up")
        first = Machine(host, "first", 6, stay=1)
        guests.append(first)
        assert first.address() == "10.0.1.50"
        second = Machine(host, "second", 7)
        guests.append(second)
        second.wait("netguest: no lease")
        assert any("all 1 addresses are taken" in note for note in status(host)["notes"])
    finally:
        for guest in guests:
            guest.end()
        host.check_output("rumplab net down --force")
        write_settings(host, **original)
    assert network(host) == before


def test_a_tap_with_the_scripts(bridge: Host, guests: list[Machine]) -> None:
    """What root does with -netdev tap."""
    scripts = "/usr/local/libexec/rumplab"
    netdev = f"tap,id=n,script={scripts}/qemu-ifup,downscript={scripts}/qemu-ifdown"
    guest = Machine(bridge, "tap", 8, netdev=netdev, user="root", stay=1)
    guests.append(guest)
    assert guest.ran.rc == 0, guest.ran.stderr
    assert guest.address().startswith("10.0.1.")


def test_a_server_of_the_hosts_own_goes_on(host: Host, before: dict[str, str]) -> None:
    host.check_output("ip link add lan0 type bridge && ip addr add 10.9.0.1/24 dev lan0 && ip link set lan0 up")
    host.check_output(
        "dnsmasq --conf-file=/dev/null --pid-file=/tmp/host-dnsmasq.pid --dhcp-leasefile=/tmp/host-leases"
        " --interface=lan0 --bind-interfaces --except-interface=lo --dhcp-range=10.9.0.10,10.9.0.20,1h"
    )
    pid = host.check_output("cat /tmp/host-dnsmasq.pid")
    try:
        host.check_output("rumplab net up")
        assert status(host)["dhcp"]["pid"] != int(pid)
        assert "dnsmasq" in host.check_output(f"cat /proc/{pid}/comm")
        host.check_output("rumplab net down")
        assert "dnsmasq" in host.check_output(f"cat /proc/{pid}/comm")
    finally:
        host.run(f"kill {pid}")
        host.run("ip link del lan0")
    assert network(host)["addr"] == before["addr"]


def test_ifupdown_brings_it_back_after_a_reboot_and_up_takes_it_over(host: Host, before: dict[str, str]) -> None:
    assert settings(host)["persistent"] == "ifupdown"
    host.check_output("ifup rumplab0")
    assert status(host)["state"] == "partial"
    host.check_output("rumplab net up")
    assert status(host)["state"] == "up"
    host.check_output("rumplab net down")
    assert network(host) == before
    host.check_output("ifdown --force rumplab0 2>/dev/null; true")


@pytest.mark.parametrize("script", ["qemu-ifup", "qemu-ifdown"])
def test_the_scripts_are_valid_shell(host: Host, script: str, tmp_path: Path) -> None:
    if not shutil.which("shellcheck"):
        pytest.skip("shellcheck is not installed")
    path = tmp_path / script
    path.write_text(host.file(f"/usr/local/libexec/rumplab/{script}").content_string)
    subprocess.run(["shellcheck", str(path)], check=True, timeout=60)


def test_speed(host: Host) -> None:
    """Inside the container, so that its engine isn't measured."""
    script = (
        "import subprocess, time, json\n"
        "def run(*words):\n"
        "    began = time.monotonic()\n"
        "    subprocess.run(['rumplab', 'net', *words], check=True, capture_output=True)\n"
        "    return time.monotonic() - began\n"
        "print(json.dumps({'up': run('up'), 'status': min(run('status') for _ in range(5)), 'down': run('down')}))\n"
    )
    took: dict[str, Any] = json.loads(host.check_output(f"python3 -c {shlex.quote(script)}"))
    assert took["up"] < 1
    assert took["down"] < 1
    assert took["status"] < 0.2
