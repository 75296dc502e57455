"""The program with a memory corruption: the lab's GDB finds the cause backwards, run by an unprivileged user."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

DESCRIPTOR = "/opt/rumplab/etc/components.d/overrun.json"
STATE = "/tmp/overrun"
USER = (
    f"setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all env HOME={STATE} timeout 120"
)
# The program writes 1 to isa-debug-exit, and QEMU exits with 2 * 1 + 1.
CRASHED = 3
SESSION = (
    *("rr-goto end", "break trap", "reverse-continue", "print/x frame->rip"),
    *("watch letters[2].deliver", "reverse-continue", "bt", "list copy", "rr-where"),
)


@pytest.fixture(scope="module")
def descriptor(host: Host) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(DESCRIPTOR).content_string)
    return found


@pytest.fixture(scope="module")
def recording(host: Host, descriptor: dict[str, Any]) -> Iterator[str]:
    """Record a run; yield the recording's name."""
    host.check_output(f"install -d -o nobody -g nogroup {STATE}")
    ran = host.run(f"{USER} rumplab run {descriptor['paths']['program']} --exit-device --record --name crash")
    assert ran.rc == CRASHED, ran.stdout + ran.stderr
    assert "overrun: exception 0e rip 000000676e6f6c20" in ran.stdout
    yield "crash"
    assert host.run(f"{USER} rumplab recording rm crash").stdout == "crash removed\n"
    host.check_output(f"rm -r {STATE}")


def test_it_comes_from_the_repository(host: Host, descriptor: dict[str, Any]) -> None:
    assert (descriptor["state"], descriptor["source"], descriptor["licence"]) == ("installed", "bundle", "MIT")
    assert host.file(descriptor["paths"]["program"]).user == "rumplab"
    assert {"boot.S", "main.c", "pci.c", "rules.mk"} <= set(host.file(descriptor["paths"]["source"]).listdir())


def test_the_status_lists_it(host: Host) -> None:
    rows = json.loads(host.check_output(f"{USER} rumplab status --json"))["components"]
    (row,) = [row for row in rows if row["name"] == "overrun"]
    assert row["state"] == "installed"


def test_the_run_can_be_repeated(host: Host, recording: str) -> None:
    replayed = host.run(f"{USER} rumplab replay {recording} --check")
    assert replayed.rc == 0, replayed.stdout + replayed.stderr
    assert "overrun: exception 0e" in replayed.stdout
    assert "the console is as recorded" in replayed.stdout + replayed.stderr


def test_backwards_from_the_crash_to_the_write(host: Host, recording: str) -> None:
    words = " ".join(f"--ex '{command}'" for command in SESSION)
    said = host.run(f"{USER} rumplab debug {recording} --replay --batch {words} 2>&1").stdout
    assert "\n$1 = 0x676e6f6c20\n" in said, said
    # At the write, GDB shows the source of the installed program.
    assert re.search(r"^#0 .*copy \(to=.*, from=.*\) at .*main\.c:", said, re.MULTILINE), said
    assert re.search(
        r'^#1 .*write_letter \(number=.*2, text=.*"the third is too long"\) at .*main\.c:', said, re.MULTILINE
    )
    assert "while ((*to++ = *from++) != '\\0')" in said
    assert re.search(r"^instruction \d+ of \d+ \(\d+\.\d+ %\), pc 0x", said, re.MULTILINE)
