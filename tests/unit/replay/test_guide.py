"""The guide to the bug that happens once, and what docs/commands/recording.md shows: their commands do that."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.docs_examples import Example, check, examples
from support.labfixture import LabPrefix
from support.staging import EXAMPLES, ROOT, command

GUIDE = ROOT / "docs" / "guides" / "the-bug-that-happens-once.md"
PAGE = ROOT / "docs" / "commands" / "recording.md"
INSTALLED = "/opt/rumplab/pcihello/pcihello.bin"


def faults_of(example: Example, lab: LabPrefix, directory: Path, program: str = INSTALLED) -> list[str]:
    """What isn't as `example` says, in `directory`, where the sources of the examples are, and with `rumplab`."""
    (directory / "examples").symlink_to(EXAMPLES)
    launcher = directory / "bin" / "rumplab"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(lab.argv())} "$@"\n')
    launcher.chmod(0o755)

    def run(text: str) -> str:
        path = f"{launcher.parent}{os.pathsep}{lab.environment['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", text.replace(INSTALLED, program)],
            cwd=directory,
            env={**lab.environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout.replace(program, INSTALLED)

    return check(example, run)


def test_the_guide_finds_its_bug(lab: LabPrefix, tmp_path: Path) -> None:
    command("gcc")
    command("make")
    (example,) = examples(GUIDE)
    faults = faults_of(example, lab, tmp_path)
    assert not faults, "\n".join(faults)


@pytest.mark.parametrize("example", examples(PAGE), ids=lambda example: str(example.line))
def test_the_page_shows_what_happens(lab: LabPrefix, pcihello: Path, tmp_path: Path, example: Example) -> None:
    faults = faults_of(example, lab, tmp_path, str(pcihello))
    assert not faults, "\n".join(faults)
