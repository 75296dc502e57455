"""What role lab refuses on a Mac; and uninstalling, which removes what was installed. Runs last."""

from __future__ import annotations

import re
import subprocess

from darwin.mac import CALLS, PREFIX, ROOT, SCENARIO, calls, play
from testinfra.host import Host

BREW = "/opt/homebrew/bin/brew"
OURS = {"e2fsprogs", "gettext", "glib", "i686-elf-grub", "qemu", "util-linux"}


def said(run: subprocess.CompletedProcess[str]) -> str:
    return re.sub(r"\s+", " ", run.stdout + run.stderr)


def test_root_is_told_that_homebrew_refuses_it(host: Host) -> None:
    before = calls(host)
    run = play(SCENARIO / "converge.yml", user="root")
    assert run.returncode != 0
    assert "Homebrew refuses to run as root" in said(run)
    assert calls(host) == before


def test_a_mac_without_homebrew_is_told_to_install_it(host: Host) -> None:
    host.check_output(f"mv {BREW} {BREW}.away")
    try:
        run = play(SCENARIO / "converge.yml", rumplab_prefix="/opt/another")
    finally:
        host.check_output(f"mv {BREW}.away {BREW}")
    assert run.returncode != 0
    assert "There is no Homebrew on" in said(run)
    assert not host.file("/opt/another").exists


def test_uninstall_takes_exactly_the_formulae_that_came(host: Host) -> None:
    # The user installs a formula that needs two of the lab's: these stay, so Homebrew never refuses the removal.
    host.check_output(f"sudo -n -u alice -- {BREW} install gtk")
    host.check_output(f"truncate -s 0 {CALLS}")
    run = play(ROOT / "playbooks" / "uninstall.yml")
    assert run.returncode == 0, run.stdout
    removed = [set(words[4:]) for words in calls(host) if words[:4] == ["alice", "brew", "uninstall", "--force"]]
    assert removed == [OURS - {"gettext", "glib"}]
    assert {words[1] for words in calls(host)} == {"brew"}
    assert set(host.file("/opt/homebrew/Cellar").listdir()) == {"gettext", "glib", "gtk", "pixman", "wget"}


def test_nothing_else_is_left(host: Host) -> None:
    assert not host.file(PREFIX).exists
    host.check_output(f"sudo -n -u alice -- {BREW} uninstall gtk glib gettext")
    assert host.check_output("find /opt/homebrew /usr/local /etc | sort | diff /opt/before/files -") == ""
    assert host.run("cmp /var/lib/dpkg/status /opt/before/status").rc == 0
