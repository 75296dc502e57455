"""The examples in the guide to a bug that happens once and in docs/commands/recording.md work as shown.

Scenario `default` runs all of them with the installed programs; here, those with pcihello or overrun run with the
host's QEMU and GDB.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.docs_examples import Example, check, examples
from support.labfixture import LabPrefix, host_tool
from support.staging import OVERRUN_EXAMPLE, ROOT, build, command

GUIDE = ROOT / "docs" / "guides" / "the-bug-that-happens-once.md"
PAGE = ROOT / "docs" / "commands" / "recording.md"
INSTALLED = "/opt/rumplab/{0}/{0}.bin"


def faults_of(example: Example, lab: LabPrefix, directory: Path, program: Path) -> list[str]:
    """Runs `example` in `directory` with `rumplab`, and returns the differences. `program` takes the place of the
    installed program of the same name."""
    installed = INSTALLED.format(program.stem)
    launcher = directory / "bin" / "rumplab"
    launcher.parent.mkdir()
    launcher.write_text(f'#!/bin/sh\nexec {shlex.join(lab.argv())} "$@"\n')
    launcher.chmod(0o755)

    def run(text: str) -> str:
        path = f"{launcher.parent}{os.pathsep}{lab.environment['PATH']}"
        done = subprocess.run(
            ["/bin/sh", "-c", text.replace(installed, str(program))],
            cwd=directory,
            env={**lab.environment, "PATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=300,
            check=False,
        )
        return done.stdout.replace(str(program), installed)

    return check(example, run)


@pytest.fixture(scope="session")
def overrun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program with a memory corruption, built with the host's compiler."""
    command("gcc")
    command("make")
    return build(OVERRUN_EXAMPLE, tmp_path_factory.mktemp("overrun") / "overrun.bin")


def test_the_guide_finds_its_bug(lab: LabPrefix, overrun: Path, tmp_path: Path) -> None:
    (example,) = examples(GUIDE)
    lab.component("overrun", {"program": str(overrun), "source": str(OVERRUN_EXAMPLE)}, source="bundle")
    faults = faults_of(example, lab, tmp_path, overrun)
    assert not faults, "\n".join(faults)


def with_pcihello() -> list[Example]:
    program = INSTALLED.format("pcihello")
    return [one for one in examples(PAGE) if any(program in text for text in one.commands)]


@pytest.mark.parametrize("example", with_pcihello(), ids=lambda example: str(example.line))
def test_the_examples_work_as_shown(lab: LabPrefix, pcihello: Path, tmp_path: Path, example: Example) -> None:
    # A provisioned lab has qemu-img too, for snapshots.
    lab.component("qemu", {name: host_tool(name) for name in ("qemu-system-x86_64", "qemu-img")})
    faults = faults_of(example, lab, tmp_path, pcihello)
    assert not faults, "\n".join(faults)
