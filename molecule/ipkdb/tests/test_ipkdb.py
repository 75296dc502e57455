"""Role ipkdb with a miniature release, and its kernel on the lab's bridge: BOOTP, GDB by one command, and the key."""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest
from netguest.guests import ROOT, play, status
from testinfra.host import Host

PREFIX = "/opt/rumplab"
KEY = f"{PREFIX}/etc/ipkdb.key"
MINE = "runuser -u rumplab -- env HOME=/home/rumplab timeout 100"
ALICE = "runuser -u alice -- env HOME=/home/alice timeout 60"
GUEST = f"{MINE} rumplab guest"
IPKDB = f"{MINE} rumplab ipkdb"
SECONDS = 60
RELEASE = "http://127.0.0.1:8080/files/NetBSD-@release@/@file@"
COMPONENTS = ("netbsd_kernel_i386_ipkdb", "netbsd_tools_i386_ipkdb", "netbsd_sources_ipkdb", "netbsd_disk_i386_ipkdb")


def described(host: Host, name: str) -> dict[str, Any]:
    """A component's descriptor."""
    found: dict[str, Any] = json.loads(host.file(f"{PREFIX}/etc/components.d/{name}.json").content_string)
    return found


def key(host: Host) -> str:
    return str(host.file(KEY).content_string).strip()


