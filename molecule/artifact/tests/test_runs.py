"""Cases with more than one run: nothing to do, generations, kills, two at once, no network."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.upstream.driving import DELAY, PREFIX, Lab, Play, Rows, of


def test_the_converged_tree(lab: Lab) -> None:
    assert lab.hello("hello", PREFIX) == "bright morning"
    assert lab.sh(f"cat {PREFIX}/hello/etc/note") == "ours"
    described = lab.descriptor("hello", PREFIX)
    assert (described["state"], described["source"], described["version"]) == ("installed", "upstream", "1.0")
    assert described["licence"] == "BSD-2-Clause"
    assert described["paths"] == {"hello": f"{PREFIX}/hello/bin/hello"}
    tree = described["tree"]
    assert lab.link("hello", PREFIX) == f"store/hello-1.0-{described['stamp'][:12]}" == tree.removeprefix(f"{PREFIX}/")
    assert lab.sh(f"cat {tree}/.complete") == described["stamp"]
    assert lab.sh(f"cat {tree}/builder") == lab.sh("id -u rumplab")
    assert lab.leftovers(PREFIX) == []


def test_a_run_with_nothing_to_do_asks_for_one_stat_a_tree(play: Play, rows: Rows) -> None:
    wanted = [rows("idle_one"), rows("idle_two", edits=rows.edit("new"))]
    first = play(*wanted)
    assert first.status == 0, first.output
    assert first.calls.count("artifact") == 2
    second = play(*wanted)
    assert second.status == 0
    # The facts come from the first run's cache.
    assert second.calls == ["stat", "stat"]
    assert "changed=0 " in second.output


def test_a_changed_edit_makes_a_new_tree_and_undoing_it_switches_back(play: Play, lab: Lab, rows: Rows) -> None:
    name = "generations"
    plain, edited = rows(name), rows(name, edits=rows.edit("fine"))
    first = play(plain, {**edited, "key": "edited"}).rows
    assert first["edited"]["tree"] != first[name]["tree"]
    assert lab.hello(name) == "fine morning"
    assert len(lab.trees(name)) == 2
    built = lab.sh(f"stat -c %y {of(name)}/var/log/build/{name}.log {of(name)}/store/{name}-*/bin/hello")
    # The server can't be reached; a tree in the store doesn't need it.
    back = play({**plain, "source": {**plain["source"], "urls": ["http://127.0.0.1:1/hello-1.0.tar"]}})
    assert (back.rows[name]["tree"], back.rows[name]["switched"]) == (first[name]["tree"], True)
    assert lab.hello(name) == "good morning"
    assert lab.descriptor(name)["tree"] == first[name]["tree"]
    assert lab.sh(f"stat -c %y {of(name)}/var/log/build/{name}.log {of(name)}/store/{name}-*/bin/hello") == built
    third = play(rows(name, edits=rows.edit("third"))).rows[name]
    assert third["removed"] == [first["edited"]["tree"]]
    assert len(lab.trees(name)) == 2 and lab.hello(name) == "third morning"


@pytest.mark.parametrize("how", ["build", "edit", "hash"])
def test_a_failure_leaves_the_older_tree_in_use(play: Play, lab: Lab, rows: Rows, how: str) -> None:
    name = f"failing_{how}"
    ways: dict[str, dict[str, Any]] = {
        "build": {"build": rows.build("broken")},
        "edit": {"edits": rows.edit("x", anchor="nowhere")},
        "hash": {"source": rows.pin("altered", "hello-1.1.tar"), "version": "1.1"},
    }
    ended = play(rows(name), rows(name, key="bad", **ways[how]))
    assert ended.status == 2 and ended.rows["bad"]["failed"]
    assert lab.hello(name) == "good morning"
    assert len(lab.trees(name)) == 1
    assert lab.descriptor(name)["tree"] == ended.rows[name]["tree"]
    assert lab.leftovers(of(name)) == []


def test_a_build_that_is_killed_half_way_leaves_nothing_to_trust(play: Play, lab: Lab, rows: Rows) -> None:
    name = "killed"
    old, new = rows(name), rows(name, build=rows.build("slow"), edits=rows.edit("late"))
    assert play(old).status == 0
    lab.sh(f"echo 20 >{DELAY}")
    process, answer = play.start(new)
    lab.until(lambda: "waiting" in lab.log(name))
    holder = lab.holder(name)
    assert lab.builders()
    lab.sh('kill -KILL "$1"', str(holder))
    ended = play.end(process, answer)
    assert ended.status == 2 and "ended without a result" in ended.rows[name]["msg"]
    assert lab.hello(name) == "good morning"
    assert len(lab.trees(name)) == 1
    lab.sh(f"echo 0 >{DELAY}")
    # The build's child may run on for 20 s. The next run ends it instead of waiting.
    again = play(new)
    assert again.status == 0 and again.rows[name]["switched"], again.output
    assert lab.builders() == []
    assert again.rows[name]["waited"] < 10
    assert lab.hello(name) == "late morning"
    assert len(lab.trees(name)) == 2 and lab.leftovers(of(name)) == []


def test_the_second_of_two_runs_waits_or_says_who_holds_the_lock(play: Play, lab: Lab, rows: Rows) -> None:
    name = "twice"
    wanted = rows(name, build=rows.build("slow"))
    # Even on a slow host, the first run still builds when the others start.
    lab.sh(f"echo 240 >{DELAY}")
    first = play.start(wanted)
    lab.until(lambda: "waiting" in lab.log(name))
    holder = lab.holder(name)
    patient = play.start(wanted)
    hasty = play({**wanted, "lock_wait": 1})
    assert f"process {holder} (providing {name}, since 20" in hasty.rows[name]["msg"], hasty.rows
    lab.sh(f"echo 0 >{DELAY}")
    ended = play.end(*first).rows[name]
    assert ended["changed"] and ended["waited"] < 1
    waited = play.end(*patient).rows[name]
    assert not waited["changed"] and waited["waited"] > 1
    assert len(lab.trees(name)) == 1


@pytest.mark.usefixtures("no_network")
def test_without_a_network_the_mirror_serves_and_all_else_is_deferred(play: Play, lab: Lab, rows: Rows) -> None:
    far = {"urls": [f"http://{host}/hello-1.0.tar" for host in ("upstream.invalid", "192.0.2.1")]}
    wanted = rows("far", source={**rows.pin(), **far})
    near = rows("near", source={**rows.pin(), **far}, mirror="/srv/upstream/mirror")
    # A package that Debian has and this container lacks.
    needs = rows("needs", packages=["hello"], prefix=PREFIX)
    ended = play(wanted, near, needs)
    assert ended.status == 0, ended.output
    assert ended.rows["far"]["state"] == "deferred"
    assert "upstream.invalid" in ended.rows["far"]["reason"] and "192.0.2.1" in ended.rows["far"]["reason"]
    assert ended.rows["near"]["state"] == "installed"
    assert lab.hello("near") == "good morning"
    assert ended.rows["needs"]["state"] == "deferred" and "packages hello" in ended.rows["needs"]["reason"]
