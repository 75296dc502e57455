"""Damaged files, and programs that give unexpected answers: each is reported or skipped.

The cases were found by tests/fuzz.
"""

from __future__ import annotations

import bz2
import contextlib
import io
import json
import os
import socket
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fuzz import formats
from unit.network.test_settings import parsed
from unit.plugins.host.test_modules import files, lab_state
from unit.plugins.host.test_modules import record as manifest
from unit.roles.test_netbsd_disk import DISK

from plugins.filter import netbsd
from plugins.module_utils.artifact import git, inventory, lock, processes, relocate, sources
from plugins.module_utils.artifact.errors import Broken, Unreachable
from plugins.module_utils.artifact.store import USES, Store
from plugins.module_utils.artifact.unpack import unpack
from rumplab.building import gofile, target
from rumplab.building import record as build_record
from rumplab.commands.guest import pci
from rumplab.container import docker
from rumplab.errors import RumplabError
from rumplab.guest import bootdisk, console, kernel_debugger, lines
from rumplab.host import answers, holders
from rumplab.image import disk, rumprun_config
from rumplab.lab import config
from rumplab.lab.config import Lab
from rumplab.machine import accel, nics, qmp, registry, screen, vga_text
from rumplab.machine.registry import Machine
from rumplab.machine.run_state import run_state
from rumplab.network import dhcp, seen
from rumplab.network import record as net_record

NEST = "[" * 100_000
# Limit of processor time for code that must not take quadratic time.
SECONDS = 2.0


@pytest.fixture
def not_quadratic() -> Iterator[None]:
    """Fail if the test takes longer than code with quadratic time would leave."""
    began = time.process_time()
    yield
    assert time.process_time() - began < SECONDS


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path, "user", "group", "1", "./provision")


# Files that rumplab keeps.


@pytest.mark.parametrize("key", ["version", "wanted", "stamp", "source", "reason"])
def test_a_descriptor_with_a_number_for_a_string_is_named(lab: Lab, key: str) -> None:
    path = lab.components_dir / "gdb.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({"schema": 1, "name": "gdb", "state": "installed", key: 15.2}))
    (found,) = lab.components()
    assert found.state == config.DAMAGED
    assert found.reason is not None and f"'{key}' must be a string" in found.reason
    assert found.remedy.endswith("--tags gdb")