@pytest.fixture(scope="module", autouse=True)
def facts(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Make Ansible cache the host's facts."""
    os.environ["ANSIBLE_GATHERING"] = "smart"
    os.environ["ANSIBLE_CACHE_PLUGIN"] = "jsonfile"
    os.environ["ANSIBLE_CACHE_PLUGIN_CONNECTION"] = str(tmp_path_factory.mktemp("facts"))


def row(host: Host, *options: str, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run the role alone with these options and variables, otherwise as the scenario does."""
    hashes = json.loads(host.check_output("cat /srv/upstream/netbsd.json"))["8.9"]
    given = {
        "rumplab_built_cache": "",
        "netbsd_release_hosts": [RELEASE],
        "netbsd_release_disk_size": 16,
        "ipkdb_enabled": True,
        "ipkdb_release": "8.9",
        "ipkdb_hashes": hashes,
        "rumplab_user": "rumplab",
        "artifact_fetch_timeout": 3,
        **variables,
    }
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], *options, "-e", json.dumps(given)]
    command.append(str(ROOT / "molecule" / "ipkdb" / "row.yml"))
    environment = {**os.environ, "ANSIBLE_ROLES_PATH": str(ROOT / "roles"), "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)


def said(done: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", done.stdout + done.stderr)


@pytest.mark.parametrize("name", COMPONENTS)
def test_what_it_leaves_is_a_release_of_its_own(host: Host, name: str) -> None:
    found = described(host, name)
    assert (found["state"], found["version"]) == ("installed", "8.9")


def test_the_configuration(host: Host) -> None:
    lines = host.file(described(host, COMPONENTS[0])["paths"]["config"]).content_string.splitlines()
    assert lines[0] == 'include "arch/i386/conf/GENERIC"'
    slot = json.loads((ROOT / "src/rumplab/guest/ipkdb.json").read_text())["slot"]
    assert lines[2:] == [
        "no options DDB",
        "options IPKDB",
        "options IPKDB_NE_PCI",
        f"options IPKDB_NE_PCISLOT={slot}",
    ]


def test_the_key_is_the_lab_users_alone_and_so_is_the_kernel_that_has_it(host: Host) -> None:
    file = host.file(KEY)
    assert (file.user, file.mode) == ("rumplab", 0o600)
    assert re.fullmatch(r"[\w-]{32}", key(host))
    paths = described(host, COMPONENTS[0])["paths"]
    for name in ("kernel", "symbols"):
        kernel = host.file(paths[name])
        assert (kernel.user, kernel.mode) == ("rumplab", 0o600)
        assert host.run("grep -qF %s %s", key(host), paths[name]).rc == 0
    # The key is neither in the installed configuration, nor in any other file that others can read. It isn't in the
    # build's log, though the fixture's config(1) prints every option.
    log = host.file(f"{PREFIX}/var/log/build/{COMPONENTS[0]}.log").content_string
    assert "takes `options IPKDB_NE_PCI'" in log
    assert "(a line with the secret in it)" in log
    found = host.run("grep -rlF %s %s /var/cache/rumplab-built /tmp /var/tmp /root", key(host), PREFIX).stdout.split()
    assert sorted({os.path.basename(name) for name in found}) == ["ipkdb.key", "netbsd", "netbsd.gdb"]
    shared = host.run(f"{ALICE} grep -rlF '{key(host)}' {PREFIX}")
    assert shared.stdout == ""
    refused = host.run(f"{ALICE} rumplab guest create nb8 --config ipkdb")
    assert refused.rc == 1
    assert "has a key in it, and only rumplab may read it" in refused.stderr


@pytest.fixture(scope="module", autouse=True)
def home(host: Host) -> None:
    """Make a home for the lab user's guests, since that user has none."""
    host.check_output("install -d -m 700 -o rumplab /home/rumplab")


REFUSALS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown hashes": (
        {"ipkdb_release": "8.3", "ipkdb_hashes": {}},
        "Give ipkdb_hash_list, the file of the release's signed list of hashes, which NetBSD publishes as"
        " pub/NetBSD/security/hashes/NetBSD-8.3_hashes.asc",
    ),
    "no ipkdb": ({"ipkdb_release": "9.4"}, "NetBSD 9.4 has no IPKDB: it was removed in July 2018"),
    "a line": ({"ipkdb_kernel_options": ["optoins X"]}, "syntax error: optoins X"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_is_refused(host: Host, name: str) -> None:
    variables, message = REFUSALS[name]
    done = row(host, **variables)
    assert done.returncode == 2
    assert message in said(done), said(done)
    assert key(host) not in done.stdout + done.stderr


@pytest.fixture
def bridge(host: Host) -> Iterator[Host]:
    """Bring the lab's bridge up and start a guest on it; remove both afterwards."""
    host.check_output("rumplab net up")
    host.check_output(f"{GUEST} create nb8 --config ipkdb --net bridge")
    yield host
    host.run(f"{GUEST} stop --all --now")
    host.check_output(f"{GUEST} delete nb8")
    host.check_output("rumplab net down --force")


def waiting(host: Host) -> dict[str, Any]:
    """Wait until the guest waits in IPKDB and has an address; return its record."""
    deadline = time.monotonic() + SECONDS
    while True:
        (guest,) = json.loads(host.check_output(f"{GUEST} list --json"))
        if guest["state"] == "waits" and guest["ipkdb"] != "bridge":
            return dict(guest)
        assert time.monotonic() < deadline, guest
        time.sleep(0.3)


def test_its_address_comes_by_bootp_and_a_porters_list_passes(bridge: Host) -> None:
    started = bridge.check_output(f"{GUEST} start nb8 --ipkdb")
    assert started.endswith("debug it with: rumplab guest debug nb8")
    place = waiting(bridge)["ipkdb"]
    address = place.partition(":")[0]
    assert place.endswith(":1138")
    assert f"My IP address is {address}" in bridge.check_output(f"{MINE} rumplab logs nb8")
    (lease,) = [item for item in status(bridge)["dhcp"]["leases"] if item["address"] == address]
    (machine,) = json.loads(bridge.check_output(f"{MINE} rumplab ps --json"))
    leased = bridge.check_output("grep %s %s/var/net/leases", lease["mac"], PREFIX).split()
    assert leased[:3] == ["0", lease["mac"], address]
    checked = bridge.run(f"{IPKDB} check-port nb8 --json --pcap /tmp/session.pcap")
    rows = json.loads(checked.stdout)
    assert checked.rc == 0, checked.stdout
    assert {item["result"] for item in rows} <= {"ok", "skipped"}
    assert len(rows) > 10
    assert machine["name"] == "nb8"
    # The checks include wrong keys, so the exit status reports an error.
    decoded = bridge.run(f"{IPKDB} decode /tmp/session.pcap")
    assert decoded.rc == 1
    assert "O open, id" in decoded.stdout
    answers = [line for line in decoded.stdout.splitlines() if f" {place} > " in line]
    assert any("s stopped" in line for line in answers)
    assert all("[HMAC good]" in line for line in answers)
    # Another user can't use the key of a running kernel.
    other = bridge.run(f"{ALICE} rumplab ipkdb connect --target {place} --timeout 1 --stdio </dev/null")
    assert other.rc != 0
    assert key(bridge) not in other.stderr


def test_the_labs_gdb_by_one_command(bridge: Host) -> None:
    bridge.check_output(f"{GUEST} start nb8 --ipkdb")
    words = [
        *("info registers eip cs", "stepi", "set var counter = 41", "print counter", "x/2i $pc", "next", "delete"),
        *("break counter_step if counter > 50", "continue", "print counter > 50", "delete", "detach"),
    ]
    options = " ".join(f"--ex '{word}'" for word in words)
    session = bridge.run(f"{GUEST} debug nb8 counter_step --batch {options} 2>&1 </dev/null")
    assert session.rc == 0, session.stdout
    text = session.stdout
    assert re.search(r"Breakpoint 1, counter_step \(amount=.*\) at .*main\.c:\d+\n", text), text
    # GDB finds the lab's sources of this release.
    assert re.search(r"^\d+\t\s*counter \+= amount;$", text, re.MULTILINE), text
    assert re.search(r"^eip .*<counter_step", text, re.MULTILINE), text
    assert "= 41" in text
    assert re.search(r"^=> 0x[0-9a-f]+ <counter_step\+\d+>:", text, re.MULTILINE), text
    assert re.search(r"Breakpoint 2, counter_step", text), text
    assert "[Inferior 1 (Remote target) detached]" in text
    (guest,) = json.loads(bridge.check_output(f"{GUEST} list --json"))
    assert (guest["state"], guest["debugger"]) == ("running", False)
    broken = bridge.run(f"{GUEST} break nb8")
    assert broken.rc == 1
    assert "it stops at a breakpoint, or in a panic" in broken.stderr
    assert bridge.check_output(f"{GUEST} stop nb8") == "nb8 stopped"


def test_another_key_makes_another_kernel_and_nothing_tells_either(host: Host) -> None:
    before, first = key(host), described(host, COMPONENTS[0])
    tools, another = described(host, COMPONENTS[1]), "words.of_my+own/1234"
    host.check_output("mkdir -p /opt/cache && chown rumplab /opt/cache")
    host.check_output("printf '%%s\\n' %s >%s", another, KEY)
    changed = row(host, "-vvv", rumplab_built_cache="/opt/cache")
    assert changed.returncode == 0, changed.stdout
    second = described(host, COMPONENTS[0])
    assert second["stamp"] != first["stamp"]
    assert described(host, COMPONENTS[1]) == tools
    assert host.run("grep -qF %s %s", another, second["paths"]["kernel"]).rc == 0
    # Other users can read the cache of built trees, so this kernel isn't in it.
    assert host.run("ls /opt/cache").stdout == ""
    assert not [one for one in (before, another) if one in changed.stdout + changed.stderr]
    assert host.run("grep -rF %s %s/var %s/etc/components.d", another, PREFIX, PREFIX).rc == 1


def test_uninstall_takes_the_key_along(host: Host) -> None:
    """Runs last."""
    run = play(ROOT / "playbooks" / "uninstall.yml")
    assert run.returncode == 0, run.stdout
    assert not host.file(PREFIX).exists
