"""rumplab drift: compare the installed files with the record of role artifact."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import STAMP, opener, provide, request
from support.labfixture import LabPrefix
from unit.plugins.artifact.test_durable import bundle

from plugins.module_utils.artifact import inventory
from rumplab.lab import recorded

SCRIPT = "mkdir -p $0/hello/bin; for i in 1 2 3; do echo $i >$0/hello/bin/$i; done; ln -s 1 $0/hello/bin/link"


def wanted(prefix: Path) -> dict[str, Any]:
    build = {"root": "hello", "commands": [{"argv": ["sh", "-c", SCRIPT, "@dest@"]}]}
    stamps = {"upstream": STAMP, "substitute": ""}
    return request(prefix, bundle(), build=build, paths={"one": "bin/1"}, stamps=stamps)


@pytest.fixture
def installed(empty_lab: LabPrefix) -> LabPrefix:
    """A lab with a tree of role artifact, and a component that consists of the host's programs."""
    assert provide(wanted(empty_lab.prefix), opener)["state"] == "installed"
    program = empty_lab.prefix / "program"
    program.write_text("text", encoding="utf-8")
    status = program.stat()
    marks = {"program": f"{status.st_size} {status.st_mtime_ns}"}
    empty_lab.component("qemu", {"program": str(program)}, fingerprints=marks)
    empty_lab.component("waiting", {}, state="deferred", reason="404")
    return empty_lab


def verified(lab: LabPrefix) -> dict[str, dict[str, Any]]:
    """Return the rows of --json by component, and check the status against them."""
    said = lab.tool("drift", "--json")
    found = {one["component"]: one for one in json.loads(said.stdout)}
    wrong = [one for one in found.values() if one["problem"] or one["altered"] or one["missing"] or one["added"]]
    assert said.returncode == (1 if wrong else 0), said.stderr
    assert all(bool(one["remedy"]) == (one in wrong) for one in found.values())
    return found


def test_what_is_as_it_was_installed_passes(installed: LabPrefix) -> None:
    said = installed.tool("drift")
    assert said.returncode == 0
    # Three files, a link, and .provenance.json.
    assert said.stdout.splitlines() == [
        "COMPONENT  FILES  ALTERED  MISSING  ADDED",
        "hello      5      0        0        0",
        "qemu       1      0        0        0",
        "lab        2      0        0        0",
    ]
    (installed.prefix / "hello/bin/__pycache__").mkdir()
    (installed.prefix / "hello/bin/__pycache__/x.pyc").write_text("")
    assert verified(installed)["hello"]["added"] == []


def flip(path: Path) -> None:
    """Change one bit of a file, and keep its size and time stamps."""
    status = path.stat()
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def relinked(path: Path) -> None:
    path.unlink()
    path.symlink_to("2")


DAMAGES: list[tuple[str, str, str, Callable[[Path], object]]] = [
    ("altered", "bin/1", "a bit", flip),
    ("altered", "bin/2", "the mode", lambda path: path.chmod(0o600)),
    ("altered", "bin/link", "a link", relinked),
    ("altered", "bin/3", "the kind", relinked),
    ("altered", ".provenance.json", "where it came from", flip),
    ("altered", ".complete", "the stamp", flip),
    ("altered", ".files.json", "the list", lambda path: path.write_text("{")),
    ("missing", "bin/1", "a file", Path.unlink),
    ("missing", ".complete", "the stamp", Path.unlink),
    ("missing", ".files.json", "the list", Path.unlink),
    ("added", "bin/new", "a file", lambda path: path.write_text("")),
]


@pytest.mark.parametrize(("how", "name", "_what", "damage"), DAMAGES)
def test_every_damage_is_found_and_its_remedy_mends_it(
    installed: LabPrefix, how: str, name: str, _what: str, damage: Callable[[Path], object]
) -> None:
    damage(installed.prefix / "hello" / name)
    said = installed.tool("drift")
    assert said.returncode == 1
    remedy = "./provision --tags hello -e rumplab_verify=true"
    assert f"hello: {how}: {name}; {remedy}\n" in said.stdout
    assert verified(installed)["hello"][how] == [name]
    # Do what the remedy does: role artifact checks the tree and builds it again.
    assert provide(wanted(installed.prefix), opener)["changed"] is True
    assert verified(installed)["hello"]["files"] == 5


