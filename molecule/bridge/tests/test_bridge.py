"""Guests on the lab's bridge, in the scenario's own network namespace, started by an unprivileged user."""

from __future__ import annotations

import base64
import json
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from netguest.guests import BOOT_SECONDS, GUEST, HELPER, PREFIX, Machine, network, settings, status, write_settings
from testinfra.host import Host

ALICE = "runuser -u alice -- env HOME=/home/alice timeout 90"
MALLORY = "runuser -u mallory -- env HOME=/home/mallory timeout 90"
# A Multiboot program in an ELF file for i386 that halts: header, one segment at 1 MiB, Multiboot header, cli; hlt; jmp.
HALTS = (
    b"\x7fELF\1\1\1".ljust(16, b"\0")
    + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, 0x100060, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    + struct.pack("<IIIIIIII", 1, 0, 0x100000, 0x100000, 100, 100, 5, 4096)
    + struct.pack("<III", 0x1BADB002, 0, -0x1BADB002 & 0xFFFFFFFF)
    + bytes.fromhex("faf4ebfd")
)
ASK = (
    "import sys, pathlib; from rumplab.machine import qmp; question = {'command-line': 'info network'};"
    " print(qmp.execute(pathlib.Path(sys.argv[1]), 'human-monitor-command', arguments=question))"
)
# A network beyond the lab's bridge that no host has: TEST-NET-2.
BEYOND = "198.51.100.1"


@pytest.fixture(scope="module")
def before(host: Host) -> dict[str, str]:
    """Return the state of the network before the tests."""
    return network(host)


@pytest.fixture
def bridge(host: Host, before: dict[str, str]) -> Iterator[Host]:
    """Bring the bridge up; check afterwards that taking it down restores the network."""
    host.check_output("rumplab net up")
    yield host
    host.check_output("rumplab net down --force")
    assert network(host) == before


@pytest.fixture
def guests() -> Iterator[list[Machine]]:
    """Yield a list for a test's guests; end them after the test."""
    started: list[Machine] = []
    yield started
    for guest in started:
        guest.end()


@contextmanager
def outside(host: Host) -> Iterator[Machine]:
    """Start a guest on a separate network that listens and has no route beyond that network."""
    host.check_output(f"ip tuntap add dev out0 mode tap && ip addr add {BEYOND}/24 dev out0 && ip link set out0 up")
    # Option 3 is the router: with none, it can only answer to an address of its own network.
    host.check_output(
        "dnsmasq --conf-file=/dev/null --pid-file=/tmp/out-dnsmasq.pid --dhcp-leasefile=/tmp/out-leases --port=0"
        " --interface=out0 --bind-interfaces --except-interface=lo --dhcp-option=3"
        " --dhcp-range=198.51.100.10,198.51.100.20,1h"
    )
    netdev = "tap,id=n,ifname=out0,script=no,downscript=no"
    guest = Machine(host, "outside", 10, netdev=netdev, user="root", role="server")
    try:
        guest.wait("netguest: listening")
        yield guest
    finally:
        guest.end()
        host.check_output("kill $(cat /tmp/out-dnsmasq.pid)")
        host.check_output("ip link del out0")


def run_guest(host: Host, name: str, net: str, **variables: Any) -> None:
    """Start the guest as alice's machine by `rumplab run` with these network options."""
    append = " ".join(["console=ttyS0 quiet", *(f"{key}={value}" for key, value in variables.items())])
    tail = f"-kernel {GUEST}/vmlinuz -initrd {GUEST}/initrd -append '{append}'"
    host.check_output(f"{ALICE} rumplab run {GUEST}/blank.img --name {name} --memory 256M {net} --detach -- {tail}")


def logged(host: Host, name: str, text: str) -> str:
    """Wait until the output of alice's machine has `text`, and return that output."""
    deadline = time.monotonic() + BOOT_SECONDS
    while text not in (said := host.check_output(f"{ALICE} rumplab logs {name}")):
        assert time.monotonic() < deadline, said
        time.sleep(0.5)
    return said


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
    """User networking by `rumplab run`, with a real driver for a card behind the PCI bridge."""
    try:
        run_guest(host, "user", "--net user")
        said = logged(host, "user", "netguest: done")
    finally:
        host.check_output(f"{ALICE} rumplab stop --all")
    assert "eth0 mac 54:54:00:55:55:55 driver e1000" in said
    assert "lease 192.168.76.9/24" in said


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


def test_a_run_on_the_bridge_and_no_down_while_it_is_attached(bridge: Host) -> None:
    """`rumplab run` with the provisioned helper."""
    try:
        run_guest(bridge, "held", "--net bridge --mac 52:54:00:00:00:03", stay=1)
        said = logged(bridge, "held", "netguest: lease")
        assert "eth0 mac 52:54:00:00:00:03 driver e1000" in said
        address = said.split("netguest: lease ")[1].split("/")[0]
        leases = {lease["mac"]: lease["address"] for lease in status(bridge)["dhcp"]["leases"]}
        assert leases == {"52:54:00:00:00:03": address}
        ran = bridge.run("rumplab net down")
        assert ran.rc == 1
        assert "(machine 'held', pid " in ran.stderr
        assert "--force" in ran.stderr
        assert status(bridge)["state"] == "up"
        assert "is down" in bridge.check_output("rumplab net down --force")
    finally:
        bridge.check_output(f"{ALICE} rumplab stop --all")


