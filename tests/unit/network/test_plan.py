"""From the observed state of a host to the steps or an error, without a host."""

from __future__ import annotations

import json
import math
import os
import threading
from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from unit.network.test_settings import parsed

from rumplab.errors import RumplabError
from rumplab.machine import qemu_argv
from rumplab.network import dhcp, firewall, plan, record, report, seen
from rumplab.network.plan import Tools
from rumplab.network.ports import RECORD_BYTES, Port, holders_of_taps, identify, machine_name
from rumplab.network.record import Record
from rumplab.network.seen import Link, Route, Seen
from rumplab.network.steps import Run, Sysctl, Write, script

OURS = parsed()
OTHER = Link("eth0", mac="52:54:00:00:00:01", up=True, addresses=(IPv4Interface("192.168.1.5/24"),))
BRIDGE = Link("rumplab0", "bridge", OURS.mac, up=True, addresses=(OURS.address,))
UP = Seen(
    links=(OTHER, BRIDGE),
    routes=(Route(OURS.network, ("rumplab0",)),),
    tables=frozenset({firewall.TABLE}),
    sysctls={"ip_forward": "0"},
    dhcp=(42, "token"),
)
BARE = Seen(links=(OTHER,), sysctls={"ip_forward": "0", "conf/eth0/forwarding": "1"})


@pytest.fixture
def tools(tmp_path: Path) -> Tools:
    return Tools("/sbin/ip", "/sbin/nft", "/sbin/dnsmasq", tmp_path, "nobody")


def commands(steps: list[plan.Step]) -> list[str]:
    return [" ".join(step.argv[1:4]) for step in steps if isinstance(step, Run)]


def test_everything_is_made_on_a_bare_host(tools: Tools) -> None:
    steps = plan.up(OURS, BARE, Record(OURS, "s"), tools)
    assert [words.split()[0] for words in commands(steps)] == ["link", "-f", "addr", "link", "--conf-file=/dev/null"]


def test_nothing_is_made_twice(tools: Tools) -> None:
    assert commands(plan.up(OURS, UP, Record(OURS, "s"), tools)) == []


@pytest.mark.parametrize(
    ("look", "expected"),
    [
        (replace(UP, dhcp=None), ["--conf-file=/dev/null"]),
        (replace(UP, tables=frozenset()), ["-f"]),
        (replace(UP, links=(replace(BRIDGE, up=False),)), ["link"]),
        (replace(UP, links=(replace(BRIDGE, addresses=()),)), ["addr"]),
    ],
)
def test_only_what_is_missing_is_made(look: Seen, expected: list[str], tools: Tools) -> None:
    steps = plan.up(OURS, look, Record(OURS, "s"), tools)
    assert [words.split()[0] for words in commands(steps)] == expected


def test_routing_is_turned_on_for_nat_only_after_filtering(tools: Tools) -> None:
    wanted = parsed(nat=True)
    current = plan.begin(wanted, BARE, "s")
    assert current.sysctls == BARE.sysctls
    steps = plan.up(wanted, BARE, current, tools)
    kinds = [step.path.name if isinstance(step, Sysctl) else commands([step])[0].split()[0] for step in steps]
    assert kinds.index("-f") < kinds.index("ip_forward")


def test_a_host_that_routes_already_keeps_its_settings() -> None:
    assert plan.begin(parsed(nat=True), replace(BARE, sysctls={"ip_forward": "1"}), "s").sysctls == {}
    assert plan.begin(OURS, BARE, "s").sysctls == {}


def test_down_restores_settings_in_an_order_that_keeps_them(tools: Tools) -> None:
    current = Record(parsed(nat=True), "s", {"conf/eth0/forwarding": "1", "ip_forward": "0"})
    steps = plan.down(current.settings, UP, current, tools)
    names = [str(step.path.relative_to(seen.IPV4)) for step in steps if isinstance(step, Sysctl)]
    assert names == ["ip_forward", "conf/eth0/forwarding"]


def test_down_leaves_a_table_that_is_in_no_record(tools: Tools) -> None:
    assert "delete table inet rumplab" not in script(plan.down(OURS, UP, None, tools))
    assert "delete table inet rumplab" in script(plan.down(OURS, UP, Record(OURS, "s"), tools))
    assert "delete table" not in script(plan.down(OURS, replace(UP, tables=frozenset()), Record(OURS, "s"), tools))


