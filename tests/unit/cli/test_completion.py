"""The completion scripts, run in bash and zsh."""

from __future__ import annotations

import subprocess
from pathlib import Path

import completions
import pytest
from support.labfixture import LabPrefix, host_tool

from rumplab.cli import main
from rumplab.commands import completion

# A stand-in for the launcher: completion asks it for names.
LAUNCHER = """\
#!/bin/sh
case $1 in
    ps | guest) printf 'NAME  STATE\\nhello  running\\nother  running\\n' ;;
    recording) printf 'NAME  STATE\\ncrash  complete\\nearlier  mended\\n' ;;
esac
"""


def complete(directory: Path, *words: str) -> set[str]:
    """Return what bash offers for the last of `words`."""
    launcher = directory / "rumplab"
    launcher.write_text(LAUNCHER, encoding="utf-8")
    launcher.chmod(0o755)
    script = completion.script("bash") + (
        'COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _shtab_rumplab; printf "%s\\n" "${COMPREPLY[@]}"'
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


@pytest.mark.parametrize("shell", completion.SCRIPTS)
def test_the_committed_scripts_are_up_to_date(shell: str) -> None:
    remedy = "run: tools/python tools/completions.py"
    assert completion.script(shell) == completions.made(shell), remedy


def test_verbs(tmp_path: Path) -> None:
    assert complete(tmp_path, "") == set(main.VERBS)
    assert complete(tmp_path, "st") == {"status", "stage", "stop"}


def test_options_and_their_choices(tmp_path: Path) -> None:
    assert "--gdb-port" in complete(tmp_path, "run", "--")
    assert "--reprobe" not in complete(tmp_path, "run", "--")
    assert complete(tmp_path, "run", "--accel", "") == {"auto", "kvm", "hvf", "tcg"}
    assert complete(tmp_path, "run", "--disk", "v") == {"virtio", "virtio-scsi"}


def test_sub_commands_and_their_options(tmp_path: Path) -> None:
    assert {"create", "start", "stop", "break"} <= complete(tmp_path, "guest", "")
    assert complete(tmp_path, "net", "") == {"up", "down", "status"}
    assert complete(tmp_path, "guest", "start", "--k") == {"--kgdb"}
    assert complete(tmp_path, "guest", "create", "nb", "--boot", "") == {"grub", "direct"}


@pytest.mark.parametrize("words", ["debug", "logs", "stop", "guest debug", "ipkdb connect"])
def test_machines_and_guests(tmp_path: Path, words: str) -> None:
    assert {"hello", "other"} <= complete(tmp_path, *words.split(), "")
    assert complete(tmp_path, *words.split(), "h") == {"hello"}


@pytest.mark.parametrize("words", ["replay", "recording show", "recording rm", "recording rm crash"])
def test_recordings(tmp_path: Path, words: str) -> None:
    assert {"crash", "earlier"} <= complete(tmp_path, *words.split(), "")
    assert complete(tmp_path, *words.split(), "e") == {"earlier"}


def test_bash_accepts_the_script(tmp_path: Path) -> None:
    script = tmp_path / "rumplab.bash"
    script.write_text(completion.script("bash"), encoding="utf-8")
    subprocess.run([host_tool("bash"), "-n", str(script)], timeout=20, check=True)


def test_zsh_accepts_the_script(tmp_path: Path) -> None:
    script = tmp_path / "_rumplab"
    script.write_text(completion.script("zsh"), encoding="utf-8")
    subprocess.run([host_tool("zsh"), "-n", str(script)], timeout=20, check=True)


def test_the_verb_prints_the_script(empty_lab: LabPrefix) -> None:
    result = empty_lab.tool("completion", "zsh")
    assert result.stdout == completion.script("zsh")
    assert empty_lab.tool("completion", "fish").returncode == 2