@pytest.mark.parametrize("key", ["group", "provision"])
def test_a_configuration_with_a_list_for_a_string_is_named(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "etc" / "rumplab.json"
    path.parent.mkdir()
    path.write_text(json.dumps({"schema": 1, "prefix": str(tmp_path), "user": "a", "version": "1", key: ["x"]}))
    monkeypatch.setenv("RUMPLAB_CONFIG", str(path))
    with pytest.raises(RumplabError, match=f"'{key}' must be a string"):
        config.load()


CARD = {"model": "e1000", "net": "user", "mac": "", "forwards": [{"protocol": "tcp", "host": 1, "guest": 2}], "slot": 0}


@pytest.mark.parametrize(
    "change",
    [
        {"name": ["x"]},
        {"pid": "1"},
        {"pid": True},
        {"since": float("inf")},
        {"since": 10**400},
        {"argv": [1]},
        {"image": {"a": 1}},
        {"drives": [{"file": 1}]},
        {"drives": 1},
        {"nics": [{**CARD, "mac": {}}]},
        {"nics": [{**CARD, "forwards": [{"protocol": "tcp", "host": [], "guest": 2}]}]},
    ],
)
def test_a_record_with_a_field_of_another_type_is_damaged(change: dict[str, Any], tmp_path: Path) -> None:
    good = {"name": "x", "directory": "/x", "gdb_port": 1, "nics": [CARD], "since": 1, "argv": ["qemu"]}
    (tmp_path / registry.RECORD).write_text(json.dumps(good))
    assert registry.read_record(tmp_path) is not None
    (tmp_path / registry.RECORD).write_text(json.dumps({**good, **change}))
    with pytest.raises(RumplabError, match="is damaged"):
        registry.read_record(tmp_path)


def test_a_card_with_a_string_for_a_slot_is_refused() -> None:
    with pytest.raises(TypeError, match="'slot'"):
        nics.from_data([{**CARD, "slot": "3"}])


def test_a_cached_result_with_deep_nesting_or_other_types_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "x"
    (tmp_path / "image.rumplab.json").write_text(NEST)
    path.write_text(NEST)
    assert accel.recall(path, {}) is None
    assert not bootdisk.stands(tmp_path / "image", {})
    (tmp_path / "record.json").write_text(NEST)
    assert not build_record.Slot(tmp_path, -1).fresh("x", tmp_path)
    took = [{"name": "tcg", "works": True, "seconds": 10**400}]
    for remembered in ({"chosen": ["tcg"], "results": []}, {"chosen": "tcg", "results": took}):
        path.write_text(json.dumps({"key": {}, **remembered}))
        assert accel.recall(path, {}) is None


def test_leases_are_read_whatever_a_guest_calls_itself(tmp_path: Path) -> None:
    path = tmp_path / "leases"
    path.write_bytes(b"0 52:54:00:12:34:56 10.0.1.50 g\xff *\n\xc2\xb2 52:54:00:12:34:57 10.0.1.51 * *\n")
    assert [lease.address for lease in dhcp.read(path, 1.0)] == ["10.0.1.50"]
    assert dhcp.read(tmp_path / "absent", 1.0) == []


# Answers of other programs.


@pytest.mark.parametrize(
    ("read", "said", "who"),
    [
        (lambda said: disk.virtual_size_in(said, "x.img"), '{"virtual-size": "1G"}', "qemu-img says of x.img"),
        (lambda said: disk.virtual_size_in(said, "x.img"), '{"virtual-size": -1}', "qemu-img"),
        (lambda said: disk.virtual_size_in(said, "x.img"), "", "qemu-img"),
        (lambda said: docker.image_in(said, "a/b"), '{"id": 1, "labels": {}}', "the Docker engine says of a/b"),
        (lambda said: docker.image_in(said, "a/b"), '{"id": "1", "labels": {"x": 1}}', "Docker"),
        (lambda said: docker.image_in(said, "a/b"), NEST, "Docker"),
        (seen.parse_links, '[{"ifname": 1}]', "'ip addr'"),
        (seen.parse_links, '{"a": 1}', "'ip addr'"),
        (seen.parse_links, '[{"ifname": "x", "linkinfo": null}]', "'ip addr'"),
        (seen.parse_routes, '[{"dst": 5}]', "'ip route'"),
        (seen.parse_routes, '[{"dst": "10.0.0.1/33"}]', "'ip route'"),
        (seen.parse_chains, '{"nftables": [{"chain": {}}]}', "'nft list chains'"),
        (seen.parse_chains, "[]", "'nft list chains'"),
    ],
)
def test_answer_of_another_form_names_who_gave_it(read: Callable[[str], object], said: str, who: str) -> None:
    with pytest.raises(RumplabError, match=f"{who}.* has a format that this tool doesn't know"):
        read(said)


def test_labels_that_are_no_list_of_components_name_the_image() -> None:
    for labels in (NEST, "[[]]", '{"a": 1}', '[{"name": "gdb", "paths": {"gdb": 1}}]'):
        with pytest.raises(RumplabError, match="image x has no label"):
            docker.Image("x", "y", {"rumplab.components": labels}).path("gdb", "gdb")


GREETING = b'{"QMP": {}}\n{"return": {}}\n'


@contextlib.contextmanager
def control(said: bytes) -> Iterator[qmp.Session]:
    """A session with a QEMU that has already sent `said`."""
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.setblocking(False)
        theirs.sendall(said)
        with qmp.Session(Path("x"), 5.0, ours) as session:
            yield session


@pytest.mark.parametrize(
    "line", [b"null", b"[]", b'"x"', b"[" * 100_000, b"\xff", b'{"error": "x"}', b"{", b'{"return": {"status": 1}}']
)
def test_an_unknown_answer_at_the_control_socket_is_an_error(line: bytes) -> None:
    with control(GREETING + line + b"\n") as session, pytest.raises(qmp.QmpError, match="unknown format"):
        session.status()


def test_a_line_without_an_end_is_read_up_to_a_limit() -> None:
    ours, theirs = socket.socketpair()

    def flood() -> None:
        try:
            while True:
                theirs.sendall(b"x" * 65536)
        except OSError:
            theirs.close()

    flooding = threading.Thread(target=flood)
    flooding.start()
    with pytest.raises(qmp.QmpError, match="without a line end"), qmp.Session(Path("x"), 30.0, ours):
        pass
    flooding.join(30)


def test_an_answer_that_arrives_byte_by_byte_has_the_same_time_limit() -> None:
    ours, theirs = socket.socketpair()
    over = threading.Event()

    def drip() -> None:
        while not over.wait(0.02):
            theirs.sendall(b" ")

    dripping = threading.Thread(target=drip)
    dripping.start()
    began = time.monotonic()
    with pytest.raises(qmp.QmpError, match="timed out"), qmp.Session(Path("x"), 0.3, ours):
        pass
    assert time.monotonic() - began < 10
    over.set()
    dripping.join(10)
    theirs.close()


def test_malformed_chardevs_cause_no_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qmp, "execute", lambda *words, **options: [{"label": "com1", "filename": None}])
    machine = Machine("x", str(tmp_path), 1)
    with pytest.raises(RumplabError, match="x sends an unknown answer"):
        lines.client(machine, "com1")
    assert run_state(machine) == "starting"
    with pytest.raises(RumplabError, match="x doesn't answer"):
        kernel_debugger.state(machine)


