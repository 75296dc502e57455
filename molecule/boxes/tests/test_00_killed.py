"""A box on which many runs were killed: the next one repairs it, and uninstalling leaves nothing."""

from __future__ import annotations

import os
import random
import re
import time

import leftovers
import pytest
from box import CHECKOUT, Box, outcome

KILLS = 20
# Seconds into a run. A run that isn't disturbed takes about 40 after its environment is made.
LATEST = 45.0
PROVISION = "./provision $RUMPLAB_CACHE"
# Everything in the container but its first process and this shell ends at once, as when a host loses its power.
END_ALL = "kill -KILL -1"


@pytest.mark.whole
@pytest.mark.stable
def test_uninstalling_after_many_kills_leaves_nothing(box: Box) -> None:
    made = box.run("./provision --list-tasks")
    assert made.returncode == 0, made.stdout
    before = leftovers.listed(box.name)
    seed = int(os.environ.get("RUMPLAB_SEED", time.time_ns() % 1_000_000))
    print(f"RUMPLAB_SEED={seed}")
    chance = random.Random(seed)
    ended = 0
    for _ in range(KILLS):
        moment = chance.uniform(1, LATEST)
        done = box.run(f"{PROVISION} >/tmp/run.log 2>&1 & sleep {moment:.2f}; kill -0 $! && echo killed; {END_ALL}")
        ended += "killed" in done.stdout
    # Most of them have done nothing but go on where the one before was ended; few come to their end in time.
    assert ended >= KILLS // 2, f"only {ended} of {KILLS} runs were still going on when they were killed"

    repaired = box.run(PROVISION)
    assert outcome(repaired).endswith("failed=0")
    again = box.run(PROVISION)
    assert outcome(again) == "changed=0 failed=0", again.stdout
    works = box.run("rumplab doctor --verify")
    assert works.returncode == 0, works.stdout

    # One more is ended in the midst of it, so that what a killed run leaves is there when uninstalling begins.
    box.run("rm -rf /opt/rumplab/store/gdb-* /opt/rumplab/store/qemu-*")
    box.run(f"{PROVISION} >/tmp/run.log 2>&1 & sleep {chance.uniform(3, 12):.2f}; {END_ALL}")
    uninstall = ".venv/bin/ansible-playbook playbooks/uninstall.yml"
    gone = box.run(uninstall)
    assert re.search(r"changed=[1-9]\d* .*failed=0", gone.stdout), gone.stdout
    assert outcome(box.run(uninstall)) == "changed=0 failed=0"
    box.run("rm -f /tmp/run.log")

    after = leftovers.listed(box.name)
    assert sorted(after["packages"]) == sorted(before["packages"])
    own = CHECKOUT + "/"
    changed = leftovers.changed_files(before, after)
    assert {path: was for path, was in changed.items() if not path.startswith(own)} == {}
