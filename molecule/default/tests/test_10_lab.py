"""The lab after a run of site.yml."""

from __future__ import annotations

import json
from typing import Any

import pytest
from testinfra.host import Host

PREFIX = "/opt/rumplab"
COMPONENTS = ("rumplab", "qemu", "rump_stager", "pcihello", "kgdbdemo", "ipkdbdemo", "overrun", "gdb")
DEFERRABLE = ("gcc", "go_bootstrap", "go_builder", "rump_toolchain")


def as_user(host: Host, command: str) -> Any:
    """Run a command as the lab user."""
    return host.run(f"runuser -u rumplab -- {command}")


@pytest.fixture(scope="module")
def status(host: Host) -> dict[str, Any]:
    run = as_user(host, "rumplab status --json")
    assert run.rc == 0, run.stderr
    found: dict[str, Any] = json.loads(run.stdout)
    return found


@pytest.mark.parametrize("name", COMPONENTS)
def test_component_is_installed_with_its_paths(host: Host, status: dict[str, Any], name: str) -> None:
    (component,) = [row for row in status["components"] if row["name"] == name]
    assert component["state"] == "installed", component
    descriptor = json.loads(host.file(f"{PREFIX}/etc/components.d/{name}.json").content_string)
    assert descriptor["paths"]
    for path in descriptor["paths"].values():
        assert host.file(path).exists, path


@pytest.mark.parametrize("name", DEFERRABLE)
def test_a_component_out_of_reach_says_so_and_keeps_nobody_from_working(
    host: Host, status: dict[str, Any], name: str
) -> None:
    (component,) = [row for row in status["components"] if row["name"] == name]
    # Here, upstreams can't be reached in most test environments; otherwise there is a tree.
    assert component["state"] == "installed" or component["reason"]
    assert host.file(f"{PREFIX}/{name}").exists == (component["state"] == "installed")


def test_what_no_compiler_of_this_system_builds_waits_for_its_upstream_at_most(status: dict[str, Any]) -> None:
    states = {row["name"]: row for row in status["components"]}
    if states["gcc"]["state"] == "installed":
        assert "gcc" not in (states["rump_toolchain"]["reason"] or "").lower()


def test_the_session_at_the_end_has_passed(status: dict[str, Any]) -> None:
    assert status["verified"] is True


def test_the_prefix_belongs_to_the_lab_user_and_the_undo_record_to_root(host: Host) -> None:
    others = host.run(f"find {PREFIX} -not -user rumplab")
    assert others.rc == 0
    # Root undoes the changes that these list, so only root may write them.
    undo = [f"{PREFIX}/etc/manifest.json", f"{PREFIX}/var/manifest.json", f"{PREFIX}/var/manifest.lock"]
    assert sorted(others.stdout.split()) == undo


def test_nothing_is_left_under_way(host: Host) -> None:
    assert host.file(f"{PREFIX}/work").listdir() == []
    assert [name for name in host.file(f"{PREFIX}/store").listdir() if name.startswith(".")] == []


@pytest.mark.parametrize("name", ["rumplab", "gdb", "pcihello"])
def test_the_tree_in_use_is_complete(host: Host, name: str) -> None:
    descriptor = json.loads(host.file(f"{PREFIX}/etc/components.d/{name}.json").content_string)
    assert host.file(f"{PREFIX}/{name}").linked_to == descriptor["tree"]
    assert host.file(f"{PREFIX}/{name}/.complete").content_string == descriptor["stamp"]


def test_the_launcher_is_on_path_and_completes(host: Host) -> None:
    assert as_user(host, "rumplab --version").stdout.strip().endswith("0.1.0")
    completion = host.file("/usr/local/share/bash-completion/completions/rumplab")
    assert "smoke" in completion.content_string


def test_a_debug_session_names_the_device_behind_the_bridge(host: Host) -> None:
    run = as_user(host, "rumplab smoke --json")
    assert run.rc == 0, run.stdout + run.stderr
    assert "100e8086" in run.stdout or "8086:100e" in run.stdout


def test_the_debugger_is_stripped_and_for_both_machines(host: Host) -> None:
    gdb = json.loads(host.file(f"{PREFIX}/etc/components.d/gdb.json").content_string)
    for architecture in ("i386", "i386:x86-64"):
        run = as_user(host, f"{gdb['paths']['gdb']} -nx -batch -ex 'set architecture {architecture}'")
        assert run.rc == 0
        assert architecture in run.stdout
    abis = as_user(host, f"{gdb['paths']['gdb']} -nx -batch -ex 'set osabi NetBSD'")
    assert abis.rc == 0, abis.stderr


def test_the_manifest_names_what_was_installed(host: Host) -> None:
    manifest = json.loads(host.file(f"{PREFIX}/var/manifest.json").content_string)
    packages = {entry["name"].split(":")[0] for entry in manifest["entries"] if entry["kind"] == "package"}
    assert {"qemu-system-x86", "grub-pc-bin", "gcc"} <= packages
    assert "libc6" not in packages