@pytest.mark.parametrize("size", [b"0 4", b"4 0", b"-1 -1", b"1_0 1", b"+1 1"])
def test_a_picture_without_a_valid_size_is_refused(size: bytes) -> None:
    with pytest.raises(ValueError, match="PPM"):
        vga_text.read_ppm(b"P6 " + size + b" 255 " + b"\0" * 3 * 10)


@pytest.mark.parametrize("said", ["0: 0x100000000", "0: -0x1", "0: x"])
def test_a_malformed_memory_dump_is_refused(said: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        screen.words(said)


def test_a_path_with_a_null_byte_has_no_holder() -> None:
    assert holders.of_file("a\0b") is None


# Output of a guest.


def test_wait_for_a_debugger_is_found_in_a_log_of_any_size(tmp_path: Path) -> None:
    machine = Machine("x", str(tmp_path), 1)
    sign = kernel_debugger.WAITING[1].encode()
    for before in (0, kernel_debugger.LOOKED_AT - 5, 3 * kernel_debugger.LOOKED_AT - len(sign) + 1):
        machine.serial_log.write_bytes(b"x" * before + sign + b"y" * 10)
        assert kernel_debugger.waits(machine)
    machine.serial_log.write_bytes(b"x" * 3 * kernel_debugger.LOOKED_AT + sign[:-1])
    assert not kernel_debugger.waits(machine)


def test_console_that_floods_keeps_its_end(tmp_path: Path) -> None:
    machine = Machine("x", str(tmp_path), 1)
    machine.serial_log.touch()
    dialogue = console.Console(machine)
    machine.serial_log.write_bytes(b"x" * 3 * console.MOST + b"\nguest# ")
    said = dialogue.expect(console.PROMPT, 0.0)
    assert said is not None and len(said) == console.MOST and said.endswith("guest# ")
    assert dialogue.position == machine.serial_log.stat().st_size


def test_device_number_of_thousands_of_digits_is_no_device() -> None:
    assert pci.parse(f"{'9' * 5000}:00:0: x [y]\n000:03:0: Intel [wm0]") == [
        {"bus": 0, "device": 3, "function": 0, "description": "Intel", "driver": "wm0"}
    ]


# Files of people and compilers.


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b'rc: ["\\UFFFFFFFF"]', "is not YAML"),
        (b"%YAML 1." + b"9" * 5000 + b"\n---\nrc: []", "is not YAML"),
        (b"rc: " + b"[" * 60_000, "nested too deeply"),
        (b"rc:\n - {bin: x, args: &a [" + b"x," * 9999 + b"]}\n" + b" - {bin: x, args: *a}\n" * 1500, "fewer aliases"),
    ],
)
def test_yaml_that_breaks_the_parser_is_named(content: bytes, why: str, tmp_path: Path, not_quadratic: None) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes(content)
    with pytest.raises(RumplabError, match=f"x.yml.*{why}"):
        rumprun_config.configuration(path, "new")


