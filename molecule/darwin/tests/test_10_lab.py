"""The result of a play on a host with a Mac's facts, and the runtime tool there."""

from __future__ import annotations

import base64
import json
import shlex

import pytest
from darwin.mac import PREFIX, VMNET, calls, formulae, installs, rumplab, shellcheck
from testinfra.host import Host
from unit.image.test_multiboot import header, placed


@pytest.fixture
def program(host: Host) -> str:
    """Return a file that `rumplab run` accepts as a bootable program."""
    path = "/tmp/hello ü.bin"
    host.check_output("printf %s | base64 -d >%s", base64.b64encode(placed(header(), 64)).decode(), path)
    return path


def test_homebrew_was_asked_for_the_formulae_and_nothing_else(host: Host) -> None:
    # After a run in check mode and two converges, each formula was installed once, by the role that needs it.
    assert installs(host) == [formulae("qemu"), formulae("rump_stager")]


def test_homebrew_ran_as_the_account_it_belongs_to(host: Host) -> None:
    assert {words[0] for words in calls(host) if words[1] == "brew"} == {"alice"}


def test_nothing_of_linux_was_called(host: Host) -> None:
    assert {words[1] for words in calls(host)} == {"brew"}
    assert host.run("cmp /var/lib/dpkg/status /opt/before/status").rc == 0


def test_no_account_was_made(host: Host) -> None:
    for name in ("passwd", "group"):
        assert host.run(f"cmp /etc/{name} /opt/before/{name}").rc == 0


def test_the_lab_is_the_administrators(host: Host) -> None:
    description = json.loads(host.file(f"{PREFIX}/etc/rumplab.json").content_string)
    assert description["user"] == "alice"
    assert host.check_output(f"find {PREFIX} ! -user alice") == ""


@pytest.mark.parametrize("name", ["qemu", "rump_stager"])
def test_the_descriptor_names_homebrews_programs(host: Host, name: str) -> None:
    descriptor = json.loads(host.file(f"{PREFIX}/etc/components.d/{name}.json").content_string)
    assert descriptor["state"] == "installed"
    assert set(descriptor["origin"].split(", ")) == formulae(name)
    assert descriptor["version"] == "1.2.3"
    assert descriptor["paths"]
    for path in descriptor["paths"].values():
        assert path.startswith("/opt/homebrew/")
        assert host.file(path).exists


def test_the_manifest_has_what_came_and_not_what_was_there(host: Host) -> None:
    manifest = json.loads(host.file(f"{PREFIX}/var/manifest.json").content_string)
    packages = {entry["name"]: entry["manager"] for entry in manifest["entries"] if entry["kind"] == "package"}
    wanted = formulae("qemu") | formulae("rump_stager") | {"gettext", "glib"}
    assert packages == dict.fromkeys(wanted, "homebrew")
    assert {entry["kind"] for entry in manifest["entries"]} == {"prefix", "path", "package"}


def test_the_bridge_is_settings_alone(host: Host) -> None:
    settings = json.loads(host.file(f"{PREFIX}/etc/bridge.json").content_string)
    assert settings["persistent"] == "none"
    assert not host.file(f"{PREFIX}/etc/components.d/bridge.json").exists
    assert not host.file("/etc/qemu").exists


def test_net_says_that_it_is_vmnet_and_needs_root(host: Host) -> None:
    before = calls(host)
    assert rumplab(host, "net", "status").stdout.strip().endswith(VMNET)
    assert json.loads(rumplab(host, "net", "status", "--json").stdout)["state"] == "vmnet"
    for action in ("up", "down"):
        run = rumplab(host, "net", action)
        assert run.rc == 0
        assert run.stdout.startswith("nothing to do: ")
        assert run.stdout.strip().endswith(VMNET)
    assert calls(host) == before


@pytest.mark.parametrize(("options", "kind"), [((), "shared"), (("--vmnet", "host"), "host")])
def test_run_prints_vmnets_options_as_a_line_for_a_shell(
    host: Host, program: str, options: tuple[str, ...], kind: str
) -> None:
    run = rumplab(host, "run", program, "--net", "bridge", "--accel", "hvf", "--dry-run", *options)
    assert run.rc == 0, run.stderr
    words = shlex.split(run.stdout)
    assert words[0] == "/opt/homebrew/bin/qemu-system-x86_64"
    assert words[words.index("-netdev") + 1] == f"vmnet-{kind},id=net0"
    assert words[words.index("-kernel") + 1] == program
    shellcheck(f"#!/bin/sh\n{run.stdout}")


def test_run_says_that_vmnet_needs_root_and_starts_nothing(host: Host, program: str) -> None:
    run = rumplab(host, "run", program, "--net", "bridge", "--accel", "hvf")
    assert run.rc == 1
    assert "macOS lets only root use vmnet" in run.stderr
    assert "sudo rumplab run" in run.stderr
    assert json.loads(rumplab(host, "ps", "--json").stdout) == []


def test_doctor_knows_the_programs_and_tries_hvf(host: Host) -> None:
    run = rumplab(host, "doctor", "--json")
    checks = {check["subject"]: check for check in json.loads(run.stdout)}
    assert checks["rump_stager/sfdisk"]["level"] == "ok"
    assert "/opt/homebrew/opt/util-linux/sbin/sfdisk" in checks["rump_stager/sfdisk"]["detail"]
    assert "accelerator/hvf" in checks
    assert "macOS" in checks["tap"]["detail"]


def test_what_is_generated_passes_shellcheck(host: Host) -> None:
    shellcheck(host.file(f"{PREFIX}/rumplab/bin/rumplab").content_string)