def test_down_takes_away_the_recorded_table_where_only_root_could_see_it(tools: Tools) -> None:
    blind = replace(UP, tables=None)
    assert "delete table inet rumplab" in script(plan.down(OURS, blind, Record(OURS, "s"), tools))
    assert "delete table" not in script(plan.down(OURS, blind, None, tools))


def test_down_leaves_a_bridge_of_another(tools: Tools) -> None:
    foreign = replace(UP, links=(replace(BRIDGE, mac="02:00:00:00:00:99"),), dhcp=None)
    assert "link delete dev" not in commands(plan.down(OURS, foreign, None, tools))


@pytest.mark.parametrize(
    ("look", "owner"),
    [
        (replace(BARE, links=(Link("rumplab0", "bridge", "02:00:00:00:00:99"),)), "MAC 02:00:00:00:00:99"),
        (replace(BARE, links=(Link("rumplab0", "vlan", OURS.mac),)), "vlan interface"),
        (replace(BARE, links=(Link("eth1", addresses=(IPv4Interface("10.0.0.7/8"),)),)), "10.0.0.7/8 of interface"),
        (replace(BARE, routes=(Route(IPv4Network("10.0.1.128/25"), ("tun0",)),)), "the route to 10.0.1.128/25 by"),
        (replace(BARE, routes=(Route(IPv4Network("10.0.0.0/8"), (), "blackhole"),)), "blackhole route to 10.0.0.0/8;"),
        (
            replace(BARE, routes=(Route(IPv4Network("10.0.0.0/16"), ("a", "b")),)),
            "the route to 10.0.0.0/16 by interface a and b;",
        ),
        (replace(BARE, tables=frozenset({firewall.TABLE})), "table 'inet rumplab'"),
    ],
)
def test_the_error_for_a_conflict_names_the_owner(look: Seen, owner: str) -> None:
    with pytest.raises(RumplabError, match=r".") as refused:
        plan.check(OURS, look, None)
    assert owner in str(refused.value)


def test_our_own_bridge_is_no_conflict() -> None:
    plan.check(OURS, UP, Record(OURS, "s"))


def test_without_nat_both_directions_are_dropped_and_nothing_is_masqueraded() -> None:
    text = firewall.ruleset(OURS)
    assert 'iifname "rumplab0" drop' in text
    assert 'oifname "rumplab0" drop' in text
    assert "masquerade" not in text
    assert 'ip saddr 10.0.1.0/24 oifname != "rumplab0" masquerade' in firewall.ruleset(parsed(nat=True))


def test_without_nat_dnsmasq_offers_no_router_and_no_resolver(tmp_path: Path) -> None:
    closed = dhcp.argv("dnsmasq", OURS, tmp_path, "nobody")
    assert {"--no-resolv", "--dhcp-option=option:router"} <= set(closed)
    routed = dhcp.argv("dnsmasq", parsed(nat=True), tmp_path, "nobody")
    assert not {"--no-resolv", "--dhcp-option=option:router"} & set(routed)
    assert {"--bind-interfaces", "--except-interface=lo", "--interface=rumplab0"} <= set(closed)


def test_leases() -> None:
    text = (
        "2000 52:54:00:00:00:01 10.0.1.50 guest ff:01\n"
        "1000 52:54:00:00:00:02 10.0.1.51 * *\n"
        "0 52:54:00:00:00:03 10.0.1.52 * *\n"
        "duid 00:01\n2000 1 fe80::1 x y\ntorn"
    )
    assert [(lease.address, lease.name) for lease in dhcp.leases(text, 1500)] == [
        ("10.0.1.50", "guest"),
        ("10.0.1.52", ""),
    ]


@pytest.mark.parametrize(
    ("look", "recorded", "state"),
    [
        (UP, True, "up"),
        (replace(UP, tables=None), True, "up"),
        (replace(UP, dhcp=None), True, "partial"),
        (replace(UP, tables=frozenset()), True, "partial"),
        (replace(UP, tables=frozenset(), dhcp=None), False, "partial"),
        (BARE, False, "down"),
        (replace(UP, links=(replace(BRIDGE, kind="dummy"),)), True, "foreign"),
    ],
)
def test_state(look: Seen, recorded: bool, state: str) -> None:
    assert report.state(OURS, look, recorded) == state


