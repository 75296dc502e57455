"""`rumplab ipkdb`: valid command lines, the targets that it may contact, and how it finds them."""

from __future__ import annotations

import json
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from support.labfixture import LabPrefix

from rumplab.cli import ipkdb_target, main
from rumplab.commands import ipkdb
from rumplab.errors import RumplabError, UsageError
from rumplab.ipkdb import console_messages, key, reach
from rumplab.lab import config
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.registry import Machine

BRIDGE = {
    "schema": 1,
    "bridge": "rumplab0",
    "address": "10.0.1.1/24",
    "mac": "02:00:00:00:00:01",
    "dhcp": ["10.0.1.50", "10.0.1.99"],
    "nat": False,
    "group": "lab",
    "persistent": "none",
}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("", "required: SUBCOMMAND"),
        ("connect", "name one target"),
        ("connect netbsd --target 127.0.0.1", "name one target"),
        ("connect netbsd other", "unrecognized arguments: other"),
        ("connect netbsd --json", "unrecognized arguments: --json"),
        ("connect netbsd --bus pci", "unrecognized arguments: --bus"),
        ("connect netbsd --port 99 --stdio", "both say how GDB connects"),
        ("decode", "required: FILE"),
        ("decode x --target 127.0.0.1", "unrecognized arguments: --target"),
        ("check-port", "name one target"),
        ("check-port netbsd --stdio", "unrecognized arguments: --stdio"),
        ("new-port --interface xx", "required: --bus"),
        ("new-port x --interface xx --bus pci", "unrecognized arguments: x"),
    ],
)
def test_contradictory_command_lines_are_usage_errors(
    words: str, complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status_of("ipkdb", *words.split()) == 2
    assert complaint in capsys.readouterr().err


def status_of(*words: str) -> int | str | None:
    """Return the exit status of a command line, whether main() returns it or raises SystemExit."""
    try:
        return main.main([*words])
    except SystemExit as leaving:
        return leaving.code


def test_a_machine_may_be_called_like_a_sub_command(empty_lab: LabPrefix, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ipkdb", "connect", "decode"]) == 1
    assert "no machine called 'decode'" in capsys.readouterr().err


def test_a_command_line_of_the_last_release_works_with_a_warning(
    empty_lab: LabPrefix, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main.main(["ipkdb", "netbsd"]) == 1
    said = capsys.readouterr().err
    assert "use 'rumplab ipkdb connect …'" in said
    assert "no machine called 'netbsd'" in said
    new = tmp_path / "new"
    assert main.main(["ipkdb", *f"new-port --interface xx --bus pci --machine zz -o {new}".split()]) == 0
    assert "use --sys-arch instead of --machine" in capsys.readouterr().err
    assert list(new.rglob("zz"))


@pytest.mark.parametrize(
    "text", ["", "host", "1.2.3", "1.2.3.4:", "1.2.3.4:0", "1.2.3.4:99999", "1.2.3.4:x", "::1", "1.2.3.999"]
)
def test_invalid_addresses_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        reach.parse(text)
    assert reach.parse("1.2.3.4") == (IPv4Address("1.2.3.4"), 1138)
    assert reach.parse("1.2.3.4:9") == (IPv4Address("1.2.3.4"), 9)


def test_without_a_key_nothing_is_sent(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(key.VARIABLE, raising=False)
    assert main.main(["ipkdb", "connect", "--target", "127.0.0.1"]) == 2
    assert "--key-file" in capsys.readouterr().err


def test_key_of_the_lab_serves_where_no_other_is_given(empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(key.VARIABLE, raising=False)
    path = empty_lab.prefix / "etc" / "ipkdb.key"
    path.write_text("the key of the lab itself\n")
    path.chmod(0o600)
    args = main.verb_parser("ipkdb", ipkdb).parse_args(["connect", "--target", "127.0.0.1"])
    assert ipkdb_target.plan_of(args).key == b"the key of the lab itself"


def test_addresses_outside_the_lab_need_consent(empty_lab: LabPrefix, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ipkdb", "connect", "--target", "192.0.2.1"]) == 1
    assert "--i-know" in capsys.readouterr().err
    allowed = [IPv4Network("127.0.0.0/8"), IPv4Network("10.0.1.0/24")]
    for text in ("127.0.0.1", "10.0.1.50"):
        reach.check(IPv4Address(text), allowed, False)
    for text in ("10.0.2.1", "8.8.8.8", "255.255.255.255"):
        with pytest.raises(RumplabError, match=r"127\.0\.0\.0/8, 10\.0\.1\.0/24.*--i-know"):
            reach.check(IPv4Address(text), allowed, False)
        reach.check(IPv4Address(text), allowed, True)


@pytest.mark.parametrize("text", ["192.168.76.9", "192.168.83.9"])
def test_addresses_inside_qemu_are_explained(text: str) -> None:
    with pytest.raises(RumplabError, match="--forward udp:1138:1138"):
        reach.check(IPv4Address(text), [], False)
    with pytest.raises(RumplabError, match="--i-know"):
        reach.check(IPv4Address("192.168.84.9"), [], False)


def test_networks_of_the_lab(empty_lab: LabPrefix) -> None:
    assert reach.networks(None) == [IPv4Network("127.0.0.0/8")]
    assert reach.networks(config.load()) == [IPv4Network("127.0.0.0/8")]
    (empty_lab.prefix / "etc" / "bridge.json").write_text(json.dumps(BRIDGE))
    assert reach.networks(config.load()) == [IPv4Network("127.0.0.0/8"), IPv4Network("10.0.1.0/24")]


def machine(*cards: Nic) -> Machine:
    return Machine(name="netbsd", directory="", gdb_port=1, nics=cards)


def test_machine_is_found_by_its_forward_or_its_lease(empty_lab: LabPrefix) -> None:
    lab = config.load()
    forwarded = machine(Nic(forwards=(Forward("tcp", 1138, 1138), Forward("udp", 2138, 1138))))
    assert reach.place_of(forwarded, lab) == (IPv4Address("127.0.0.1"), 2138)
    bridged = machine(Nic("ne2k_pci", "bridge", "52:54:00:00:00:07"))
    with pytest.raises(RumplabError, match="no lease"):
        reach.place_of(bridged, lab)
    (empty_lab.prefix / "var" / "net").mkdir()
    (empty_lab.prefix / "var" / "net" / "leases").write_text("0 52:54:00:00:00:07 10.0.1.51 * *\n")
    assert reach.place_of(bridged, lab) == (IPv4Address("10.0.1.51"), 1138)
    with pytest.raises(UsageError, match="--forward udp:1138:1138"):
        reach.place_of(machine(Nic()), lab)


def test_machine_that_doesnt_run(empty_lab: LabPrefix, capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["ipkdb", "connect", "netbsd"]) == 1
    assert "no machine called 'netbsd'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("NetBSD 8.3\nStopped in pid 0.1 at netbsd:breakpoint+0x5\ndb> ", "no options DDB"),
        ("IPKDB: No interface found!\n", "IPKDB_NE_PCISLOT"),
        ("IPKDBKEY must be at least 16 bytes long!\n", "too short"),
        ("db> c\nMy IP address is 10.0.1.51\nwaiting for remote debugger\n", "the key may be wrong"),
        ("kgdb waiting...", "KGDB"),
        ("NetBSD 8.3 (GENERIC)", ""),
        ("", ""),
    ],
)
def test_the_console_log_explains_why_the_kernel_does_not_answer(text: str, meaning: str, tmp_path: Path) -> None:
    log = tmp_path / "serial.log"
    log.write_text("x" * 100_000 + text)
    said = console_messages.meaning(log)
    assert meaning in said and bool(meaning) == bool(said)
    assert console_messages.meaning(tmp_path / "absent") == ""