def test_aliases_and_brackets_in_words_stay_allowed(tmp_path: Path) -> None:
    path = tmp_path / "x.yml"
    path.write_bytes(b"rc: [{bin: &a x, args: &b [*a, '[[[{']}, {bin: y, args: *b}]")
    assert rumprun_config.configuration(path, "new").count(b'"argv":["x","[[[{"]') == 2


@pytest.mark.parametrize("piece", ["/*", '\\"', "`", '"', "/* *", "#cgo "])
def test_a_go_file_with_unclosed_brackets_or_quotes_is_read_in_linear_time(piece: str, not_quadratic: None) -> None:
    for text in ("package x\nimport (\n", 'package x\nimport (\n"', "/*\n"):
        gofile.read_head(text + piece * (60_000 // len(piece)))


@pytest.mark.parametrize("line", [" " * 60_000, "#cgo" + " " * 60_000, "#cgo" + " x" * 30_000])
def test_a_preamble_of_blanks_is_read_in_linear_time(line: str, not_quadratic: None) -> None:
    assert not gofile.read_head(f'package x\n/*\n{line}\n*/\nimport "C"\n').cgo


def test_cgo_lines_keep_their_meaning() -> None:
    head = gofile.read_head('package x\n/*\n#cgo  linux,!arm  LDFLAGS: -lm\n*/\n// #cgo\tCFLAGS: -DX\nimport "C"\n')
    assert [(one.alternatives, one.verb, one.value) for one in head.cgo] == [
        (("linux,!arm",), "LDFLAGS", "-lm"),
        ((), "CFLAGS", "-DX"),
    ]


@pytest.mark.parametrize("content", [b"\xff", b"go1." + b"9" * 5000, b"go1.\xd9\xa3"])
def test_a_malformed_go_version_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "VERSION").write_bytes(content)
    with pytest.raises(RumplabError, match="does not contain Go's version"):
        assert target.go_release(str(tmp_path)) == 9999
        raise RumplabError("does not contain Go's version")


def test_a_name_with_a_null_byte_is_ignored_in_a_rule(tmp_path: Path) -> None:
    assert build_record.read_files("x.o: a\0b\n", [str(tmp_path)], [], 0.0) == {}


def test_a_list_of_hashes_is_read_in_linear_time(not_quadratic: None) -> None:
    hashes = f"SHA512 (NetBSD-10.1/a/b) = {'0' * 128}\n"
    for noise in ("SHA512 (" + "NetBSD-" * 9000, "SHA512 (" + "NetBSD-x/" * 7000, "SHA512 (x) = " + "0" * 60_000):
        assert netbsd.netbsd_hash_list(f"{noise} x\n{hashes}")["a/b"] == "0" * 128


def test_non_ascii_digits_are_no_number(tmp_path: Path) -> None:
    assert not net_record.is_sysctls({"ip_forward": "\u00b2"})
    assert net_record.is_sysctls({"ip_forward": "1"})
    machine = Machine("x", str(tmp_path), 1)
    for content in (b"\xb2", b"\xc2\xb2", b"", b"9" * 5000):
        lines.lock_path(machine, "com1").write_bytes(content)
        assert lines.holder(machine, "com1") == "another process"


def test_addresses_that_are_numbers_are_no_range() -> None:
    with pytest.raises(RumplabError, match="must be two addresses"):
        parsed(dhcp=[True, 167772671])


# Files that roles keep and fetch.


@pytest.mark.parametrize("length", [b"\xb2", b"9" * 5000, b"-1", b"x"])
def test_a_body_with_an_invalid_length_is_read_to_its_end(length: bytes, tmp_path: Path) -> None:
    assert formats.http_answer(b"HTTP/1.1 200 OK\r\nContent-Length: " + length + b"\r\n\r\nhello", tmp_path) is None
    assert (tmp_path / "x.part").read_bytes() == b"hello"


def test_a_damaged_lock_file_has_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "x.lock"
    for content in (NEST, '{"pid": 1e999}', '{"pid": 1, "session": "x"}', '{"pid": 1, "session": []}', "[]"):
        path.write_text(content)
        assert lock.Lock(str(path), 0.0, "x").owner() is None
    assert not processes._builds_in(os.getpid(), "\ud800")


def test_files_of_a_store_that_are_nested_too_deeply_count_as_damaged(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.ready()
    tree = tmp_path / "tree"
    tree.mkdir()
    for name in (".complete", inventory.NAME, "pinned.json", "provenance.json", ".provenance.json", USES):
        (tree / name).write_text(NEST)
    (tmp_path / ".x.tar.json").write_text(NEST)
    (tmp_path / "x.tar").touch()
    (Path(store.components) / "gdb.json").write_text(NEST)
    assert store.stamp_of(str(tree)) is None
    assert store.descriptor("gdb") is None
    assert inventory.differences(str(tree)) == [inventory.NAME]
    assert not git.is_whole(str(tree), "0" * 40)
    assert sources.came_from(str(tmp_path / "x.tar")) == ("upstream", str(tmp_path / "x.tar"))
    with pytest.raises(Broken, match=r"remove .*tree, and the next run builds it again"):
        store.uses_of(str(tree))


def test_a_name_with_a_null_byte_in_an_inventory_is_a_difference(tmp_path: Path) -> None:
    (tmp_path / inventory.NAME).write_text(json.dumps({"schema": 1, "files": {"a\0b": "file"}}))
    assert inventory.differences(str(tmp_path)) == ["a\0b"]


@pytest.mark.parametrize("listed", ['["../outside"]', '["link/outside"]', '["/etc/hostname"]', "[1]", '"a"', NEST, "{"])
def test_a_list_with_files_outside_the_tree_changes_nothing(listed: str, tmp_path: Path) -> None:
    tree, outside = tmp_path / "tree", tmp_path / "outside"
    tree.mkdir()
    outside.write_bytes(relocate.PLACEHOLDER)
    (tree / "link").symlink_to(tmp_path)
    (tree / relocate.LIST).write_text(listed)
    with pytest.raises(Broken, match=r"lists paths that aren't files of that tree|is not JSON"):
        relocate.fill_in(str(tree), "/opt/x")
    assert outside.read_bytes() == relocate.PLACEHOLDER


def test_a_submodule_whose_url_goes_above_the_root_is_refused() -> None:
    with pytest.raises(Broken, match=r"has more \.\./ than"):
        git.resolve("x", "../../y")


def test_key_without_a_value_in_gitmodules_is_passed_over() -> None:
    printed = "submodule.a.path\na\0submodule.a.url\0submodule.b.path\nb\0submodule.b.url\nu\0"
    assert git.urls_in(printed) == {"b": "u"}


def test_a_malformed_git_tree_is_refused() -> None:
    good = f"160000 commit {'1' * 40}\ta b\x00100644 blob {'2' * 40}\tREADME\0"
    assert git.links_in(good) == {"a b": "1" * 40}
    with pytest.raises(Broken, match="in an unknown format"):
        git.links_in("160000 commit")


def archive(**headers: str) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as made:
        one = tarfile.TarInfo("a")
        one.size, one.pax_headers = 3, headers
        made.addfile(one, io.BytesIO(b"abc"))
    return stream.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        archive(path="a\0b"),
        archive(mtime="nan"),
        archive(mtime="1e300"),
        archive(**{"GNU.sparse.map": "x", "GNU.sparse.size": "1"}),
        bz2.compress(archive())[:-20] + b"x" * 30,
    ],
    ids=["name", "time", "late", "sparse", "bz2"],
)
def test_an_archive_with_impossible_members_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(content)
    with pytest.raises(Broken, match=r"can't be unpacked|outside its directory"):
        unpack(str(path), str(tmp_path / "out"))
    with pytest.raises((DISK.Refused, OSError)):
        DISK.unpacked([str(path)], str(tmp_path / "root"))


