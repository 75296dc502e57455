"""Network cards of real machines: the guest's PCI devices, forwarded packets, and refused options."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from pathlib import Path

import pytest
from support.labfixture import LabPrefix, host_tool
from support.running import DONE, detach, image, started, until
from unit.network.test_settings import GOOD

from rumplab.host import ports

pytestmark = pytest.mark.qemu

HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
# Runs in its own network and mount namespaces, so that it doesn't touch a bridge of that name on the host.
BRIDGE_SCRIPT = """
set -eu
mount -t sysfs none /sys
cp -a /etc "$TOP/etc"
mount --bind "$TOP/etc" /etc
mkdir -p /etc/qemu
echo allow rumplab0 >/etc/qemu/bridge.conf
ip link add rumplab0 type bridge
ip link set rumplab0 up
run() { echo "== $1"; shift; "$PYTHON" -m rumplab run "$PROGRAM" --accel tcg --detach --net bridge "$@" 2>&1 || :; }
run first --name first
run second --name second
run clash --mac 54:54:00:55:55:55
"$PYTHON" -m rumplab ps --json >"$TOP/ps.json"
echo "== seccomp"
sed -n 's/ *"pid": \\([0-9]*\\),/\\1/p' "$TOP/ps.json" | while read -r pid; do grep Seccomp: "/proc/$pid/status"; done
echo "== taps"
ip -br link show type tun
echo "== stop"
"$PYTHON" -m rumplab stop --all
ip tuntap add dev neighbour mode tap
ip link set neighbour master rumplab0 up
bridge fdb add 54:54:00:55:55:55 dev neighbour master static
run neighbour --mac 54:54:00:55:55:55
run third --name third
"$PYTHON" -m rumplab stop --all
echo allow another0 >/etc/qemu/bridge.conf
run acl --name acl
ip link del rumplab0
run down --name down
"""


def pci(lab: LabPrefix, program: Path, *options: str) -> list[str]:
    """Return the network cards that the guest finds, as bus:device.function vendor:device."""
    result = lab.tool("run", program, "--accel", "tcg", "--exit-device", *options)
    assert DONE in result.stdout, result.stdout + result.stderr
    return re.findall(r"^(\S+ \S+) class 020000\r?$", result.stdout, re.MULTILINE)


def test_cards_behind_the_bridge_in_order(lab: LabPrefix, pcihello: Path) -> None:
    cards = [word for model in ("e1000", "virtio", "ne2k_pci", "rtl8139") for word in ("--nic", model)]
    assert pci(lab, pcihello, *cards) == [
        "01:01.0 8086:100e",
        "01:02.0 1af4:1000",
        "01:03.0 10ec:8029",
        "01:04.0 10ec:8139",
    ]


def test_cards_without_the_bridge(lab: LabPrefix, pcihello: Path) -> None:
    assert pci(lab, pcihello, "--no-pci-bridge", "--nic", "virtio") == ["00:03.0 1af4:1000"]
    assert pci(lab, pcihello, "--net", "none") == []


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_data_sent_to_a_forwarded_port_reaches_the_guests_network(
    lab: LabPrefix, pcihello: Path, tmp_path: Path, protocol: str
) -> None:
    """The demo doesn't answer, but QEMU sends an ARP request for the first DHCP address."""
    port, wire = ports.free(), tmp_path / "wire.pcap"
    machine = started(
        *(lab, pcihello, "--forward", f"{protocol}:{port}:7"),
        *("--", "-object", f"filter-dump,id=dump,netdev=net0,file={wire}"),
    )
    assert machine["nics"][0]["forwards"] == [{"protocol": protocol, "host": port, "guest": 7}]
    until(lambda: DONE in lab.tool("logs", machine["name"]).stdout)
    with socket.socket(type=socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM) as sock:
        sock.connect(("127.0.0.1", port))
        sock.send(b"hello")
        # The EtherType of ARP, a request for IPv4, and the wanted address at its end.
        request = re.compile(
            rb"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x01.{14,16}" + socket.inet_aton("192.168.76.9"), re.S
        )
        until(lambda: request.search(wire.read_bytes()) is not None)


