"""The examples in the guide to a bug that happens once and in docs/commands/recording.md work as shown."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.docs_examples import Example, check, examples
from support.labfixture import LabPrefix, host_tool
from support.staging import EXAMPLES, ROOT, command

GUIDE = ROOT / "docs" / "guides" / "the-bug-that-happens-once.md"
PAGE = ROOT / "docs" / "commands" / "recording.md"
INSTALLED = "/opt/rumplab/pcihello/pcihello.bin"


def faults_of(example: Example, lab: LabPrefix, directory: Path, program: str = INSTALLED) -> list[str]:
    """Runs `example` in `directory`, which has the sources, with `rumplab`, and returns the differences."""
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
def test_the_examples_work_as_shown(lab: LabPrefix, pcihello: Path, tmp_path: Path, example: Example) -> None:
    # A provisioned lab has qemu-img too, for snapshots.
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    faults = faults_of(example, lab, tmp_path, str(pcihello))
    assert not faults, "\n".join(faults)