def test_status_names_firewall_rules_and_settings_that_block_guests() -> None:
    docker = {"family": "ip", "table": "filter", "name": "FORWARD", "hook": "forward", "policy": "drop"}
    own = {"family": "inet", "table": "rumplab", "name": "forward", "hook": "forward", "policy": "drop"}
    look = replace(UP, chains=(docker, own))
    assert report.notes(OURS, look, [], False) == []
    (between,) = report.notes(OURS, look, [], True)
    assert "'ip filter FORWARD' drops packets between guests" in between
    (outside,) = report.notes(parsed(nat=True), look, [], False)
    assert "drops packets from guests to other networks" in outside
    one = parsed(dhcp=["10.0.1.50", "10.0.1.50"])
    (full,) = report.notes(one, UP, [dhcp.Lease(0, "m", "10.0.1.50", "")], False)
    assert "all 1 addresses are in use" in full


def test_links_are_read_as_ip_prints_them() -> None:
    text = json.dumps(
        [
            {"ifname": "rumplab0", "flags": ["UP"], "address": OURS.mac, "linkinfo": {"info_kind": "bridge"},
             "addr_info": [{"family": "inet", "local": "10.0.1.1", "prefixlen": 24}, {"family": "inet6"}]},
            {"ifname": "tap0", "flags": [], "master": "rumplab0", "linkinfo": {"info_kind": "tun"}},
            {},
        ]
    )  # fmt: skip
    found = Seen(links=seen.parse_links(text))
    assert found.link("rumplab0") == BRIDGE
    assert [port.name for port in found.ports("rumplab0")] == ["tap0"]
    assert seen.parse_links("") == ()


def test_default_routes_are_no_conflict() -> None:
    text = '[{"dst": "default", "dev": "eth0"}, {"dst": "10.1.0.0/16", "dev": "tun0"}, {"dst": "10.2.0.3"}]'
    assert seen.parse_routes(text) == (
        Route(IPv4Network("10.1.0.0/16"), ("tun0",)),
        Route(IPv4Network("10.2.0.3/32")),
    )


def test_a_default_route_in_parts_is_no_conflict() -> None:
    """OpenVPN's redirect-gateway def1 splits it in two, and front ends of WireGuard in smaller parts."""
    parts = [Route(IPv4Network(part), ("tun0",)) for part in ("0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/5", "10.0.0.0/7")]
    plan.check(OURS, replace(BARE, routes=tuple(parts)), None)


def test_blackhole_and_multipath_routes_are_read() -> None:
    text = """[{"type": "blackhole", "dst": "10.0.0.0/8", "flags": []},
        {"dst": "10.9.0.0/16", "nexthops": [{"dev": "a", "weight": 1}, {"dev": "b", "weight": 1}]}]"""
    assert list(map(str, seen.parse_routes(text))) == [
        "the blackhole route to 10.0.0.0/8",
        "the route to 10.9.0.0/16 by interface a and b",
    ]


def test_an_interface_may_have_any_byte_in_its_name(tmp_path: Path) -> None:
    tool = tmp_path / "ip"
    tool.write_bytes(b'#!/bin/sh\nprintf \'[{"ifname": "w\\377"}]\'\n')
    tool.chmod(0o755)
    assert seen.parse_links(seen.output([str(tool)]))[0].name == "w\udcff"


def test_a_process_of_another_file_is_not_our_daemon(tmp_path: Path) -> None:
    pid_file = tmp_path / "dnsmasq.pid"
    assert seen.daemon(pid_file) is None
    pid_file.write_text("1\n")
    assert seen.daemon(pid_file) is None
    pid_file.write_text("nonsense")
    assert seen.daemon(pid_file) is None


def test_holder_of_a_tap_and_its_machine(tmp_path: Path) -> None:
    process = tmp_path / "proc" / "77"
    (process / "fd").mkdir(parents=True)
    (process / "fdinfo").mkdir()
    (process / "fd" / "9").symlink_to("/dev/net/tun")
    (process / "fdinfo" / "9").write_text("pos:\t0\niff:\ttap3\n")
    # A descriptor that is closed meanwhile must not hide the process's other ones.
    for number in ("1", "99"):
        (process / "fd" / number).symlink_to("/dev/net/tun")
    (tmp_path / "proc" / "self").mkdir()
    assert holders_of_taps(tmp_path / "proc") == {"tap3": 77}
    assert identify([]) == []
    assert str(Port("tap3", 77, "qemu", "guest")) == "tap3 (machine 'guest', pid 77)"
    assert str(Port("tap3", 77, "qemu")) == "tap3 (qemu, pid 77)"