def test_a_forwarded_port_that_is_taken(lab: LabPrefix, pcihello: Path) -> None:
    port = ports.free()
    started(lab, pcihello, "--wait", "--forward", f"{port}:80")
    refused = detach(lab, pcihello, "--forward", f"{port}:81")
    assert refused.returncode == 1
    assert f"port tcp:{port} is taken by machine 'pcihello'" in refused.stderr
    refused = detach(lab, pcihello, "--gdb-port", str(port))
    assert f"port {port} is taken by machine 'pcihello'" in refused.stderr
    with socket.socket(type=socket.SOCK_DGRAM) as other:
        other.bind(("127.0.0.1", 0))
        foreign = other.getsockname()[1]
        refused = detach(lab, pcihello, "--forward", f"udp:{foreign}:53")
    assert refused.returncode == 1
    assert f"port udp:{foreign} on 127.0.0.1 is taken by a process that is none of your machines" in refused.stderr
    assert f", pid {os.getpid()})" in refused.stderr
    assert len(lab.machines()) == 1
    port = ports.free()
    refused = detach(lab, pcihello, "--gdb-port", str(port), "--forward", f"{port}:80")
    assert refused.returncode == 2
    assert f"--gdb-port and --forward both ask for port {port}" in refused.stderr


def test_the_error_for_an_image_in_another_qemu_names_the_process(
    lab: LabPrefix, pcihello: Path, tmp_path: Path
) -> None:
    path = image(lab, pcihello, tmp_path / "x.img")
    argv = [host_tool("qemu-system-x86_64"), "-accel", "tcg", "-display", "none", "-S"]
    drive = f"file={path},format=raw,if=none,id=a"
    foreign = subprocess.Popen([*argv, "-drive", drive, "-device", "virtio-blk-pci,drive=a"])
    try:
        until(lambda: str(path) in {os.readlink(entry) for entry in Path(f"/proc/{foreign.pid}/fd").iterdir()})
        for options in ((), ("--snapshot",)):
            refused = detach(lab, path, *options)
            assert refused.returncode == 1
            assert f"{path} is locked by a process that is none of your machines (qemu" in refused.stderr
            assert f", pid {foreign.pid}); stop that process first" in refused.stderr
    finally:
        foreign.kill()
        foreign.wait(10)
    assert started(lab, path)["name"] == "x"


def test_without_the_bridge_component(lab: LabPrefix, pcihello: Path) -> None:
    for option in ("--net", "--nic"):
        refused = detach(lab, pcihello, option, "bridge" if option == "--net" else "e1000,net=bridge")
        assert refused.returncode == 3
        assert "./provision --tags bridge -e bridge_manage=true" in refused.stderr


@pytest.fixture(scope="module")
def helper() -> str:
    """Return the host's qemu-bridge-helper; skip if there is none, or if the host has no network namespaces."""
    found = next((path for path in HELPERS if Path(path).exists()), None)
    if found is None or os.geteuid() != 0 or not Path("/dev/net/tun").exists():
        pytest.skip("needs root, /dev/net/tun and qemu-bridge-helper")
    for tool in ("unshare", "ip", "bridge"):
        host_tool(tool)
    tried = subprocess.run(["unshare", "-nm", "mount", "-t", "sysfs", "none", "/sys"], timeout=20, check=False)
    if tried.returncode:
        pytest.skip("needs network namespaces")
    return found


def test_machines_on_a_bridge(lab: LabPrefix, pcihello: Path, helper: str, tmp_path: Path) -> None:
    """In a network namespace: addresses, conflicts, and bridges that the helper refuses."""
    lab.component("bridge", {"qemu-bridge-helper": helper})
    (lab.prefix / "etc" / "bridge.json").write_text(json.dumps(GOOD), encoding="utf-8")
    python = lab.argv()[0]
    ran = subprocess.run(
        ["unshare", "-nm", "sh", "-c", BRIDGE_SCRIPT],
        env={**lab.environment, "TOP": str(tmp_path), "PYTHON": python, "PROGRAM": str(pcihello)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = dict(part.split("\n", 1) for part in ran.stdout.split("== ")[1:])
    machines = {machine["name"]: machine for machine in json.loads((tmp_path / "ps.json").read_text(encoding="utf-8"))}
    assert set(machines) == {"first", "second"}
    # The tool has run the helper, which opened the taps: QEMU's sandbox allows no child process.
    assert any(word.startswith("tap,id=net0,fd=") for word in machines["first"]["argv"])
    if "-sandbox" in machines["first"]["argv"]:
        assert said["seccomp"].split() == ["Seccomp:", "2"] * 2
    assert len(re.findall("^tap[0-9]+ ", said["taps"], re.MULTILINE)) == 2
    assert machines["first"]["nics"][0]["mac"] == "54:54:00:55:55:55"
    assert machines["second"]["nics"][0]["mac"].startswith("52:54:00:")
    assert "54:54:00:55:55:55 is the address of machine 'first'" in said["clash"]
    assert "another device on the bridge has the address 54:54:00:55:55:55" in said["neighbour"]
    assert "third runs" in said["third"]
    assert "access denied by acl file; the bridge's name must stand in QEMU's bridge.conf" in said["acl"]
    assert "rumplab0 is not up; bring it up: sudo rumplab net up" in said["down"]
