"""The shells' completion scripts, tried in the shells."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from unit.labfixture import LabPrefix, host_tool

from rumplab.cli import main
from rumplab.commands import completion

# A stand-in for the launcher: completion asks `rumplab ps` for names.
LAUNCHER = "#!/bin/sh\nprintf 'NAME  STATE\\nhello  running\\nother  running\\n'\n"


def complete(directory: Path, *words: str) -> set[str]:
    """What bash offers for the last of `words`."""
    launcher = directory / "rumplab"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)
    script = completion.script("bash") + (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _rumplab; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    result = subprocess.run(
        [host_tool("bash"), "-c", script, "bash", "rumplab", *words],
        env={"PATH": f"{directory}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    assert result.stderr == ""
    return set(result.stdout.split())


def test_verbs(tmp_path: Path) -> None:
    assert complete(tmp_path, "") == {*main.VERBS, "--help", "--version"}
    assert complete(tmp_path, "st") == {"status", "stage", "stop"}


def test_options_and_their_choices(tmp_path: Path) -> None:
    assert "--gdb-port" in complete(tmp_path, "run", "--")
    assert "--reprobe" not in complete(tmp_path, "run", "--")
    assert complete(tmp_path, "run", "--accel", "") == {"auto", "kvm", "hvf", "tcg"}
    assert complete(tmp_path, "run", "--disk", "v") == {"virtio", "virtio-scsi"}


def test_sub_verbs_and_their_options(tmp_path: Path) -> None:
    assert {"create", "start", "stop", "break"} <= complete(tmp_path, "guest", "")
    assert complete(tmp_path, "guest", "start", "--k") == {"--kernel", "--key-file", "--kgdb"}
    assert complete(tmp_path, "guest", "create", "nb", "--boot", "") == {"grub", "direct"}


@pytest.mark.parametrize("verb", ["debug", "logs", "stop"])
def test_machines(tmp_path: Path, verb: str) -> None:
    assert {"hello", "other"} <= complete(tmp_path, verb, "")
    assert complete(tmp_path, verb, "h") == {"hello"}


def test_bash_script_passes_shellcheck(tmp_path: Path) -> None:
    script = tmp_path / "rumplab.bash"
    script.write_text("# shellcheck shell=bash\n" + completion.script("bash"), encoding="utf-8")
    result = subprocess.run(
        [host_tool("shellcheck"), str(script)], capture_output=True, text=True, timeout=60, check=False
    )
    assert result.returncode == 0, result.stdout


def test_zsh_takes_it(tmp_path: Path) -> None:
    script = tmp_path / "_rumplab"
    script.write_text(completion.script("zsh"), encoding="utf-8")
    subprocess.run([host_tool("zsh"), "-n", str(script)], timeout=20, check=True)


def test_verb_prints_it(empty_lab: LabPrefix) -> None:
    result = empty_lab.tool("completion", "zsh")
    assert result.stdout == completion.script("zsh")
    assert empty_lab.tool("completion", "fish").returncode == 2