def test_a_guest_on_the_bridge_has_its_tap_until_it_stops(bridge: Host) -> None:
    """`rumplab guest` attaches to the bridge as `rumplab run` does."""
    kernel = "/tmp/halts.bin"
    bridge.check_output(f"echo {base64.b64encode(HALTS).decode()} | base64 -d >{kernel} && chmod 644 {kernel}")
    words = f"--arch i386 --kernel {kernel} --net bridge --mac 52:54:00:00:00:04"
    bridge.check_output(f"{ALICE} rumplab guest create nb {words}")
    try:
        assert "nb runs (pid " in bridge.check_output(f"{ALICE} rumplab guest start nb")
        taps = json.loads(bridge.check_output("ip -j link show type tun"))
        assert [tap["master"] for tap in taps] == [settings(bridge)["bridge"]]
        (machine,) = json.loads(bridge.check_output(f"{ALICE} rumplab ps --json"))
        control = f"{machine['directory']}/qmp.sock"
        cards = bridge.check_output(f"{ALICE} {PREFIX}/rumplab/bin/python3 -I -c %s {control}", ASK)
        assert "model=e1000,macaddr=52:54:00:00:00:04" in cards
        # rumplab had the helper open it, so that QEMU needs to start no program in its sandbox.
        assert "type=tap,fd=" in cards
        shown = bridge.file(f"/proc/{machine['pid']}/status").content_string
        assert "-sandbox" not in machine["argv"] or "Seccomp:\t2" in shown
        refused = bridge.run("rumplab net down")
        assert refused.rc == 1
        assert "(machine 'nb', pid " in refused.stderr
    finally:
        bridge.check_output(f"{ALICE} rumplab guest stop nb --now")
        bridge.check_output(f"{ALICE} rumplab guest delete nb")
    assert bridge.check_output("ip -j link show type tun") in ("[]", "")


def test_a_run_by_a_user_outside_the_group_is_refused(bridge: Host) -> None:
    ran = bridge.run(f"{MALLORY} rumplab run {GUEST}/blank.img --net bridge --detach")
    assert ran.rc == 1
    assert "is for members of group rumplab" in ran.stderr
    assert "sudo usermod -aG rumplab mallory" in ran.stderr
    assert bridge.check_output("ip -j link show type tun") in ("[]", "")


def counted(host: Host, chain: str) -> int:
    """Return the number of packets that a chain of the test's own table has counted."""
    return int(host.check_output("nft list chain inet watch %s", chain).split("counter packets ")[1].split()[0])


def test_without_nat_no_packet_leaves(bridge: Host, guests: list[Machine]) -> None:
    """The host forwards packets and the outer address exists, but the lab's rules drop every packet."""
    assert bridge.check_output("cat /proc/sys/net/ipv4/ip_forward") == "1"
    assert bridge.check_output("nft list tables") == "table inet rumplab"
    from_guests = "iifname rumplab0 oifname != rumplab0 counter"
    rules = (
        "add table inet watch",
        # The lab's chain has priority 0. It has dropped what the first of these chains counts and the second doesn't.
        "add chain inet watch before { type filter hook forward priority -10 ; }",
        "add chain inet watch after { type filter hook forward priority 10 ; }",
        "add chain inet watch out { type filter hook postrouting priority 300 ; }",
        f"add rule inet watch before {from_guests}",
        f"add rule inet watch after {from_guests}",
        "add rule inet watch out ip saddr 10.0.1.0/24 oifname != rumplab0 counter",
    )
    with outside(bridge) as beyond:
        for rule in rules:
            bridge.check_output("nft %s", rule)
        try:
            guest = Machine(bridge, "closed", 4, outside=beyond.address(), host="10.0.1.1")
            guests.append(guest)
            guest.wait("netguest: ping outside failed")
            assert counted(bridge, "before") > 0
            assert counted(bridge, "after") == 0
            assert counted(bridge, "out") == 0
        finally:
            bridge.check_output("nft delete table inet watch")


def test_with_nat_guests_reach_what_the_host_reaches(host: Host, before: dict[str, str], guests: list[Machine]) -> None:
    """Another guest, which can't answer to the bridge's addresses, gets what the first one sends."""
    original = settings(host)
    write_settings(host, nat=True)
    try:
        with outside(host) as beyond:
            host.check_output("rumplab net up")
            guest = Machine(host, "open", 5, role="client", peer=beyond.address(), host="10.0.1.1", mib=1)
            guests.append(guest)
            guest.wait("router 10.0.1.1")
            sent = guest.wait("netguest: sending").split()[2]
            assert beyond.wait("netguest: received").split()[2] == sent
            assert "ping peer ok" in guest.said()
            guest.end()
            host.check_output("rumplab net down --force")
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
        assert any("all 1 addresses are in use" in note for note in status(host)["notes"])
    finally:
        for guest in guests:
            guest.end()
        host.check_output("rumplab net down --force")
        write_settings(host, **original)
    assert network(host) == before


def test_a_tap_with_the_scripts(bridge: Host, guests: list[Machine]) -> None:
    """Root uses -netdev tap with the scripts."""
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
