"""Role go_builder with the miniature upstreams: it makes a Go that builds programs; and its errors."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.findnull import BOUNDED, HARNESS, UPSTREAMS, of_main
from testinfra.host import Host

HERE = Path(__file__).resolve().parents[1]
PREFIX = "/opt/rumplab"
WORK = f"{PREFIX}/work"
LABS = "/opt/labs"


def row(name: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run the role with these settings, at the row's own prefix unless the settings have one."""
    variables = {"rumplab_prefix": f"{LABS}/{name}", **settings}
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    argv = ["ansible-playbook", "-i", inventory, str(HERE / "row.yml"), "-e", json.dumps(variables)]
    plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=300, check=False, env=plain)


def said(run: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, its line breaks and indentation folded."""
    return re.sub(r"\s+", " ", run.stdout + run.stderr)


def descriptor(host: Host, name: str, prefix: str = PREFIX) -> dict[str, Any]:
    """Return a component's descriptor."""
    found: dict[str, Any] = json.loads(host.file(f"{prefix}/etc/components.d/{name}.json").content_string)
    return found


def trees(host: Host, prefix: str) -> list[str]:
    """Return the names of the trees in a prefix's store."""
    listed = host.run(f"ls {prefix}/store 2>/dev/null")
    return sorted(str(listed.stdout).split())


def looked_at_packages(run: subprocess.CompletedProcess[str]) -> bool:
    """Return whether a run listed the host's packages in order to install build dependencies."""
    # If tasks are profiled, a line with the time is between a task's name and its result.
    asked = r"^TASK \[\S*host_packages : List what is installed\].*\n(?:\w+day .*\n)?(?:ok|changed):"
    return re.search(asked, run.stdout, re.MULTILINE) is not None


def put(host: Host, path: str, text: str) -> None:
    """Write a file on the host."""
    encoded = base64.b64encode(text.encode()).decode()
    assert host.run(f"mkdir -p {os.path.dirname(path)} && printf %s {encoded} | base64 -d >{path}").rc == 0


def string1(host: Host, root: str) -> str:
    """Return a Go tree's string1.go."""
    return str(host.file(f"{root}/src/runtime/string1.go").content_string)


def harness(host: Host, text: str) -> list[str]:
    """Compile a string1.go with the harness, with Debian's Go, and return what it prints."""
    put(host, "/tmp/harness/string1.go", of_main(text))
    put(host, "/tmp/harness/harness.go", HARNESS)
    settings = "HOME=/tmp GO111MODULE=off GOCACHE=/tmp/harness-cache"
    ran = host.run(f"cd /tmp/harness && env {settings} timeout 240 go run string1.go harness.go")
    assert ran.rc == 0, ran.stderr
    return str(ran.stderr).splitlines()


def test_both_components_are_described(host: Host) -> None:
    pins = json.loads(host.file("/srv/upstream/gorump/pins.json").content_string)
    bootstrap, builder = descriptor(host, "go_bootstrap"), descriptor(host, "go_builder")
    for described, version in ((bootstrap, "1.6.3"), (builder, "1.5")):
        name = described["name"]
        assert (described["state"], described["source"], described["version"]) == ("installed", "upstream", version)
        assert described["licence"] == "BSD-3-Clause"
        assert described["paths"] == {"go": f"{PREFIX}/{name}/bin/go", "goroot": f"{PREFIX}/{name}"}
        assert host.file(f"{PREFIX}/{name}").linked_to == described["tree"]
    assert builder["origin"] == "git://127.0.0.1/gorump/git/gorump.git"
    assert host.file(f"{PREFIX}/cache/go_builder-{pins['commit']}").is_directory


def test_make_bash_was_run_as_upstream_documents_by_the_lab_user(host: Host) -> None:
    record = host.file(f"{PREFIX}/go_builder/make.record").content_string.splitlines()
    assert record == [
        "arguments: ",
        "CGO_ENABLED=0",
        "GOARCH=amd64",
        "GOOS=rumprun",
        f"GOROOT_BOOTSTRAP={WORK}/go_builder/needs/go_bootstrap",
        "GOROOT_FINAL=/rumplab-go",
        "bootstrap: go1.6.3-miniature",
    ]
    owners = host.run(f"find {PREFIX}/go_builder/ {PREFIX}/go_bootstrap/ -not -user rumplab")
    assert (owners.rc, owners.stdout) == (0, "")
    assert host.file(f"{PREFIX}/var/log/build/go_builder.log").contains("Installed Go for rumprun/amd64")


def test_findnull_of_the_tree_is_bounded_and_findnullw_as_it_was(host: Host) -> None:
    assert harness(host, string1(host, f"{PREFIX}/go_builder")) == BOUNDED


def test_the_source_in_the_cache_stays_pristine(host: Host) -> None:
    pins = json.loads(host.file("/srv/upstream/gorump/pins.json").content_string)
    objects = f"GIT_ALTERNATE_OBJECT_DIRECTORIES={PREFIX}/cache/go_builder-{pins['commit']}/objects"
    reader = "/tmp/harness/reader"
    assert host.run(f"git init --quiet --bare {reader}").rc == 0
    shown = host.run(f"env {objects} git -C {reader} show {pins['commit']}:go1.5/src/runtime/string1.go")
    assert shown.rc == 0, shown.stderr
    assert harness(host, shown.stdout) == UPSTREAMS


def test_the_heap_is_upstreams_unless_said_otherwise(host: Host) -> None:
    assert host.file(f"{PREFIX}/go_builder/src/runtime/malloc.go").contains("23\\*goos_rumprun$")


def test_an_edit_off_and_on_again_are_two_trees_and_one_build_each(host: Host) -> None:
    before = descriptor(host, "go_builder")
    off = row("", rumplab_prefix=PREFIX, go_builder_edits=[])
    assert off.returncode == 0, said(off)
    without = descriptor(host, "go_builder")
    assert without["stamp"] != before["stamp"]
    assert harness(host, string1(host, f"{PREFIX}/go_builder")) == UPSTREAMS
    log = host.run(f"stat -c %y {PREFIX}/var/log/build/go_builder.log {PREFIX}/var/log/build/go_bootstrap.log").stdout
    on = row("", rumplab_prefix=PREFIX)
    assert on.returncode == 0, said(on)
    assert descriptor(host, "go_builder") == before
    assert harness(host, string1(host, f"{PREFIX}/go_builder")) == BOUNDED
    again = host.run(f"stat -c %y {PREFIX}/var/log/build/go_builder.log {PREFIX}/var/log/build/go_bootstrap.log").stdout
    assert again == log
    assert len([name for name in trees(host, PREFIX) if name.startswith("go_builder-")]) == 2
    assert len([name for name in trees(host, PREFIX) if name.startswith("go_bootstrap-")]) == 1


def test_the_other_tree_and_a_larger_heap(host: Host) -> None:
    prefix = f"{LABS}/other"
    ran = row("other", go_builder_version="1.7", go_builder_heap_bits=25)
    assert ran.returncode == 0, said(ran)
    assert descriptor(host, "go_builder", prefix)["version"] == "1.7"
    assert looked_at_packages(ran)
    root = f"{prefix}/go_builder"
    assert host.file(f"{root}/VERSION").content_string == "go1.7beta2-miniature\n"
    assert host.file(f"{root}/src/runtime/malloc.go").contains("25\\*goos_rumprun$")
    assert harness(host, string1(host, root)) == BOUNDED


@pytest.mark.parametrize(
    ("settings", "parts", "left"),
    [
        (
            {"go_builder_version": "missing"},
            [f"git://127.0.0.1/gorump/git/gorump.git has no commit {'1' * 40}"],
            ["go_bootstrap-1.6.3"],
        ),
        (
            {"go_builder_version": "moved"},
            [
                "edit 'findnull' must match exactly once in go1.5/src/runtime/string1.go, but matches 0 times (",
                r"The anchor is: ^(func findnull\(s \*byte\)",
            ],
            ["go_bootstrap-1.6.3"],
        ),
        (
            {"go_builder_bootstrap_version": "altered"},
            ["go1.6.3.linux-amd64.tar.gz is not the pinned file: sha256 ", f", expected {'0' * 64}"],
            [],
        ),
        (
            {"go_builder_bootstrap_version": "unreachable", "rumplab_strict": True},
            ["go_bootstrap unreachable can't be provided, and rumplab_strict allows neither"],
            [],
        ),
        ({"go_builder_version": "1.8"}, ["go_builder_version 1.8 isn't pinned. Choose one of 1.5, 1.7,"], []),
        ({"go_builder_bootstrap_version": "1.9"}, ["go_builder_bootstrap_version 1.9 isn't pinned"], []),
        ({"go_builder_heap_bits": 64}, ["go_builder_heap_bits is 64; set an exponent of two from 20"], []),
        ({"go_builder_edits": ["findnul"]}, ["value of go_builder_edits must be one or more of: findnull"], []),
    ],
    ids=["commit", "anchor", "hash", "strict", "version", "bootstrap", "heap", "edit"],
)
def test_it_fails(
    host: Host, request: pytest.FixtureRequest, settings: dict[str, Any], parts: list[str], left: list[str]
) -> None:
    name = f"fails_{request.node.callspec.id.rpartition('-')[2]}"
    ran = row(name, **settings)
    assert ran.returncode == 2
    for part in parts:
        assert part.replace("\\", "\\\\") in said(ran) or part in said(ran)
    assert [tree.rpartition("-")[0] for tree in trees(host, f"{LABS}/{name}")] == left


def test_an_unreachable_repository_defers_it_and_keeps_the_bootstrap(host: Host) -> None:
    ran = row("repository", go_builder_version="unreachable")
    assert ran.returncode == 0, said(ran)
    prefix = f"{LABS}/repository"
    assert descriptor(host, "go_bootstrap", prefix)["state"] == "installed"
    described = descriptor(host, "go_builder", prefix)
    assert (described["state"], described["tree"]) == ("deferred", None)
    assert "git://127.0.0.1:1/gorump.git" in described["reason"]
    assert not looked_at_packages(ran)


def test_an_unreachable_bootstrap_defers_both_and_asks_for_nothing_more(host: Host) -> None:
    ran = row("bootstrap", go_builder_bootstrap_version="unreachable")
    assert ran.returncode == 0, said(ran)
    prefix = f"{LABS}/bootstrap"
    assert descriptor(host, "go_bootstrap", prefix)["state"] == "deferred"
    described = descriptor(host, "go_builder", prefix)
    assert described["state"] == "deferred"
    assert described["reason"].startswith("it is built with go_bootstrap, which isn't installed: ")
    assert trees(host, prefix) == []
    assert host.run(f"ls {prefix}/cache").stdout == ""
    assert not looked_at_packages(ran)
    # Another bootstrap compiler gives another stamp, so the lab's tree can't be reused.
    assert described["stamp"] != descriptor(host, "go_builder")["stamp"]
