"""Settings that role bridge refuses; and uninstalling, which restores the host's state. Runs last."""

from __future__ import annotations

import re

from netguest.guests import HELPER, PREFIX, ROOT, SCENARIO, network, play, settings
from testinfra.host import Host


def test_without_consent_nothing_is_done(host: Host) -> None:
    before = host.check_output("ip -j link")
    run = play(SCENARIO / "row.yml", bridge_manage=False, bridge_name="another0")
    assert run.returncode == 0, run.stdout
    assert "bridge_manage is false" in run.stdout
    assert host.check_output("ip -j link") == before
    assert settings(host)["bridge"] == "rumplab0"


def test_a_name_that_is_too_long_is_refused(host: Host) -> None:
    run = play(SCENARIO / "row.yml", bridge_manage=True, bridge_name="sixteen-letters0")
    assert run.returncode != 0
    assert "up to 15 letters" in re.sub(r"\s+", " ", run.stdout + run.stderr)


def test_rules_of_others_are_refused_by_name(host: Host) -> None:
    before = network(host)
    host.check_output("chmod g+w /etc/qemu/bridge.conf")
    try:
        run = play(SCENARIO / "row.yml", bridge_manage=True, bridge_keep_other_rules=False, bridge_name="another0")
    finally:
        host.check_output("chmod g-w /etc/qemu/bridge.conf")
    said = re.sub(r"\s+", " ", run.stdout + run.stderr)
    assert run.returncode != 0
    # The lab's own line, for a bridge with the former name, isn't one of them.
    assert (
        "Rules of others there: allow elsewhere0. Files that others than root can write: /etc/qemu/bridge.conf." in said
    )
    assert "bridge_keep_other_rules: true" in said
    assert network(host) == before
    assert settings(host)["bridge"] == "rumplab0"


def test_the_role_brings_it_up_with_new_settings_and_another_name(host: Host) -> None:
    for name, address in (("rumplab0", "10.0.1.1/24"), ("lab1", "10.77.0.1/24")):
        dhcp = [address.replace(".1/24", ".10"), address.replace(".1/24", ".20")]
        run = play(SCENARIO / "row.yml", bridge_manage=True, bridge_name=name, bridge_address=address, bridge_dhcp=dhcp)
        assert run.returncode == 0, run.stdout
        assert f'"ifname":"{name}"' in host.check_output("ip -j addr show to %s", address)
    assert host.run("ip link show rumplab0").rc != 0
    assert host.file("/etc/qemu/bridge.conf").content_string.splitlines()[:2] == ["allow lab1", "allow elsewhere0"]


def test_uninstall_leaves_the_host_as_it_was(host: Host) -> None:
    host.check_output("cp -r %s/etc /opt/before/", PREFIX)
    run = play(ROOT / "playbooks" / "uninstall.yml")
    assert run.returncode == 0, run.stdout
    assert not host.file(PREFIX).exists
    assert not host.file("/usr/local/libexec").exists
    assert not host.file("/etc/network/interfaces.d/lab1").exists
    assert not host.file("/etc/network/interfaces.d/rumplab0").exists
    assert host.run("cmp /etc/qemu/bridge.conf /opt/before/bridge.conf").rc == 0
    assert host.run("cmp /etc/group /opt/before/group").rc == 0
    assert not host.file(HELPER).exists
    assert host.run(f"dpkg-statoverride --list {HELPER}").rc != 0
    # Uninstalling has removed ip and nft with their packages, so read the kernel's files.
    assert host.check_output("ls /sys/class/net") == host.check_output("cat /opt/before/interfaces")
    assert host.check_output("cat /proc/net/route") == host.check_output("cat /opt/before/route")


def test_uninstall_with_the_bridge_down_and_its_programs_gone(host: Host) -> None:
    run = play(SCENARIO / "lab.yml")
    assert run.returncode == 0, run.stdout
    for name in ("bridge.json", "components.d/bridge.json"):
        host.check_output(f"cp /opt/before/etc/{name} {PREFIX}/etc/{name}")
    # The error that uninstalling would get if it ran the command.
    assert host.run("rumplab net down").rc == 3
    run = play(ROOT / "playbooks" / "uninstall.yml")
    assert run.returncode == 0, run.stdout
    assert not host.file(PREFIX).exists
