"""A row for each case between a pin and an installed tree; one run provides all rows."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.upstream.driving import DELAY, GIT, HTTP, LABS, Lab, Play, Rows, Run, in_container, of

ODD = "/opt/lab \u00fc x"
SUBSTITUTE = {"apt_source": "hello-source", "member": "usr/src/*.tar"}
OTHER = f"{LABS}/other"
DOWN = "http://127.0.0.1:1"


def all_rows(rows: Rows) -> list[dict[str, Any]]:
    """Return the rows of this file."""
    built = {"built_cache": "/var/cache/built", "edits": rows.edit("cached")}
    return [
        rows("redirect", source=rows.pin("redirect")),
        rows("flaky", source=rows.pin("flaky")),
        rows("second_url", source={**rows.pin(), "urls": [*rows.pin("404")["urls"], *rows.pin()["urls"]]}),
        rows("git_good", source=rows.git()),
        # Failures that a later run may not have.
        rows("truncated", source=rows.pin("truncated", "noise.bin")),
        rows("stall", source=rows.pin("stall", "noise.bin")),
        rows("down", source=rows.pin(server=DOWN)),
        rows("missing_404", source=rows.pin("404")),
        rows("error_500", source=rows.pin("500")),
        rows("git_down", source=rows.git(server=f"{GIT}:1")),
        # Failures that every run has.
        rows("no_dependency", packages=["no-such-package-of-any-archive"]),
        rows("wrong_hash", source=rows.pin("altered", "hello-1.1.tar")),
        rows("denied_403", source=rows.pin("403")),
        rows("git_no_commit", source=rows.git("1" * 40)),
        rows("edit_zero", edits=rows.edit("x", anchor="nowhere")),
        rows("edit_twice", edits=rows.edit("x", anchor="this line stands twice", file="twice.txt")),
        rows("edit_no_file", edits=rows.edit("x", file="absent.c")),
        rows("build_fails", build=rows.build("broken")),
        rows("build_endless", build=rows.build("slow"), build_timeout=2),
        rows("build_by_root", user="root"),
        rows("path_missing", paths={"hello": "bin/hello", "bye": "bin/bye"}),
        # Sources of the lab: a mirror, and this repository.
        rows(
            "mirror_directory",
            candidates=["mirror"],
            mirror="/srv/upstream/mirror",
            source=rows.pin(server=DOWN),
        ),
        rows("mirror_url", candidates=["mirror"], mirror=f"{HTTP}/mirror", source=rows.pin(server=DOWN)),
        # The bundle has the artefact's name, so the row has it too.
        rows(
            "hello",
            key="mirror_git",
            candidates=["mirror"],
            mirror="/srv/upstream/mirror",
            prefix=OTHER,
            source=rows.git(server=f"{GIT}:1"),
        ),
        rows("mirror_without", candidates=["mirror"], mirror="/srv/upstream/apt", source=rows.pin(server=DOWN)),
        rows("mirror_only", candidates=["mirror"]),
        # Substitutes, and runs that refuse them.
        rows("substitute", source=rows.pin(server=DOWN), substitute=SUBSTITUTE),
        rows("substitute", key="substitute_again", source=rows.pin(server=DOWN), substitute=SUBSTITUTE),
        rows("substitute", key="substitute_retried", substitute=SUBSTITUTE, retry=True),
        rows("strict_deferral", strict=True, source=rows.pin(server=DOWN)),
        rows("strict_substitute", strict=True, source=rows.pin(server=DOWN), substitute=SUBSTITUTE),
        rows("strict_good", strict=True, substitute=SUBSTITUTE),
        # Various prefixes.
        rows("disk_full", prefix="/mnt/small", build=rows.build("large")),
        rows("disk_small", prefix="/mnt/small", space=100),
        rows("read_only", prefix="/mnt/readonly"),
        rows("odd_prefix", prefix=ODD),
        # The cache of built trees.
        rows("built", **built),
        rows("built", key="built_restored", **built, prefix=OTHER, source=rows.pin(server=DOWN)),
    ]


@pytest.fixture(scope="session")
def run(play: Play, rows: Rows) -> Run:
    """The run of all of them."""
    in_container("sh", "-c", f"echo 60 >{DELAY}")
    done = play(*all_rows(rows))
    assert len(done.rows) == len(all_rows(rows)), done.output
    return done


def is_not_there(lab: Lab, name: str) -> None:
    """Assert that no run left a part of this artefact that a later run would use."""
    assert lab.trees(name) == []
    assert lab.link(name) == ""
    assert lab.leftovers(of(name)) == []


@pytest.mark.parametrize(
    ("name", "kind", "origin"),
    [
        ("redirect", "upstream", f"{HTTP}/redirect/hello-1.0.tar"),
        ("flaky", "upstream", f"{HTTP}/flaky/hello-1.0.tar"),
        ("second_url", "upstream", f"{HTTP}/files/hello-1.0.tar"),
        ("git_good", "upstream", f"{GIT}/hello.git"),
        ("mirror_directory", "mirror", "/srv/upstream/mirror/hello-1.0.tar"),
        ("mirror_url", "mirror", f"{HTTP}/mirror/hello-1.0.tar"),
        ("strict_good", "upstream", f"{HTTP}/files/hello-1.0.tar"),
    ],
)
def test_is_installed(run: Run, lab: Lab, name: str, kind: str, origin: str) -> None:
    assert run.rows[name]["state"] == "installed", run.rows[name]
    assert lab.hello(name) == "good morning"
    described = lab.descriptor(name)
    assert (described["state"], described["source"], described["reason"]) == ("installed", kind, None)
    assert described["origin"] == origin


def test_git_comes_from_a_bundle_of_the_mirror(run: Run, lab: Lab) -> None:
    assert run.rows["mirror_git"]["source"] == "mirror", run.rows["mirror_git"]
    assert lab.hello("hello", OTHER) == "good morning"


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("truncated", "cut off after 131072 of 262144 bytes"),
        ("stall", "timed out"),
        ("down", "refused"),
        ("missing_404", "HTTP 404"),
        ("error_500", "HTTP 500"),
        ("git_down", "refused"),
        ("mirror_without", "/srv/upstream/apt/hello-1.0.tar: no such file in the mirror"),
        ("mirror_only", "set rumplab_candidates and rumplab_mirror"),
    ],
)
def test_is_deferred(run: Run, lab: Lab, name: str, reason: str) -> None:
    answer = run.rows[name]
    assert answer["state"] == "deferred", answer
    assert reason in answer["reason"]
    described = lab.descriptor(name)
    assert (described["state"], described["reason"], described["tree"]) == (
        "deferred",
        answer["reason"],
        None,
    )
    assert f"{name}: deferred:" in run.output
    is_not_there(lab, name)


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (
            "wrong_hash",
            [f"{HTTP}/altered/hello-1.1.tar is not the pinned file: sha256 ", ", expected "],
        ),
        ("no_dependency", ["packages: no-such-package-of-any-archive"]),
        ("denied_403", ["HTTP 403"]),
        ("git_no_commit", [f"has no commit {'1' * 40}"]),
        ("edit_zero", ["edit 'greeting'", "greeting.txt", "matches 0 times"]),
        ("edit_twice", ["edit 'greeting'", "twice.txt", "matches 2 times (1, 2)"]),
        ("edit_no_file", ["edit 'greeting'", "absent.c, which this source doesn't have"]),
        (
            "build_fails",
            ["failed with status 2", "the fixture is broken on purpose", "var/log/build/build_fails.log"],
        ),
        ("build_endless", ["longer than 2 s"]),
        ("build_by_root", ["builds don't run as root"]),
        ("path_missing", ["made no bin/bye in the tree"]),
        ("strict_deferral", ["rumplab_strict allows neither a substitute nor a deferral", "refused"]),
        ("strict_substitute", ["rumplab_strict allows neither a substitute nor a deferral", "refused"]),
    ],
)
def test_fails(run: Run, lab: Lab, name: str, parts: list[str]) -> None:
    answer = run.rows[name]
    assert answer["failed"], answer
    for part in parts:
        assert part in answer["msg"]
    is_not_there(lab, name)


def test_a_wrong_hash_names_the_pinned_one_and_the_one_that_came(run: Run, lab: Lab, rows: Rows) -> None:
    pinned = rows.upstream["sha256"]["hello-1.1.tar"]
    script = "python3 -c \"import hashlib; b = open('/srv/upstream/files/hello-1.1.tar', 'rb').read(); "
    script += 'print(hashlib.sha256(b[:-1] + bytes([b[-1] ^ 1])).hexdigest())"'
    assert f"sha256 {lab.sh(script)}, expected {pinned}" in run.rows["wrong_hash"]["msg"]


def test_a_failure_ends_the_run_and_is_seen(run: Run) -> None:
    assert run.status == 2
    assert "failed=1 " in run.output
    assert "the fixture is broken on purpose" in run.output


def test_a_failed_builds_log_is_kept(run: Run, lab: Lab) -> None:
    assert "the fixture is broken on purpose" in lab.log("build_fails")


def test_a_substitute_serves_and_says_so(run: Run, lab: Lab) -> None:
    answer = run.rows["substitute"]
    assert (answer["state"], answer["source"], answer["version"]) == ("installed", "substitute", "0.9"), answer
    assert answer["reason"] == "substitute 1.0 can't be reached; package hello-source 1:0.9-2 serves instead"


def test_a_substitute_that_serves_is_left_alone(run: Run) -> None:
    assert run.rows["substitute_again"] == {"failed": False}


def test_the_upstream_takes_over_again_when_asked_to(run: Run, lab: Lab) -> None:
    answer = run.rows["substitute_retried"]
    assert (answer["state"], answer["source"], answer["version"]) == ("installed", "upstream", "1.0"), answer
    described = lab.descriptor("substitute")
    assert (described["version"], described["wanted"], described["reason"]) == ("1.0", "1.0", None)
    assert len(lab.trees("substitute")) == 2


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("disk_full", "no space left on the device while building"),
        ("disk_small", "needs about 100 MiB in /mnt/small"),
    ],
)
def test_a_disk_without_room_is_told(run: Run, lab: Lab, name: str, said: str) -> None:
    assert run.rows[name]["failed"] and said in run.rows[name]["msg"], run.rows[name]
    assert lab.trees(name, "/mnt/small") == []
    assert lab.leftovers("/mnt/small") == []
    assert int(lab.sh("df -m --output=avail /mnt/small | tail -1")) > 20


def test_a_read_only_prefix_is_told(run: Run) -> None:
    answer = run.rows["read_only"]
    assert answer["failed"] and "/mnt/readonly" in answer["msg"] and "read-only" in answer["msg"], answer


def test_a_prefix_with_blanks_and_more_works_and_leaves_nothing_outside(run: Run, lab: Lab) -> None:
    assert run.rows["odd_prefix"]["state"] == "installed", run.rows["odd_prefix"]
    assert lab.hello("odd_prefix", ODD) == "good morning"
    assert lab.descriptor("odd_prefix", ODD)["paths"] == {"hello": f"{ODD}/odd_prefix/bin/hello"}
    assert lab.sh("find /var/tmp -mindepth 1") == ""


def test_a_tree_that_was_built_before_is_not_built_again(run: Run, lab: Lab) -> None:
    answer = run.rows["built_restored"]
    assert answer["state"] == "installed", answer
    assert lab.hello("built", OTHER) == "cached morning"
    assert lab.log("built", OTHER) == ""


def test_builds_belong_to_the_lab_user(run: Run, lab: Lab) -> None:
    user = lab.sh("id -u rumplab")
    assert user != "0"
    assert lab.sh(f"cat {of('redirect')}/redirect/builder") == user
    assert lab.sh(f"find {LABS} /mnt/small -mindepth 1 ! -user rumplab") == ""
