"""Network cards: options, addresses, QEMU's command line, and how machines share a bridge."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from support.labfixture import LabPrefix
from support.standin import PROGRAM
from unit.network.test_settings import GOOD

from rumplab.cli import main, network_options
from rumplab.commands import run
from rumplab.errors import NotProvisioned, RumplabError, UsageError
from rumplab.host import ports
from rumplab.lab import config
from rumplab.machine import macs, nics, registry
from rumplab.machine.nics import Forward, Link, Nic
from rumplab.machine.registry import Machine, Machines
from rumplab.network import attachment

LINUX, MACOS = "linux", "darwin"
LINK = Link("bridge", ",br=rumplab0,helper=/h")
BRIDGED = Nic(net="bridge", mac="")


def parsed(*options: str, platform: str = LINUX) -> tuple[Nic, ...]:
    parser = argparse.ArgumentParser()
    network_options.add_arguments(parser)
    return network_options.cards(parser.parse_args(options), platform)


def test_the_default_is_one_e1000_on_the_user_network() -> None:
    assert parsed() == (Nic("e1000", "user", "54:54:00:55:55:55"),)
    assert nics.argv(parsed(), None, pci_bridge=True) == [
        *("-device", "pci-bridge,chassis_nr=2,id=pci.1,bus=pci.0,addr=3"),
        *("-netdev", "user,id=net0,net=192.168.76.0/24,dhcpstart=192.168.76.9,restrict=on"),
        *("-device", "e1000,netdev=net0,mac=54:54:00:55:55:55,bus=pci.1,addr=1"),
    ]


def test_more_cards_have_slots_addresses_and_subnets_of_their_own() -> None:
    cards = parsed(*("--nic", "virtio") * 8)
    argv = nics.argv(cards, None, pci_bridge=True)
    assert [word for word in argv if word.startswith("virtio")] == [
        f"virtio-net-pci,netdev=net{number},mac=54:54:00:55:55:{0x55 + number:02x},bus=pci.1,addr={number + 1}"
        for number in range(8)
    ]
    subnets = [word.split(",")[2] for word in argv if word.startswith("user")]
    assert subnets == [f"net=192.168.{76 + number}.0/24" for number in range(8)]
    with pytest.raises(UsageError, match="takes 8 network cards, not 9"):
        parsed(*("--nic", "virtio") * 9)


def test_models_networks_and_addresses_can_be_mixed() -> None:
    cards = parsed("--net", "bridge", "--nic", "ne2k_pci", "--nic", "rtl8139,net=user,mac=02-AA-00-00-00-01")
    assert cards == (Nic("ne2k_pci", "bridge", ""), Nic("rtl8139", "user", "02:aa:00:00:00:01"))
    argv = nics.argv(nics.with_macs(cards, "0 m", ()), LINK, pci_bridge=False)
    assert argv == [
        *("-netdev", "bridge,id=net0,br=rumplab0,helper=/h"),
        *("-device", "ne2k_pci,netdev=net0,mac=54:54:00:55:55:55,bus=pci.0,addr=3"),
        *("-netdev", "user,id=net1,net=192.168.77.0/24,dhcpstart=192.168.77.9,restrict=on"),
        *("-device", "rtl8139,netdev=net1,mac=02:aa:00:00:00:01,bus=pci.0,addr=4"),
    ]


def test_a_card_with_a_fixed_slot_gets_it_whatever_other_cards_there_are() -> None:
    cards = (Nic(), Nic("ne2k_pci", slot=3))
    places = [word.partition(",bus=")[2] for word in nics.argv(cards, None, pci_bridge=True) if ",bus=" in word]
    assert places == ["pci.0,addr=4", "pci.1,addr=1", "pci.0,addr=3"]
    places = [word.partition(",bus=")[2] for word in nics.argv(cards, None, pci_bridge=False) if ",bus=" in word]
    assert places == ["pci.0,addr=4", "pci.0,addr=3"]


def test_mac_is_the_first_cards() -> None:
    first, second = parsed("--mac", "02:00:00:00:00:07", "--nic", "e1000", "--nic", "virtio")
    assert (first.mac, second.mac) == ("02:00:00:00:00:07", "54:54:00:55:55:56")


def test_no_network_means_no_card() -> None:
    assert nics.argv(parsed("--net", "none"), None, pci_bridge=False) == ["-nic", "none"]


def test_forwards_go_to_the_first_card_on_a_user_network() -> None:
    cards = parsed("--forward", "8080:80", "--forward", "udp:5353:53", "--nic", "e1000,net=bridge", "--nic", "virtio")
    assert cards[0].forwards == ()
    assert cards[1].forwards == (Forward("tcp", 8080, 80), Forward("udp", 5353, 53))
    assert nics.user_netdev(cards[1], 1).endswith(",hostfwd=tcp:127.0.0.1:8080-:80,hostfwd=udp:127.0.0.1:5353-:53")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--net", "none", "--nic", "e1000"), "--net none leaves no network card for --nic"),
        (("--net", "none", "--mac", "02:00:00:00:00:01"), "no network card for --mac"),
        (("--net", "none", "--forward", "1:1"), "no network card for --forward"),
        (("--net", "bridge", "--forward", "8080:80"), "--forward is for a user network"),
        (("--forward", "80:80", "--forward", "tcp:80:81"), "port tcp:80 is forwarded twice"),
        (("--mac", "02:00:00:00:00:01", "--nic", "e1000,mac=02:00:00:00:00:02"), "both give an address"),
        (
            ("--nic", "e1000,mac=02:00:00:00:00:01", "--nic", "e1000,mac=02:00:00:00:00:01"),
            "two network cards have the address 02:00:00:00:00:01",
        ),
        (("--net", "bridge", "--vmnet", "host"), "--vmnet is for macOS"),
    ],
)
def test_contradictions(options: tuple[str, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        parsed(*options)


@pytest.mark.parametrize("text", ["80", "0:80", "80:0", "65536:1", "sctp:1:2", "1:2:3", "127.0.0.1:1:2", "²:1"])
def test_bad_forwards(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match="is not a forward; use HOST:GUEST"):
        network_options.forward(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("tulip", "'tulip' is not a card; use one of e1000, virtio, ne2k_pci, rtl8139"),
        ("e1000,net=none", "'net=none' in .* is not a setting"),
        ("e1000,vlan=3", "'vlan=3' in .* is not a setting"),
        ("e1000,net=user,net=bridge", "'net=bridge' in .* once each"),
        ("e1000,mac=1", "'1' is not an Ethernet address"),
    ],
)
def test_bad_cards(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        network_options.nic(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("54:54:00:55:55", "is not an Ethernet address"),
        ("54:54:00:55:55:5g", "is not an Ethernet address"),
        ("54:54:00:55:55:55,x=y", "is not an Ethernet address"),
        ("01:00:5e:00:00:01", "is a group address"),
        ("00:00:00:00:00:00", "is no network card's address"),
    ],
)
def test_bad_addresses(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        macs.parse(text)


def test_derived_addresses_are_local_unicast_and_stable() -> None:
    mac = macs.derived("0 hello 0")
    assert mac == macs.derived("0 hello 0") == macs.parse(mac)
    assert mac != macs.derived("0 hello-2 0")
    assert int(mac[:2], 16) & 3 == 2
    assert macs.next_after("54:54:00:ff:ff:ff", 1) == "54:54:00:00:00:00"


def test_choosing_goes_on_until_an_address_is_free() -> None:
    taken = {macs.DEFAULT}
    for _ in range(4):
        mac = macs.choose("seed", taken)
        assert mac not in taken
        taken.add(mac)


def test_the_learned_addresses_of_a_bridge_do_not_include_its_ports(tmp_path: Path) -> None:
    (tmp_path / "br0").mkdir()
    entries = bytes.fromhex("fe968b0f66ae0201" + "00" * 8 + "5254000102030100" + "00" * 8 + "ffff")
    (tmp_path / "br0" / "brforward").write_bytes(entries)
    assert macs.learned("br0", tmp_path) == {"52:54:00:01:02:03"}
    assert macs.learned("none", tmp_path) == frozenset()


@pytest.fixture
def store(tmp_path: Path) -> Machines:
    root = tmp_path / "machines"
    root.mkdir()
    return Machines(root)


def wanted(name: str, *cards: Nic, port: int = 0) -> Machine:
    return Machine(name=name, directory="", gdb_port=port, nics=cards)


def test_the_second_machine_on_the_bridge_gets_an_address_of_its_own(store: Machines) -> None:
    first = store.claim(wanted("a", BRIDGED), numbered=False)
    second = store.claim(wanted("b", BRIDGED), numbered=False)
    third = store.claim(wanted("c", BRIDGED, BRIDGED), numbered=False)
    found = [card.mac for machine in (first, second, third) for card in machine.nics]
    assert found[0] == macs.DEFAULT
    assert len(set(found)) == 4
    store.retire(second)
    again = store.claim(wanted("b", BRIDGED), numbered=False)
    assert again.nics == second.nics


def test_an_address_that_the_bridge_has_seen_is_avoided(store: Machines) -> None:
    mac = store.claim(wanted("a", BRIDGED), numbered=False, seen_macs={macs.DEFAULT}).nics[0].mac
    assert mac.startswith("52:54:00:")
    with pytest.raises(RumplabError, match="another device on the bridge has the address"):
        store.claim(wanted("b", replace(BRIDGED, mac="02:00:00:00:00:01")), False, {"02:00:00:00:00:01"})


def test_a_clash_on_the_bridge_names_the_machine(store: Machines) -> None:
    store.claim(wanted("a", BRIDGED), numbered=False)
    given = replace(BRIDGED, mac=macs.DEFAULT)
    with pytest.raises(RumplabError, match=rf"{macs.DEFAULT} is the address of machine 'a' \(pid \d+\)"):
        store.claim(wanted("b", given), numbered=False)
    # Each machine has its own user network, so the default address is free there.
    assert store.claim(wanted("b", Nic()), numbered=False).nics[0].mac == macs.DEFAULT
    # Two cards of one machine must not both have the default address.
    both = store.claim(wanted("c", Nic(), BRIDGED), numbered=False)
    assert both.nics[1].mac != macs.DEFAULT


def test_cards_survive_the_record(store: Machines) -> None:
    card = Nic("virtio", forwards=(Forward("udp", ports.free(), 2),))
    machine = store.claim(wanted("a", card, BRIDGED), numbered=False)
    assert store.find("a") == machine
    data = [{**asdict(card), "later": 1}]
    assert nics.from_data(data) == (card,)


def test_a_record_without_cards_is_one_of_an_earlier_tool(store: Machines) -> None:
    machine = store.claim(wanted("a"), numbered=False)
    path = machine.path / registry.RECORD
    data = json.loads(path.read_text(encoding="utf-8"))
    del data["nics"]
    path.write_text(json.dumps(data), encoding="utf-8")
    assert store.find("a").nics == ()


def test_ports_of_forwards_are_claimed_too(store: Machines) -> None:
    port = ports.free()
    store.claim(wanted("a", Nic(forwards=(Forward("tcp", port, 80), Forward("udp", 5353, 53)))), numbered=False)
    with pytest.raises(RumplabError, match=rf"port tcp:{port} is taken by machine 'a' .* another --forward"):
        store.claim(wanted("b", Nic(forwards=(Forward("tcp", port, 81),))), numbered=False)
    with pytest.raises(RumplabError, match=r"port udp:5353 is taken by machine 'a'"):
        store.claim(wanted("b", Nic(forwards=(Forward("udp", 5353, 53),))), numbered=False)
    with pytest.raises(RumplabError, match=rf"port {port} is taken by machine 'a' .* another --gdb-port"):
        store.claim(wanted("b", port=port), numbered=False)
    store.claim(wanted("b", Nic(forwards=(Forward("udp", port, 80),))), numbered=False)


def bridge(lab: LabPrefix, helper: Path, name: str = "rumplab0") -> None:
    """Make the files of role bridge."""
    helper.write_text("#!/bin/sh\n", encoding="utf-8")
    helper.chmod(0o755)
    lab.component("bridge", {"qemu-bridge-helper": str(helper)})
    settings = {**GOOD, "bridge": name, "group": "labgroup"}
    (lab.prefix / "etc" / "bridge.json").write_text(json.dumps(settings), encoding="utf-8")


def test_the_bridge_is_reached_by_its_helper(empty_lab: LabPrefix, tmp_path: Path) -> None:
    bridge(empty_lab, tmp_path / "it's, a helper")
    way = attachment.find(config.load(), None, LINUX)
    assert way.link.kind == "bridge"
    quoted = str(tmp_path / "it's, a helper").replace("'", "'\"'\"'").replace(",", ",,")
    assert way.link.options == f",br=rumplab0,helper='{quoted}'"
    assert (way.bridge, way.group) == ("rumplab0", "labgroup")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo access denied by acl file >&2; exit 1", "access denied by acl file; the bridge's name must stand in"),
        ("echo first >&2; echo 'no such bridge' >&2; exit 1", "no such bridge; bring the bridge up again"),
        ("exit 1", "it printed nothing"),
        ("exit 0", "has opened no tap on rumplab0"),
    ],
)
def test_the_helpers_reason_for_a_refusal_is_shown(
    empty_lab: LabPrefix, tmp_path: Path, script: str, message: str
) -> None:
    helper = tmp_path / "helper"
    bridge(empty_lab, helper)
    helper.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    way = attachment.find(config.load(), None, LINUX)
    with pytest.raises(RumplabError, match=message), attachment.opened(way, [Nic(net="bridge")]):
        pass


def test_each_card_on_the_bridge_has_its_own_tap_during_the_start(empty_lab: LabPrefix, tmp_path: Path) -> None:
    """A stand-in for the helper, which sends another descriptor in place of a tap's."""
    helper = tmp_path / "helper"
    bridge(empty_lab, helper)
    helper.write_text(
        f"#!{sys.executable}\nimport socket, sys\n"
        "assert sys.argv[1:3] == ['--use-vnet', '--br=rumplab0']\n"
        "with socket.socket(fileno=int(sys.argv[3].partition('=')[2])) as line:\n"
        "    socket.send_fds(line, [b'x'], [0])\n",
        encoding="utf-8",
    )
    way = attachment.find(config.load(), None, LINUX)
    cards = (Nic(net="bridge"), Nic(), Nic(net="bridge"))
    with attachment.opened(way, cards) as link:
        assert link is not None and not link.spawns
        words = nics.argv(cards, link, pci_bridge=True)
        given = [words[at + 1] for at, word in enumerate(words) if word == "-netdev"]
        assert given[::2] == [f"tap,id=net0,fd={link.taps[0]}", f"tap,id=net2,fd={link.taps[1]}"]
        for tap in link.taps:
            assert os.path.exists(f"/dev/fd/{tap}") and not os.get_inheritable(tap)
    for tap in link.taps:
        with pytest.raises(OSError):
            os.fstat(tap)
    with attachment.opened(None, cards) as nothing:
        assert nothing is None


