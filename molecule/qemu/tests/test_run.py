"""Machines in a container without /dev/kvm, run by an unprivileged user."""

from __future__ import annotations

import json
import re
import shlex
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

PREFIX = "/opt/rumplab"
PROGRAM = f"{PREFIX}/pcihello/pcihello.bin"
USER = (
    "setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all"
    " env HOME=/nonexistent timeout 60"
)
RUMPLAB = f"{USER} rumplab"
DONE = "pcihello: done"
EXIT_STATUS = 33
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
E1000 = "01:01.0 8086:100e class 020000"


def blank_disk(host: Any) -> None:
    """Make /tmp/blank.img, an empty disk with only a boot signature."""
    host.check_output("install -m 666 /dev/null /tmp/blank.img && truncate -s 1M /tmp/blank.img")
    host.check_output("printf '\\125\\252' | dd of=/tmp/blank.img bs=1 seek=510 conv=notrunc status=none")


@pytest.fixture(autouse=True)
def no_machine_left(host: Any) -> Iterator[None]:
    """Stop all machines after every test, and check that none is left."""
    yield
    host.check_output(f"{RUMPLAB} stop --all")
    assert machines(host) == []


def machines(host: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output(f"{RUMPLAB} ps --json"))
    return found


def wait_for(host: Any, name: str, text: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while text not in host.check_output(f"{RUMPLAB} logs {name}"):
        assert time.monotonic() < deadline, f"'{text}' did not appear"
        time.sleep(0.2)


def test_component(host: Any) -> None:
    component = json.loads(host.file(f"{PREFIX}/etc/components.d/qemu.json").content_string)
    assert component["state"] == "installed"
    assert component["source"] == "packages"
    for name in ("qemu-system-x86_64", "qemu-img"):
        assert host.file(component["paths"][name]).exists


def test_the_printed_command_is_the_machine_and_boots(host: Any) -> None:
    line = host.check_output(f"{RUMPLAB} run {PROGRAM} --dry-run --exit-device")
    words = shlex.split(line)
    assert "pci-bridge,chassis_nr=2,id=pci.1,bus=pci.0,addr=3" in words
    assert "user,id=net0,net=192.168.76.0/24,dhcpstart=192.168.76.9,restrict=on" in words
    assert "e1000,netdev=net0,mac=54:54:00:55:55:55,bus=pci.1,addr=1" in words
    # The command makes its socket in the directory in which it is pasted.
    assert words[words.index("-gdb") + 1] == "chardev:gdb"
    ran = host.run(f"cd /tmp && {USER} {line} </dev/null")
    assert ran.rc == EXIT_STATUS, ran.stderr
    assert E1000 in ran.stdout


def test_two_machines_at_once(host: Any) -> None:
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach")
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach --wait")
    running = {machine["name"]: machine for machine in machines(host)}
    assert set(running) == {"pcihello", "pcihello-2"}
    assert running["pcihello-2"]["state"] == "prelaunch"
    assert len({machine["stub"] for machine in running.values()}) == 2
    assert {machine["accel"] for machine in running.values()} == {"tcg"}
    wait_for(host, "pcihello", DONE)
    assert E1000 in host.check_output(f"{RUMPLAB} logs pcihello")
    assert host.check_output(f"{RUMPLAB} stop pcihello") == "pcihello stopped"
    assert [machine["name"] for machine in machines(host)] == ["pcihello-2"]
    assert not alive(host, running["pcihello"])
    assert alive(host, running["pcihello-2"])


def test_cards_of_ones_choice(host: Any) -> None:
    options = "--exit-device --nic virtio --nic ne2k_pci --nic rtl8139 --nic e1000 --forward 18080:80"
    ran = host.run(f"{RUMPLAB} run {PROGRAM} {options} </dev/null")
    assert ran.rc == EXIT_STATUS, ran.stderr
    found = [line.split()[1] for line in ran.stdout.splitlines() if "class 020000" in line]
    assert found == ["1af4:1000", "10ec:8029", "10ec:8139", "8086:100e"]
    ran = host.run(f"{RUMPLAB} run {PROGRAM} --exit-device --net none --no-pci-bridge </dev/null")
    assert ran.rc == EXIT_STATUS, ran.stderr
    assert "class 020000" not in ran.stdout
    assert "class 060400" not in ran.stdout


def test_every_controller_is_in_this_qemu(host: Any) -> None:
    """With an empty disk: each machine starts with its controller, though there is nothing to boot."""
    blank_disk(host)
    for disk in ("virtio", "ide", "lsi", "mpt", "virtio-scsi", "nvme"):
        host.check_output(f"{RUMPLAB} run /tmp/blank.img --disk {disk} --detach --wait --name {disk}")
        assert host.check_output(f"{RUMPLAB} stop {disk}") == f"{disk} stopped"


def test_an_image_and_a_port_in_use_are_said_by_name(host: Any) -> None:
    blank_disk(host)
    host.check_output(f"{RUMPLAB} run /tmp/blank.img --detach --wait --forward 18080:80")
    ran = host.run(f"{RUMPLAB} run /tmp/blank.img --detach --wait")
    assert ran.rc == 1
    assert "/tmp/blank.img is in use by machine 'blank'" in ran.stderr
    ran = host.run(f"{RUMPLAB} run {PROGRAM} --detach --forward 18080:81")
    assert ran.rc == 1
    assert "port tcp:18080 is taken by machine 'blank'" in ran.stderr


def test_without_the_bridge_component_the_command_is_named(host: Any) -> None:
    ran = host.run(f"{RUMPLAB} run {PROGRAM} --net bridge --detach")
    assert ran.rc == 3
    assert ran.stderr.rstrip().endswith("--tags bridge -e bridge_manage=true")


def alive(host: Any, machine: dict[str, Any]) -> bool:
    """Return whether the process runs; a zombie that the container's first process hasn't reaped doesn't count."""
    stat: str = host.run(f"cat /proc/{machine['pid']}/stat").stdout
    return stat != "" and stat.rpartition(")")[2].split()[0] not in "ZX"


def test_records_are_the_users_own(host: Any) -> None:
    """This also holds for a user without a home directory."""
    ran = host.run(f"{RUMPLAB} run {PROGRAM} --detach --wait")
    assert ran.rc == 0, ran.stderr
    assert re.search(r"/nonexistent/\.local/state/rumplab-\w+ can't be made \(.*is used instead", ran.stderr)
    (machine,) = machines(host)
    directory = host.file(machine["directory"])
    assert directory.path.startswith("/tmp/rumplab-65534-")
    assert (directory.user, directory.mode) == ("nobody", 0o700)
    for name in ("gdb.sock", "qmp.sock"):
        socket = host.file(f"{directory.path}/{name}")
        assert (socket.user, socket.mode) == ("nobody", 0o600)
    host.check_output("install -d -m 700 -o nobody /tmp/home")
    at_home = RUMPLAB.replace("HOME=/nonexistent", "HOME=/tmp/home")
    try:
        host.check_output(f"{at_home} run {PROGRAM} --detach --wait")
        (machine,) = json.loads(host.check_output(f"{at_home} ps --json"))
        assert machine["directory"].startswith("/tmp/home/.local/state/rumplab-")
    finally:
        host.check_output(f"{at_home} stop --all")
        host.check_output("rm -rf /tmp/home")


def test_what_is_not_asked_for_listens_on_no_port(host: Any) -> None:
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach --wait")
    table = [line.split() for line in host.file("/proc/net/tcp").content_string.splitlines()[1:]]
    nobodys = [words[1] for words in table if words[3] == "0A" and words[7] == "65534"]
    assert nobodys == []


def test_a_taken_port(host: Any) -> None:
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach --wait --gdb-port 2345")
    ran = host.run(f"{RUMPLAB} run {PROGRAM} --detach --gdb-port 2345")
    assert ran.rc == 1
    assert "port 2345 is taken by machine 'pcihello'" in ran.stderr


def test_a_killed_machine_is_cleaned_up(host: Any) -> None:
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach")
    machine = machines(host)[0]
    host.check_output("kill -KILL %s", str(machine["pid"]))
    time.sleep(0.5)
    assert machines(host) == []
    assert not host.file(machine["directory"]).exists


def test_the_probe_is_bounded_and_takes_tcg(host: Any) -> None:
    began = time.monotonic()
    checks = {check["subject"]: check for check in json.loads(host.run(f"{RUMPLAB} doctor --reprobe --json").stdout)}
    assert time.monotonic() - began < 30
    assert checks["accelerator/tcg"]["level"] == "ok"
    assert "takes tcg" in checks["accelerator"]["detail"]


def test_a_recording_is_packed_by_the_installed_zstd(host: Any) -> None:
    place = "/tmp/recorded"
    host.check_output(f"install -d -o nobody -g nogroup {place}")
    tool = f"cd {place} && {USER} env HOME={place} rumplab"
    try:
        ran = host.run(f"{tool} run {PROGRAM} --exit-device --record --name first")
        assert ran.rc == EXIT_STATUS, ran.stderr
        host.check_output(f"{tool} recording pack first -o first.tar.zst")
        assert host.file(f"{place}/first.tar.zst").content.startswith(ZSTD_MAGIC)
        host.check_output(f"{tool} recording unpack first.tar.zst --name again")
        assert DONE in host.check_output(f"{tool} replay again --check")
    finally:
        host.check_output(f"rm -rf {place}")


def test_a_kvm_that_hangs_is_not_taken(host: Any) -> None:
    """QEMU hangs with KVM, although the device node looks right."""
    lab = "/tmp/hung"
    emulator = host.check_output("command -v qemu-system-x86_64")
    host.check_output(f"mkdir -p {lab}/etc/components.d")
    script = f'#!/bin/sh\\ncase "$*" in *accel=kvm*) exec sleep 60 ;; esac\\nexec {emulator} "$@"\\n'
    host.check_output(f"printf '%b' {shlex.quote(script)} >{lab}/qemu && chmod 755 {lab}/qemu")
    for name in ("rumplab.json", "components.d/qemu.json", "components.d/pcihello.json"):
        host.check_output(
            f'sed -e \'s#"prefix": *"[^"]*"#"prefix": "{lab}"#\' -e \'s#{emulator}#{lab}/qemu#\''
            f" {PREFIX}/etc/{name} >{lab}/etc/{name}"
        )
    tool = f"{USER} env RUMPLAB_CONFIG={lab}/etc/rumplab.json {PREFIX}/rumplab/bin/python3 -I -m rumplab"
    host.check_output("mknod -m 666 /dev/kvm c 1 3")
    try:
        began = time.monotonic()
        line = host.check_output(f"{tool} run {PROGRAM} --dry-run")
        assert 4 < time.monotonic() - began < 20
        assert "pc,accel=tcg" in line
        took = []
        for _ in range(3):
            began = time.monotonic()
            host.check_output(f"{tool} run {PROGRAM} --dry-run")
            took.append(time.monotonic() - began)
        assert min(took) < 4
    finally:
        host.check_output(f"rm -rf /dev/kvm {lab}")


def test_nothing_listens_on_other_interfaces(host: Any) -> None:
    host.check_output(f"{RUMPLAB} run {PROGRAM} --detach --wait --gdb-port 2346")
    table = [line.split() for line in host.file("/proc/net/tcp").content_string.splitlines()[1:]]
    listening = [words[1] for words in table if words[3] == "0A"]
    loopback = socket.inet_aton("127.0.0.1")[::-1].hex().upper()
    assert [address for address in listening if address.endswith(f":{2346:04X}")] == [f"{loopback}:{2346:04X}"]
