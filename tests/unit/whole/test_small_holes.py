"""Former small faults of the command line: each was a hang, a traceback, a lost argument or a foreign message."""

from __future__ import annotations

import grp
import json
import os
import subprocess
from pathlib import Path

import pytest
from support.labfixture import LabPrefix

from rumplab.building import explain
from rumplab.guest.definition import FILE, open_guests
from rumplab.host import accounts
from rumplab.lab import config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("stage", "x", "-o", "y", "--volume", ""), "argument --volume: is empty"),
        (("stage", "", "-o", "y"), "argument PROGRAM: is empty"),
        (("build", ""), "argument DIR|FILE: is empty"),
        (("logs", ""), "argument NAME: is empty"),
        (("logs", ".."), "'..' can't name a machine"),
        (("logs", "a/b"), "'a/b' can't name a machine"),
        (("guest", "stop", "g", "--timeout", "nan"), "'nan' is not a number of seconds"),
        (("guest", "stop", "g", "--timeout", "-5"), "--timeout"),
        (("guest", "debug", "g", "--timeout", "inf"), "'inf' is not a number of seconds"),
        (("smoke", "--timeout", "9" * 21), "is not a number of seconds"),
    ],
)
def test_empty_and_meaningless_arguments_are_refused(
    empty_lab: LabPrefix, arguments: tuple[str, ...], message: str
) -> None:
    result = empty_lab.tool(*arguments, timeout=20)
    assert result.returncode == 2, result.stderr
    assert message in result.stderr


def test_two_dashes_can_be_a_value(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    result = lab.tool("stage", pcihello, "-o", tmp_path / "x.img", "--args=--")
    assert result.returncode == 0, result.stderr
    assert json.loads((tmp_path / "x.img.rumplab.json").read_text())["args"] == "--"


def test_a_volume_may_have_deeply_nested_directories(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    top = tmp_path / "www"
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    try:
        for _ in range(1100):
            os.mkdir("d", dir_fd=here)
            deeper = os.open("d", os.O_RDONLY, dir_fd=here)
            os.close(here)
            here = deeper
    finally:
        os.close(here)
    result = lab.tool("stage", pcihello, "-o", tmp_path / "x.img", "--volume", top)
    # pytest can't remove it: its cleanup recurses, and Python's stack is limited.
    subprocess.run(["rm", "-rf", top], check=True, timeout=60)
    assert "Traceback" not in result.stderr
    assert result.returncode in (0, 1)


@pytest.mark.parametrize(
    "changes",
    [{"kernel": 7}, {"nics": [{"model": "zz"}]}, {"nics": [{"net": 3}]}, {"kind": "os2"}, {"pci_bridge": "yes"}],
)
def test_a_damaged_guest_hides_no_other(lab: LabPrefix, pcihello: Path, changes: dict[str, object]) -> None:
    for name in ("good", "hurt"):
        made = lab.tool("guest", "create", name, "--kernel", pcihello)
        assert made.returncode == 0, made.stderr
    path = open_guests(config.load()).directory("hurt") / FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    listed = lab.tool("guest", "list", "--json")
    assert listed.returncode == 1
    assert [guest["name"] for guest in json.loads(listed.stdout)] == ["good"]
    assert "remove it: rumplab guest delete hurt" in listed.stderr
    assert "hurt" in lab.tool("guest", "stop", "--all").stderr
    assert lab.tool("guest", "delete", "hurt").returncode == 0
    assert lab.tool("guest", "list").returncode == 0


def test_a_linux_without_symbols_is_refused(lab: LabPrefix, tmp_path: Path) -> None:
    kernel = tmp_path / "vmlinuz"
    kernel.write_bytes(b"MZ" + bytes(0x200) + b"HdrS" + bytes(9000))
    result = lab.tool("guest", "create", "lx", "--linux", kernel, "--bzimage", kernel)
    assert result.returncode == 2
    assert "name the file with the symbols" in result.stderr


def test_stdio_needs_a_pipe(empty_lab: LabPrefix, key_file: Path) -> None:
    result = empty_lab.tool("ipkdb", "connect", "--target", "127.0.0.1:1", "--key-file", key_file, "--stdio")
    assert result.returncode == 1
    assert "--stdio is for GDB's own pipe" in result.stderr


def test_the_error_for_a_file_size_limit_names_ulimit(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    script = 'ulimit -f 100; exec "$@"'
    argv = ["sh", "-c", script, "sh", *lab.argv("stage", pcihello, "-o", tmp_path / "x.img")]
    done = subprocess.run(argv, env=lab.environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "(ulimit -f)" in done.stderr or "File too large" in done.stderr
    assert list(tmp_path.glob(".rumplab*")) == []
    assert explain.ending(-9).startswith("ended by SIGKILL")


def remedy(path: Path, mode: int, group: int) -> str:
    path.chmod(mode)
    os.chown(path, -1, group)
    return accounts.how_to_open(path, "kvm")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root: gives a file away")
def test_a_remedy_fits_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    device.touch()
    daemon = grp.getgrnam("daemon").gr_gid
    monkeypatch.setattr(os, "getegid", lambda: 12345)
    monkeypatch.setattr(os, "getgroups", list)
    monkeypatch.setattr(accounts, "account_name", lambda: "ann")
    for mode, group in ((0o600, daemon), (0o660, 0), (0o600, 0), (0o640, daemon)):
        said = remedy(device, mode, group)
        assert "-aG root" not in said
        assert 'KERNEL=="kvm", GROUP="kvm", MODE="0660"' in said
        assert f"(mode {mode:o})" in said
    joined = f"let your account open {device}: sudo usermod -aG daemon ann, then log in again"
    assert remedy(device, 0o660, daemon) == joined
    monkeypatch.setattr(os, "getgroups", lambda: [daemon])
    assert "something else forbids it" in remedy(device, 0o660, daemon)


def test_a_user_who_is_already_in_the_group_must_only_log_in_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accounts, "account_name", lambda: "ann")
    monkeypatch.setattr(accounts.grp, "getgrnam", lambda name: grp.struct_group((name, "x", 7, ["ann"])))
    assert "log in again" in accounts.how_to_join("lab")
    assert "usermod" not in accounts.how_to_join("lab")