def test_without_a_bridge_the_message_has_the_command(empty_lab: LabPrefix, tmp_path: Path) -> None:
    command = r"\./provision --tags bridge -e bridge_manage=true$"
    with pytest.raises(NotProvisioned, match=f"bridge is not provisioned; run: {command}"):
        attachment.find(config.load(), None, LINUX)
    bridge(empty_lab, tmp_path / "helper")
    (empty_lab.prefix / "etc" / "bridge.json").unlink()
    with pytest.raises(NotProvisioned, match=r"set bridge_manage: true and run: \./provision --tags bridge$"):
        attachment.find(config.load(), None, LINUX)
    bridge(empty_lab, tmp_path / "helper")
    (tmp_path / "helper").unlink()
    with pytest.raises(NotProvisioned, match=f"helper of component bridge is missing; .*{command}"):
        attachment.find(config.load(), None, LINUX)


def test_the_bridges_settings_are_checked(empty_lab: LabPrefix, tmp_path: Path) -> None:
    bridge(empty_lab, tmp_path / "helper", "a,helper=/bin/sh")
    with pytest.raises(RumplabError, match=r"bridge\.json: bridge: .* longer than the 15 characters"):
        attachment.find(config.load(), None, LINUX)


def test_a_bridge_that_is_down_or_forbidden_is_reported_before_the_start(
    empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge(empty_lab, tmp_path / "helper", "nonesuch0")
    way = attachment.find(config.load(), None, LINUX)
    with pytest.raises(RumplabError, match="nonesuch0 is not up; bring it up: sudo rumplab net up"):
        attachment.check(way, uid=1000)
    attachment.check(way, uid=1000, index=lambda name: 1)
    (tmp_path / "helper").chmod(0o644)
    monkeypatch.setenv("LOGNAME", "jo")
    with pytest.raises(RumplabError, match=r"for members of group labgroup; sudo usermod -aG labgroup jo"):
        attachment.check(way, uid=1000, index=lambda name: 1)


@pytest.mark.parametrize(
    ("options", "kind"), [((), "shared"), (("--vmnet", "shared"), "shared"), (("--vmnet", "host"), "host")]
)
def test_macos_has_vmnet_and_needs_root(
    empty_lab: LabPrefix, tmp_path: Path, options: tuple[str, ...], kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator, program = tmp_path / "qemu", tmp_path / "x.bin"
    emulator.touch()
    program.write_bytes(PROGRAM)
    empty_lab.component("qemu", {"qemu-system-x86_64": str(emulator)})
    args = main.verb_parser("run", run).parse_args(
        [str(program), "--accel", "tcg", "--net", "bridge", "--dry-run", *options]
    )
    args.extra = []
    assert run.run(args, platform=MACOS) == 0
    assert f" -netdev vmnet-{kind},id=net0 -device e1000,netdev=net0,mac=54:54:00:55:55:55," in capsys.readouterr().out
    with pytest.raises(RumplabError, match=r"lets only root use vmnet.*sudo rumplab run"):
        attachment.check(attachment.find(config.load(), kind, MACOS), uid=501)
    attachment.check(attachment.find(config.load(), kind, MACOS), uid=0)


def test_vmnet_without_the_bridge() -> None:
    with pytest.raises(UsageError, match="--vmnet goes with --net bridge"):
        parsed("--vmnet", "host", platform=MACOS)