@pytest.fixture
def record_of(tmp_path: Path) -> Callable[[object], Path]:
    """A function that writes the record of a machine with pid 77, a process of the user who runs the test."""
    path = tmp_path / "state, jo's" / "guest" / "machine.json"
    path.parent.mkdir(parents=True)
    (tmp_path / "proc" / "77").mkdir(parents=True)
    argv = ["qemu", "-S", *qemu_argv.control_argv(str(path.with_name("qmp.sock")))]
    (tmp_path / "proc" / "77" / "cmdline").write_text("\0".join(argv) + "\0")

    def write(data: object) -> Path:
        path.write_text(json.dumps(data))
        return path

    return write


def named(tmp_path: Path) -> str:
    return machine_name(77, tmp_path / "proc")


def test_a_machine_is_named_by_its_record(record_of: Callable[[object], Path], tmp_path: Path) -> None:
    record_of({"pid": 77, "name": "guest"})
    assert named(tmp_path) == "guest"


@pytest.mark.parametrize(
    "data",
    [
        [],
        {"pid": 77},
        {"pid": "77", "name": "guest"},
        {"pid": math.inf, "name": "guest"},
        {"pid": 78, "name": "guest"},
        {"pid": 77, "name": "\x1b[2J"},
        {"pid": 77, "name": "guest", "filler": "x" * RECORD_BYTES},
    ],
    ids=["a list", "nameless", "pid in words", "infinite", "gone", "a terminal's", "endless"],
)
def test_a_record_that_is_none_names_nobody(data: object, record_of: Callable[[object], Path], tmp_path: Path) -> None:
    record_of(data)
    assert named(tmp_path) == ""


def test_a_record_may_be_nested_as_deep_as_anybody_likes(record_of: Callable[[object], Path], tmp_path: Path) -> None:
    record_of({}).write_text("[" * 200_000)
    assert named(tmp_path) == ""


@pytest.mark.parametrize("kind", ["pipe", "link"])
def test_neither_pipes_nor_links_are_read(kind: str, record_of: Callable[[object], Path], tmp_path: Path) -> None:
    path = record_of({"pid": 77, "name": "guest"})
    path.rename(tmp_path / "aside")
    if kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(tmp_path / "aside")
    reader = threading.Thread(target=named, args=(tmp_path,), daemon=True)
    reader.start()
    reader.join(10)
    assert not reader.is_alive()
    assert named(tmp_path) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: gives a file to another user")
def test_a_record_of_somebody_elses_process_is_passed_over(record_of: Callable[[object], Path], tmp_path: Path) -> None:
    path = record_of({"pid": 77, "name": "guest"})
    os.chown(path, 65534, -1)
    assert named(tmp_path) == ""
    os.chown(tmp_path / "proc" / "77", 65534, -1)
    assert named(tmp_path) == "guest"


@pytest.mark.parametrize(
    "sysctls", [None, [], {"ip_forward": 0}, {"../../kernel/x": "1"}, {"/etc/x": "1"}, {"conf/../forwarding": "1"}]
)
def test_a_record_can_only_restore_settings_that_up_changes(tmp_path: Path, sysctls: object) -> None:
    data = {"schema": 1, "settings": OURS.as_data(), "session": "s", "sysctls": sysctls}
    record.state_path(tmp_path).write_text(json.dumps(data))
    with pytest.raises(RumplabError, match="not a record"):
        record.read(tmp_path)


def test_the_record_survives_the_round_trip(tmp_path: Path) -> None:
    written = Record(OURS, "s", {"ip_forward": "0", "conf/br.1/forwarding": "1"})
    record.state_path(tmp_path).write_text(written.text())
    assert record.read(tmp_path) == written


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(RumplabError, match=r"cannot write .*/none/state\.json: No such file"):
        Write(tmp_path / "none" / "state.json", "").do()


def test_a_script_quotes_what_needs_it() -> None:
    text = script([Run(("/a b/ip", "link", "x;y")), Run(("nft", "-f", "-"), "table {\n}\n")])
    assert text == "set -eu\numask 022\n'/a b/ip' link 'x;y'\nnft -f - <<'EOF'\ntable {\n}\nEOF\n"