@pytest.mark.parametrize("size", [1 << 40, -1])
def test_a_set_with_an_impossible_length_of_a_header_is_refused(size: int, tmp_path: Path) -> None:
    one = tarfile.TarInfo("././@LongLink")
    one.type, one.size = tarfile.GNUTYPE_LONGNAME, size
    path = tmp_path / "set.tar"
    path.write_bytes(one.tobuf(tarfile.GNU_FORMAT) + bytes(2048))
    with pytest.raises(DISK.Refused, match=f"a description of {size} bytes"):
        DISK.unpacked([str(path)], str(tmp_path / "root"))
    with pytest.raises(Broken, match=r"can't be unpacked"):
        unpack(str(path), str(tmp_path / "out"))


def test_an_archive_that_is_compressed_twice_is_refused(tmp_path: Path) -> None:
    """The parser of the inner archive would trust any length."""
    path = tmp_path / "x.tar.bz2"
    path.write_bytes(bz2.compress(bz2.compress(archive())))
    with pytest.raises(Broken, match=r"can't be unpacked"):
        unpack(str(path), str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["a/b", "n" * 300])
def test_an_archive_with_an_impossible_name_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    with tarfile.open(path, "w") as made:
        for one in ("a", name):
            made.addfile(tarfile.TarInfo(one))
    with pytest.raises(Broken, match=r"x.tar can't be unpacked"):
        unpack(str(path), str(tmp_path / "out"))


