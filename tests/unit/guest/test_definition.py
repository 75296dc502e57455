"""Definitions of guests: create, list, delete, and the errors of each."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import stat
import subprocess
import tempfile
from pathlib import Path

import pytest
from support.labfixture import SOURCE, LabPrefix, host_tool
from unit.commands.test_stage import in_small_disk

from rumplab.guest.definition import open_guests
from rumplab.lab import config

ELF32 = b"\x7fELF\x01\x01" + bytes(10) + b"\x02\x00\x03\x00" + bytes(200)
MULTIBOOT = ELF32 + bytes.fromhex("02b0ad1b03000000fb4f52e4") + bytes(64)


@pytest.fixture
def kernel(tmp_path: Path) -> Path:
    path = tmp_path / "netbsd"
    path.write_bytes(MULTIBOOT)
    return path


@pytest.fixture
def built(empty_lab: LabPrefix, tmp_path: Path) -> LabPrefix:
    """A lab in which role netbsd_guest has built a kernel and a disk."""
    for name in ("netbsd", "netbsd.gdb"):
        (tmp_path / name).write_bytes(ELF32)
    (tmp_path / "root.img").write_bytes(bytes(1024))
    sources = tmp_path / "src"
    sources.mkdir()
    paths = {"kernel": str(tmp_path / "netbsd"), "symbols": str(tmp_path / "netbsd.gdb")}
    empty_lab.component("netbsd_kernel_amd64", paths, version="10.1")
    empty_lab.component("netbsd_disk_amd64", {"disk": str(tmp_path / "root.img")})
    empty_lab.component("netbsd_sources", {"sources": str(sources)})
    return empty_lab


def listed(lab: LabPrefix) -> list[dict[str, object]]:
    result = lab.tool("guest", "list", "--json")
    assert result.returncode == 0, result.stderr
    found: list[dict[str, object]] = json.loads(result.stdout)
    return found


def test_without_a_kernel_the_command_that_builds_one_is_named(empty_lab: LabPrefix) -> None:
    refused = empty_lab.tool("guest", "create", "nb")
    assert refused.returncode == 3
    assert "no NetBSD kernel for amd64 has been built yet" in refused.stderr
    assert "./provision --tags netbsd_guest" in refused.stderr
    assert listed(empty_lab) == []


def test_the_labs_own_kernel(built: LabPrefix, tmp_path: Path) -> None:
    made = built.tool("guest", "create", "nb")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith(f"nb: NetBSD 10.1/amd64, {tmp_path}/netbsd, disk {tmp_path}/root.img; start it with")
    (guest,) = listed(built)
    assert (guest["state"], guest["release"], guest["kept"], guest["pid"]) == ("stopped", "10.1", False, None)
    assert guest["symbols"] == str(tmp_path / "netbsd.gdb")
    table = built.tool("guest", "list").stdout.splitlines()
    assert table[1].split() == ["nb", "stopped", "netbsd-10.1/amd64", "-", "-", "fresh", f"{tmp_path}/netbsd"]


def test_another_release_than_the_labs_is_not_taken(built: LabPrefix) -> None:
    assert built.tool("guest", "create", "nb", "--release", "10.1").returncode == 0
    refused = built.tool("guest", "create", "old", "--release", "8.3")
    assert refused.returncode == 3
    assert "is of NetBSD 10.1, and guest 'old' wants 8.3" in refused.stderr


def test_one_of_the_labs_other_kernels(built: LabPrefix, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(ELF32)
    built.component("netbsd_kernel_amd64_plain", {"kernel": str(other), "symbols": str(other)}, version="10.1")
    made = built.tool("guest", "create", "nb", "--config", "plain")
    assert made.stdout.startswith(f"nb: NetBSD 10.1/amd64, {other}, disk ")
    refused = built.tool("guest", "create", "no", "--config", "nothing")
    assert refused.returncode == 3
    assert "no NetBSD kernel for amd64 called 'nothing' has been built yet" in refused.stderr


def test_a_name_is_taken_once(empty_lab: LabPrefix, kernel: Path) -> None:
    assert empty_lab.tool("guest", "create", "nb", "--kernel", kernel).returncode == 0
    taken = empty_lab.tool("guest", "create", "nb", "--kernel", kernel, "--memory", "1G")
    assert taken.returncode == 1
    assert "a guest called 'nb' exists" in taken.stderr
    assert open_guests(config.load()).find("nb").memory == "256M"


@pytest.mark.parametrize("name", ["a/b", "..", "", "x" * 33])
def test_a_path_is_refused_as_a_name(empty_lab: LabPrefix, kernel: Path, name: str) -> None:
    for words in (["create", name, "--kernel", kernel], ["delete", name], ["debug", name]):
        refused = empty_lab.tool("guest", *words)
        assert refused.returncode == 2
        assert ("argument NAME: is empty" if not name else f"'{name}' can't name a machine") in refused.stderr
    assert listed(empty_lab) == []


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--linux", "K", "--kernel", "K"], "--kernel is for NetBSD"),
        (["--linux", "K", "--arch", "i386"], "--linux is for amd64"),
        (["--initrd", "K"], "--initrd goes with --linux"),
        (["--append", "x"], "--append goes with --linux"),
        (["--kernel", "K", "--config", "x"], "--config and --kernel both"),
        (["--symbols", "K"], "--symbols goes with --kernel"),
        (["--boot", "grub"], "--boot goes with --kernel"),
        (["--kernel", "K", "--root", "wd0a --kdb"], "is not a device"),
        (["--kernel", "K", "--net", "none", "--forward", "1:2"], "--net none leaves no network card"),
        (["--kernel", "K", "--disk", "K"], "is a program, not a disk image"),
    ],
)
def test_contradictions(empty_lab: LabPrefix, kernel: Path, words: list[str], complaint: str) -> None:
    refused = empty_lab.tool("guest", "create", "nb", *(str(kernel) if word == "K" else word for word in words))
    assert refused.returncode == 2, refused.stderr
    assert complaint in refused.stderr


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--kernel", "absent"], "absent: no such file"),
        (["--kernel", "K", "--symbols", "absent"], "absent: no such file"),
        (["--kernel", "K", "--disk", "absent"], "absent: no such file"),
        (["--kernel", "K", "--sources", "absent"], "absent: no such directory"),
        (["--kernel", "TEXT"], "is not an ELF file"),
        (["--kernel", "/bin/ls"], "/bin/ls is a program for an operating system, not a kernel"),
        (["--linux", "K"], "name the bzImage with --bzimage"),
    ],
)
def test_files_that_are_not_there(empty_lab: LabPrefix, kernel: Path, words: list[str], complaint: str) -> None:
    text = kernel.with_name("text")
    text.write_text("a kernel", encoding="utf-8")
    places = {"K": str(kernel), "TEXT": str(text)}
    refused = empty_lab.tool("guest", "create", "nb", *(places.get(word, word) for word in words))
    assert refused.returncode == 1, refused.stderr
    assert complaint in refused.stderr
    assert listed(empty_lab) == []


@pytest.mark.parametrize(("given", "name"), [("DIR", "/usr/src"), ("/usr/src/kgdb=DIR", "/usr/src/kgdb")])
def test_where_the_sources_are(empty_lab: LabPrefix, kernel: Path, given: str, name: str) -> None:
    directory = kernel.with_name("a=b")
    directory.mkdir()
    words = ["--kernel", str(kernel), "--sources", given.replace("DIR", str(directory) if name == "/usr/src" else "/")]
    made = empty_lab.tool("guest", "create", "nb", *words)
    assert made.returncode == 0, made.stderr
    guest = open_guests(config.load()).find("nb")
    assert (guest.source_name, guest.sources) == (name, str(directory) if name == "/usr/src" else "/")


def test_delete(empty_lab: LabPrefix, kernel: Path) -> None:
    empty_lab.tool("guest", "create", "nb", "--kernel", kernel)
    directory = open_guests(config.load()).directory("nb")
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700
    assert empty_lab.tool("guest", "delete", "nb").stdout == "nb deleted\n"
    assert not directory.exists()
    assert kernel.exists()
    again = empty_lab.tool("guest", "delete", "nb")
    assert again.returncode == 1
    assert "no guest is called 'nb'; there is none" in again.stderr


def test_a_definition_that_is_damaged_can_be_deleted(empty_lab: LabPrefix, kernel: Path) -> None:
    empty_lab.tool("guest", "create", "nb", "--kernel", kernel)
    (open_guests(config.load()).directory("nb") / "guest.json").write_text("{", encoding="utf-8")
    refused = empty_lab.tool("guest", "start", "nb")
    assert refused.returncode == 1
    assert "rumplab guest delete nb" in refused.stderr
    assert empty_lab.tool("guest", "delete", "nb").returncode == 0


def test_a_guest_that_does_not_run_says_so(empty_lab: LabPrefix, kernel: Path) -> None:
    empty_lab.tool("guest", "create", "nb", "--kernel", kernel)
    for subverb in ("stop", "console", "break", "debug", "pci"):
        refused = empty_lab.tool("guest", subverb, "nb")
        assert refused.returncode == 1, subverb
        assert refused.stderr == ("rumplab guest: nb is not running; start it with: rumplab guest start nb\n"), subverb


def test_a_guest_on_the_bridge_needs_one(empty_lab: LabPrefix, kernel: Path) -> None:
    empty_lab.component("qemu", {"qemu-system-x86_64": "/bin/true", "qemu-img": "/bin/true"})
    assert empty_lab.tool("guest", "create", "nb", "--kernel", kernel, "--net", "bridge").returncode == 0
    for words in ([], ["--dry-run"]):
        refused = empty_lab.tool("guest", "start", "nb", *words)
        assert refused.returncode == 3
        assert refused.stderr.rstrip().endswith("--tags bridge -e bridge_manage=true")


def test_only_what_takes_more_arguments_gets_them(empty_lab: LabPrefix) -> None:
    refused = empty_lab.tool("guest", "list", "--", "-x")
    assert refused.returncode == 2
    assert "'guest list' takes no arguments after" in refused.stderr


def test_what_a_newer_tool_wrote_is_read(empty_lab: LabPrefix, kernel: Path) -> None:
    empty_lab.tool("guest", "create", "nb", "--kernel", kernel, "--nic", "virtio", "--forward", "8080:80")
    guests = open_guests(config.load())
    path = guests.directory("nb") / "guest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "later": 1}), encoding="utf-8")
    guest = guests.find("nb")
    assert (guest.nics[0].model, guest.nics[0].forwards[0].host) == ("virtio", 8080)


def test_where_the_prefix_is_not_writable_guests_are_in_the_users_state(
    empty_lab: LabPrefix, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    real = os.access

    def access(path: str, mode: int, **more: bool) -> bool:
        return False if mode == os.W_OK and "machines" in str(path) else real(path, mode, **more)

    monkeypatch.setattr(os, "access", access)
    root = open_guests(config.load()).root
    assert root.is_relative_to(tmp_path / "state")
    assert stat.S_IMODE(root.stat().st_mode) == 0o700


def test_a_disk_that_names_other_files_is_taken_when_that_is_asked_for(
    empty_lab: LabPrefix, kernel: Path, tmp_path: Path
) -> None:
    below, disk = tmp_path / "below.img", tmp_path / "disk.qcow2"
    below.write_bytes(bytes(1 << 20))
    tool = host_tool("qemu-img")
    subprocess.run([tool, "create", "-q", "-f", "qcow2", "-b", str(below), "-F", "raw", str(disk)], check=True)
    words = ("guest", "create", "nb", "--kernel", kernel, "--disk", disk)
    refused = empty_lab.tool(*words)
    assert refused.returncode == 1
    assert f"{disk} has the backing file {str(below)!r}" in refused.stderr
    assert listed(empty_lab) == []
    assert empty_lab.tool(*words, "--allow-backing").returncode == 0
    alone = empty_lab.tool("guest", "create", "other", "--kernel", kernel, "--allow-backing")
    assert (alone.returncode, "--allow-backing goes with --disk" in alone.stderr) == (2, True)


def test_the_format_of_a_guests_disk_is_as_on_record(empty_lab: LabPrefix, kernel: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    for name, content in (("first", bytes(4)), ("second", b"QFI\xfb\0\0\0\3")):
        with disk.open("r+b") as stream:
            stream.write(content)
        made = empty_lab.tool("guest", "create", name, "--kernel", kernel, "--disk", disk)
        assert made.returncode == 0, made.stderr
        assert open_guests(config.load()).find(name).disk_format == "raw"


def test_guests_that_are_where_they_were_formerly_are_named(empty_lab: LabPrefix, kernel: Path) -> None:
    for name in ("old", "older"):
        assert empty_lab.tool("guest", "create", name, "--kernel", kernel).returncode == 0
    root = open_guests(config.load()).root
    former = empty_lab.prefix / "var" / "machines" / str(os.getuid()) / ".guests"
    former.mkdir(parents=True)
    for name in ("old", "older"):
        (root / name).rename(former / name)
    said = empty_lab.tool("guest", "list").stderr
    assert f"2 of your guests (old, older) are in {former}" in said
    # The printed remedy works.
    remedy = said.partition("then move each with: ")[2].strip()
    for name in ("old", "older"):
        subprocess.run(["sh", "-c", remedy.replace("NAME", name)], check=True)
    assert [guest["name"] for guest in listed(empty_lab)] == ["old", "older"]
    assert empty_lab.tool("guest", "list").stderr == ""


def test_all_that_a_user_has_of_a_lab_can_be_removed(
    empty_lab: LabPrefix, kernel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    words = {"RUMPLAB_CONFIG": str(empty_lab.config), "PYTHONPATH": str(SOURCE), "HOME": str(home), "TMPDIR": "/tmp"}

    def tool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            empty_lab.argv(*arguments), env=words, capture_output=True, text=True, timeout=60, check=False
        )

    assert tool("guest", "create", "nb", "--kernel", kernel).returncode == 0
    (place,) = (home / ".local" / "state").iterdir()
    other = place.with_name("rumplab-00000000")
    other.mkdir()
    assert tool("stop", "--forget", "nb").returncode == 2
    left = Path(tempfile.gettempdir(), f"rumplab-smoke-{secrets.token_hex(8)}")
    (left / "a").mkdir(parents=True)
    said = tool("stop", "--all", "--forget")
    # Temporary files of a killed run are removed, too.
    assert not left.exists()
    assert (said.returncode, f"{place} removed\n" in said.stdout) == (0, True), said.stderr
    assert list((home / ".local" / "state").iterdir()) == [other]
    other.rmdir()
    assert tool("stop", "--all", "--forget").returncode == 0
    assert list(home.iterdir()) == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a directory to another user")
def test_guests_that_somebody_else_put_where_ones_own_were_are_not_named(empty_lab: LabPrefix) -> None:
    former = empty_lab.prefix / "var" / "machines" / str(os.getuid())
    (former / ".guests" / "theirs").mkdir(parents=True)
    (former / ".guests" / "theirs" / "guest.json").touch()
    assert "theirs" in empty_lab.tool("guest", "list").stderr
    os.chown(former, 65534, -1)
    assert empty_lab.tool("guest", "list").stderr == ""


@pytest.mark.parametrize(("size", "what"), [("1m", "the disk that boots it"), ("9m", "the disk that is kept")])
def test_a_full_disk(lab: LabPrefix, tmp_path: Path, size: str, what: str) -> None:
    """The file system has room for the guest's definition, but not for the files of a start."""
    kernel = tmp_path / "netbsd"
    kernel.write_bytes(ELF32 + bytes(2 << 20))
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    disk = tmp_path / "root.img"
    disk.write_bytes(bytes(1 << 20))
    tool = shlex.join(lab.argv())
    place = lab.runtime
    persist = "--persist" if "kept" in what else ""
    script = (
        f"chmod 1777 . && {tool} guest create nb --kernel {kernel} --disk {disk} >/dev/null"
        f" && {{ {tool} guest start nb {persist}; code=$?; {tool} ps --json; exit $code; }}"
    )
    status, said = in_small_disk(place, size, ["sh", "-c", script], lab.environment)
    assert status == 1, said
    assert re.search(rf"rumplab guest: no space left in {place}.*: {what} takes \d+ MiB, and \d MiB are free", said)
    assert "\n[]\n" in said
