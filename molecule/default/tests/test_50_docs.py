"""Run every example of the documentation that needs a provisioned lab, as the lab user."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from testinfra.host import Host

ROOT = Path(__file__).resolve().parents[3]

from support.docs_examples import Example, all_examples, check  # noqa: E402

PAGES: dict[str, list[Example]] = {}
for example in all_examples(ROOT):
    if example.env == "lab":
        PAGES.setdefault(example.file, []).append(example)


@pytest.fixture(scope="module")
def place(host: Host) -> Iterator[str]:
    """Make a directory for the lab user, and remove it with the examples' files afterwards."""
    path = host.check_output("runuser -u rumplab -- mktemp -d")
    yield path
    host.check_output("rm -r %s", path)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_do_what_it_says(host: Host, place: str, page: str) -> None:
    settings = ["-u", "rumplab", "-w", place, "-e", f"HOME={place}", "-e", f"TMPDIR={place}"]

    def run(script: str) -> str:
        done = subprocess.run(
            ["docker", "exec", "-i", *settings, host.backend.get_hostname(), "sh"],
            input=script,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout

    # A page's examples run in the order of the page.
    faults = [fault for example in PAGES[page] for fault in check(example, run)]
    assert not faults, "\n".join(faults)