def test_a_server_that_announces_a_chunk_of_negative_size_is_unreachable(tmp_path: Path) -> None:
    answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"-" + b"1" * 20 + b"\r\nhello"
    with pytest.raises(Unreachable, match="answer isn't HTTP"):
        formats.http_answer(answer, tmp_path)


def test_set_with_a_link_to_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "set.tar"
    with tarfile.open(path, "w") as made:
        one = tarfile.TarInfo("a")
        one.type, one.linkname = tarfile.LNKTYPE, "b"
        made.addfile(one)
    with pytest.raises((DISK.Refused, OSError)):
        DISK.unpacked([str(path)], str(tmp_path / "root"))


def test_link_to_a_directory_beside_the_root_leads_outside(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root2").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root2")
    with pytest.raises(DISK.Refused, match="leads outside"):
        DISK.place(str(tmp_path / "root"), "link/x")


def test_damaged_lists_of_packages_are_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "trusted", lambda: {os.geteuid()})
    path = tmp_path / "var" / "manifest.json"
    path.parent.mkdir()
    damaged = (NEST, "[]", '{"boot": 1}', '{"manager": "none", "boot": "", "up": 1}', '{"up": []}')
    for number, content in enumerate(damaged):
        (path.parent / f"{manifest.SNAPSHOT}{number}.json").write_text(content)
    assert manifest.settle_abandoned(str(path), "", 0.0) == []
    assert list(path.parent.iterdir()) == []


def test_the_inspection_of_a_lab_skips_damaged_files(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(NEST)
    (tmp_path / "b.json").write_text('{"name": "b", "state": "installed", "paths": {"x": "a\\u0000b"}}')
    assert list(lab_state.descriptors(str(tmp_path))) == ["b"]
    described = lab_state.descriptors(str(tmp_path))["b"]
    assert not lab_state.is_intact(described) and not lab_state.is_sound(described)
    assert lab_state.recorded_user(str(tmp_path / "a.json")) == ""
    with pytest.raises(files.Unfit, match="is not JSON"):
        files.read_json(str(tmp_path / "a.json"), None)


def test_fields_of_another_type_are_refused() -> None:
    answers.check_fields(Machine("x", "/x", 1, since=2))
    for change in ({"gdb_port": True}, {"guest": None}, {"argv": "qemu"}, {"snapshot": 1}):
        with pytest.raises(TypeError, match=f"'{next(iter(change))}'"):
            answers.check_fields(Machine(**{"name": "x", "directory": "/x", "gdb_port": 1, **change}))  # type: ignore[arg-type]
