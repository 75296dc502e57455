"""A host on which many runs were killed: the next run repairs it, and uninstalling leaves nothing."""

from __future__ import annotations

import itertools
import os
import random
import re
import time

import pytest
from support import leftovers
from support.box import CHECKOUT, Box, outcome

KILLS = 20
RUNS = 80
# The times of the kills, in seconds after a run's start. A whole run takes about 40.
LATEST = 30.0
PROVISION = "./provision $RUMPLAB_CACHE"
UNINSTALL = ".venv/bin/ansible-playbook playbooks/uninstall.yml"
# Kills every process in the container except the first one and this shell at once, as a power cut does.
END_ALL = "kill -KILL -1"


def killed(box: Box, command: str, moment: float) -> bool:
    """Run the command and kill it after `moment` seconds; return whether it was still running then.

    It must not fail before: a run must cope with what killed runs have left.
    """
    log = "/tmp/run.log"
    ended = f"sleep {moment:.2f}; if kill -0 $run 2>/dev/null; then echo killed; else wait $run; fi"
    done = box.run(f"{command} >{log} 2>&1 & run=$!; {ended} && {END_ALL}")
    if "killed" in done.stdout:
        return True
    assert done.returncode in (0, 137), box.run(f"cat {log}").stdout
    return False


@pytest.mark.whole
@pytest.mark.stable
def test_uninstalling_after_many_kills_leaves_nothing(box: Box) -> None:
    made = box.run("./provision --list-tasks")
    assert made.returncode == 0, made.stdout
    before = leftovers.listed(box.name)
    seed = int(os.environ.get("RUMPLAB_SEED", time.time_ns() % 1_000_000))
    print(f"RUMPLAB_SEED={seed}")
    chance = random.Random(seed)
    # If a run ends before its kill, the lab is uninstalled, so that the next run has something to do.
    commands, kills = itertools.cycle((PROVISION, UNINSTALL)), 0
    command = next(commands)
    for _ in range(RUNS):
        if kills == KILLS:
            break
        if killed(box, command, chance.uniform(1, LATEST)):
            kills += 1
        else:
            command = next(commands)
    assert kills == KILLS

    repaired = box.run(PROVISION)
    assert outcome(repaired).endswith("failed=0")
    again = box.run(PROVISION)
    assert outcome(again) == "changed=0 failed=0", again.stdout
    works = box.run("rumplab drift")
    assert works.returncode == 0, works.stdout

    # Kill one more run, so that uninstalling begins with what it leaves.
    box.run("rm -rf /opt/rumplab/store/gdb-* /opt/rumplab/store/pcihello-*")
    killed(box, PROVISION, chance.uniform(3, 12))
    gone = box.run(UNINSTALL)
    assert re.search(r"changed=[1-9]\d* .*failed=0", gone.stdout), gone.stdout
    assert outcome(box.run(UNINSTALL)) == "changed=0 failed=0"
    box.run("rm -f /tmp/run.log")

    after = leftovers.listed(box.name)
    assert sorted(after["packages"]) == sorted(before["packages"])
    left = (*leftovers.LEFT, *leftovers.LEFT_BY_KILLS, f"{re.escape(CHECKOUT)}/.*")
    assert leftovers.changed_files(before, after, left) == {}