def test_it_agrees_with_the_role_on_every_path(installed: LabPrefix) -> None:
    tree = installed.prefix / "hello"
    (tree / "bin/sub").mkdir()
    (tree / "bin/sub/\udce4 file").write_text("")
    os.mkfifo(tree / "bin/fifo")
    flip(tree / "bin/1")
    found = verified(installed)["hello"]
    theirs = inventory.differences(str(tree))
    assert sorted(found["altered"] + found["missing"] + found["added"]) == theirs
    assert {name: recorded.describe(str(tree / name)) for name in theirs} == {
        name: inventory.describe(str(tree / name)) for name in theirs
    }


def test_many_differences_are_counted_and_a_few_named(installed: LabPrefix) -> None:
    for number in range(5):
        (installed.prefix / f"hello/bin/new{number}").write_text("")
    (installed.prefix / "hello/bin/1").unlink()
    said = installed.tool("drift").stdout
    assert "hello      5      0        1        5\n" in said
    assert "hello: missing: bin/1, added: bin/new0, bin/new1, bin/new2, …; ./provision" in said


def test_the_hosts_own_programs_are_those_that_were_described(installed: LabPrefix) -> None:
    os.utime(installed.prefix / "program", ns=(0, 0))
    assert verified(installed)["qemu"]["altered"] == [str(installed.prefix / "program")]
    (installed.prefix / "program").unlink()
    found = verified(installed)["qemu"]
    assert found["missing"] == [str(installed.prefix / "program")]
    assert found["remedy"] == "./provision --tags qemu"


def test_a_lost_tree_link_or_descriptor_is_a_problem_and_hides_no_other(installed: LabPrefix) -> None:
    link = installed.prefix / "hello"
    tree = os.readlink(link)
    link.unlink()
    assert f"{link} doesn't lead to " in verified(installed)["hello"]["problem"]
    link.symlink_to("store")
    assert f"{link} doesn't lead to " in verified(installed)["hello"]["problem"]
    link.unlink()
    link.symlink_to(tree)
    installed.descriptor("hello").write_text("{", encoding="utf-8")
    found = verified(installed)
    assert "is not JSON" in found["hello"]["problem"] and found["qemu"]["files"] == 1
    installed.descriptor("hello").unlink()
    assert "is lost" in verified(installed)["hello"]["problem"]
    assert provide(wanted(installed.prefix), opener)["changed"] is True
    os.rename(os.path.realpath(link), installed.prefix / "away")
    assert " is lost" in verified(installed)["hello"]["problem"]
    assert provide(wanted(installed.prefix), opener)["changed"] is True
    assert verified(installed)["hello"]["problem"] == ""


def test_the_lab_is_compared_with_its_manifest(installed: LabPrefix, tmp_path: Path) -> None:
    assert verified(installed)["lab"]["files"] == 2
    launcher, wanted_file = tmp_path / "launcher", tmp_path / "file"
    launcher.symlink_to("anything")
    wanted_file.write_text("text")
    digest = hashlib.sha256(b"text").hexdigest()
    entries = [
        {"kind": "path", "name": str(launcher)},
        {"kind": "file", "name": str(wanted_file), "sha256": digest},
        {"kind": "package", "name": "x", "manager": "apt"},
    ]
    manifests = [installed.prefix / directory / "manifest.json" for directory in ("var", "etc")]
    for one in manifests:
        one.write_text(json.dumps({"entries": entries}))
    assert verified(installed)["lab"]["files"] == 4
    wanted_file.write_text("other")
    launcher.unlink()
    found = verified(installed)["lab"]
    assert (found["altered"], found["missing"]) == ([str(wanted_file)], [str(launcher)])
    launcher.symlink_to("anything")
    wanted_file.write_text("text")
    manifests[1].write_text(json.dumps({"entries": entries[1:]}))
    assert verified(installed)["lab"]["altered"] == [str(manifests[1])]
    for damaged in ("{", "[]", '{"entries": [{}]}', '{"entries": 1}'):
        manifests[0].write_text(damaged)
        assert str(manifests[0]) in verified(installed)["lab"]["altered"]
    manifests[0].unlink()
    assert verified(installed)["lab"]["missing"] == [str(manifests[0])]


def test_components_can_be_named(installed: LabPrefix) -> None:
    flip(installed.prefix / "hello" / "bin/1")
    said = installed.tool("drift", "qemu")
    assert said.returncode == 0 and "hello" not in said.stdout
    assert installed.tool("drift", "qemu", "hello").returncode == 1
    said = installed.tool("drift", "nonsense", "qemu")
    assert (said.returncode, said.stderr) == (
        1,
        "rumplab drift: no record of nonsense; the components: rumplab status\n",
    )
