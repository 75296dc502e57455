"""Other components, mirrors and prefixes; and upstreams that can't be reached or have wrong content."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.upstream.driving import LABS, Lab, Play, of

NAME = "rump_toolchain"
ABSENT = "2" * 40


def row(name: str, pin: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return a row in a prefix of its own."""
    return {"name": name, "prefix": of(name), "source": pin, **more}


def described(lab: Lab, name: str) -> dict[str, Any]:
    """Return the descriptor in a row's prefix."""
    return lab.descriptor(NAME, of(name))


def test_a_component_off_and_on_again(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    name = "switched"
    both = row(name, pin)
    one = row(name, pin, key="one", components=["ppb"])
    first = play(both, one).rows
    assert first["one"]["tree"] != first[name]["tree"]
    assert len(lab.trees(NAME, of(name))) == 2
    has = f"ls {of(name)}/{NAME}/rumprun-x86_64/lib/rumprun-hw"
    assert "librumpdev_pci_scsi.a" not in lab.sh(has).split()
    assert "pci_scsi" not in lab.sh(f"cat {of(name)}/{NAME}/etc/rumprun-bake.conf")
    log = lab.sh(f"stat -c %y {of(name)}/var/log/build/{NAME}.log")
    # No upstream can be reached; a tree in the store needs none. The order of components doesn't matter.
    nowhere = {**pin, "git": "git://127.0.0.1:1/rumprun.git"}
    back = play(row(name, nowhere, components=["pci_scsi", "ppb"])).rows[name]
    assert (back["tree"], back["switched"]) == (first[name]["tree"], True)
    assert "librumpdev_pci_scsi.a" in lab.sh(has).split()
    assert lab.sh(f"stat -c %y {of(name)}/var/log/build/{NAME}.log") == log


def test_none_is_upstreams_own(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    name = "bare"
    assert play(row(name, pin, components=[])).rows[name]["state"] == "installed"
    libraries = f"{of(name)}/{NAME}/rumprun-x86_64/lib/rumprun-hw"
    assert "ppb" not in lab.sh(f"nm {libraries}/librumpdev_pci.a")


def test_a_mirror_of_bundles_is_all_it_takes(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    name = "mirrored"
    alone = {**pin, "git": "git://127.0.0.1:1/rumprun.git", "submodule_urls": {}}
    wanted = row(name, alone, mirror="/srv/upstream/mirror", candidates=["mirror"])
    assert play(wanted).rows[name]["state"] == "installed"
    assert described(lab, name)["source"] == "mirror"


def test_a_built_tree_serves_another_prefix(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    nowhere = {**pin, "git": "git://127.0.0.1:1/rumprun.git"}
    cache = {"built_cache": "/var/cache/rows"}
    rows = play(row("builder", pin, **cache), row("taker", nowhere, **cache)).rows
    assert [rows[name]["state"] for name in ("builder", "taker")] == ["installed", "installed"], rows
    taken = rows["taker"]["tree"]
    assert taken.startswith(f"{LABS}/taker/store/")
    assert lab.sh(f"grep -rIl {LABS}/builder {taken} || true") == ""
    lab.sh(
        'cd "$(mktemp -d)" && echo "int main(void) { return 0; }" >x.c && '
        '"$1/bin/x86_64-rumprun-netbsd-gcc" -o x x.c && "$1/bin/rumprun-bake" hw_generic x.bin x && test -s x.bin',
        taken,
    )


def test_an_upstream_out_of_reach_defers_and_installs_nothing(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    name = "deferred"
    nowhere = {**pin, "git": "git://127.0.0.1:1/rumprun.git"}
    run = play(row(name, nowhere))
    assert run.status == 0, run.output
    assert described(lab, name)["state"] == "deferred"
    assert "127.0.0.1:1" in described(lab, name)["reason"]
    assert "package" not in run.calls and "apt" not in run.calls
    assert "rumplab_strict" in play(row(name, nowhere, strict=True)).rows[name]["msg"]


def test_a_submodule_out_of_reach_defers(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    name = "submodule_unreachable"
    # Without submodule_urls, .gitmodules names an unreachable host.
    run = play(row(name, {key: value for key, value in pin.items() if key != "submodule_urls"}))
    assert run.status == 0, run.output
    reason = described(lab, name)["reason"]
    assert "submodule buildrump.sh: https://upstream.invalid/" in reason
    assert described(lab, name)["state"] == "deferred"


@pytest.mark.parametrize(
    ("commit", "parts"),
    [
        (ABSENT, [f"has no commit {ABSENT}"]),
        ("astray", ["submodule src-netbsd: ", "has no commit 1111111111"]),
        (
            "moved",
            ["'ppb: the driver's source'", "sys/rump/dev/lib/libpci/Makefile", "exactly once", "matches 0 times"],
        ),
        ("has_ppb", ["'ppb: PCI bridges attach", "sys/rump/dev/lib/libpci/PCI.ioconf", "already has"]),
    ],
)
def test_an_upstream_that_is_not_what_was_meant_is_an_error(
    play: Play, lab: Lab, pin: dict[str, Any], commits: dict[str, str], commit: str, parts: list[str]
) -> None:
    name = f"wrong_{commit[:7]}"
    run = play(row(name, {**pin, "commit": commits.get(commit, commit)}))
    assert run.status != 0
    for part in parts:
        assert part in run.rows[name]["msg"]
    assert lab.trees(NAME, of(name)) == []
    assert lab.leftovers(of(name)) == []


KNOWN = "GCC 5, 6, 7, 8, 9"


def test_without_a_compiler_that_is_known_to_do_the_labs_is_waited_for(
    play: Play, lab: Lab, pin: dict[str, Any]
) -> None:
    """Debian 12 has none of those; this mirror lacks the lab's GCC 9, and no other candidate is allowed."""
    name = "too_new"
    wanted = row(name, pin, compiler="", any_compiler=False, mirror="/srv/upstream/mirror", candidates=["mirror"])
    run = play(wanted)
    assert run.status == 0, run.output
    assert lab.descriptor("gcc", of(name))["state"] == described(lab, name)["state"] == "deferred"
    assert "gcc" in described(lab, name)["reason"]
    # Nothing can be built, so neither the source was fetched nor a package installed.
    assert lab.sh(f"ls {of(name)}/cache") == ""
    assert "package" not in run.calls and "apt" not in run.calls
    assert "rumplab_strict" in play({**wanted, "strict": True}).rows[name]["msg"]


def test_a_compiler_that_nobody_is_known_to_have_used_is_refused(play: Play, lab: Lab, pin: dict[str, Any]) -> None:
    run = play(row("named", pin, any_compiler=False), row("unnumbered", pin, any_compiler=False, compiler="gcc"))
    assert run.status != 0
    assert KNOWN in run.rows["named"]["msg"] and "gcc-12" in run.rows["named"]["msg"]
    # This name has no version, so only the build finds out.
    assert "gcc is GCC 12" in run.rows["unnumbered"]["msg"] and "GCC 5 6 7 8 9" in run.rows["unnumbered"]["msg"]
    assert lab.trees(NAME, of("unnumbered")) == []
