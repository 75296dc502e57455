"""Functions for tests with real guests: run plays, start guests as a user, and read the state of the network."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[2]
SCENARIO = ROOT / "molecule" / "bridge"
PREFIX = "/opt/rumplab"
GUEST = "/opt/netguest"
HELPER = "/usr/lib/qemu/qemu-bridge-helper"
# A guest boots in 10 s on a machine of its own; nine times the load takes nine times as long.
BOOT_SECONDS = 240


def play(playbook: Path, **variables: Any) -> subprocess.CompletedProcess[str]:
    """Run a playbook on the scenario's host with these extra variables; return the ended process."""
    command = ["ansible-playbook", "-i", os.environ["MOLECULE_INVENTORY_FILE"], str(playbook)]
    command += ["-e", json.dumps(variables)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


def network(host: Host) -> dict[str, str]:
    """Return the state of the network that must be the same before `rumplab net up` and after `rumplab net down`."""
    sysctls = "grep -r . /proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv4/conf /proc/sys/net/ipv6/conf 2>/dev/null"
    looks = {
        "addr": "ip -j addr",
        "route": "ip -j route show table all",
        "rules": "nft list ruleset",
        "sysctls": f"{sysctls} | grep -v stable_secret | sort",
    }
    return {name: host.check_output(command) for name, command in looks.items()}


def settings(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(f"{PREFIX}/etc/bridge.json").content_string)
    return found


def write_settings(host: Host, **changes: Any) -> None:
    text = json.dumps({**settings(host), **changes})
    host.check_output("printf %%s %s >%s", text, f"{PREFIX}/etc/bridge.json")


def status(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.check_output("rumplab net status --json"))
    return found


class Machine:
    """A guest that a user starts with QEMU directly, on the lab's bridge unless `netdev` is given."""

    def __init__(self, box: Host, name: str, number: int, netdev: str = "", user: str = "alice", **variables: Any):
        self.box, self.name = box, name
        self.log, self.pid_file = f"/tmp/{name}.log", f"/tmp/{name}.pid"
        netdev = netdev or f"bridge,id=n,br=rumplab0,helper={HELPER}"
        append = " ".join(["console=ttyS0 quiet", *(f"{key}={value}" for key, value in variables.items())])
        self.ran = box.run(
            f"rm -f {self.log} {self.pid_file}; runuser -u {user} -- timeout 30 qemu-system-x86_64 -accel tcg -m 256M"
            f" -display none -monitor none -serial file:{self.log} -pidfile {self.pid_file} -daemonize -no-reboot"
            f" -kernel {GUEST}/vmlinuz -initrd {GUEST}/initrd -append '{append}'"
            f" -netdev {netdev} -device e1000,netdev=n,mac=52:54:00:00:00:{number:02x}"
        )

    def said(self) -> str:
        text: str = self.box.check_output(f"cat {self.log}")
        return text

    def wait(self, text: str, seconds: float = BOOT_SECONDS) -> str:
        """Wait for a line with `text` in the console's output, and return it. Raise AssertionError after `seconds`."""
        deadline = time.monotonic() + seconds
        while True:
            found = [line.strip() for line in self.said().splitlines() if text in line]
            if found:
                return found[0]
            assert time.monotonic() < deadline, f"{self.name} did not say '{text}':\n{self.said()}"
            time.sleep(0.3)

    def address(self) -> str:
        """Return the address of the guest's lease."""
        return self.wait("netguest: lease").split()[2].split("/")[0]

    def end(self) -> None:
        """Kill the QEMU of this guest, if it still runs."""
        self.box.run(f"test ! -e {self.pid_file} || kill -KILL $(cat {self.pid_file})")
        deadline = time.monotonic() + 10
        while self.box.run(f"test -e {self.pid_file} && kill -0 $(cat {self.pid_file})").rc == 0:
            # The container's first process doesn't reap zombies; a zombie has released its resources.
            stat = self.box.run(f"cat /proc/$(cat {self.pid_file})/stat").stdout
            if stat.rpartition(")")[2].split()[:1] == ["Z"]:
                return
            assert time.monotonic() < deadline
            time.sleep(0.1)
