"""Which variables of the caller's environment a program gets that the tool starts."""

from __future__ import annotations

import ast
import json
import subprocess
from pathlib import Path

import pytest
from support.labfixture import SOURCE, LabPrefix, host_tool

from rumplab.host import child_environment, process

# The functions that start a program, by module.
STARTS = {
    "children": ("running",),
    "subprocess": ("run", "Popen", "call", "check_call", "check_output", "getoutput"),
    "os": (
        *("system", "popen", "posix_spawn", "execv", "execl", "execvp", "execlp", "spawnv", "spawnl"),
        *("execve", "execvpe"),
    ),
}
HOSTILE = {
    "LD_PRELOAD": "libnosuch.so.0",
    "LD_LIBRARY_PATH": "/nonexistent",
    "PYTHONHOME": "/nonexistent",
    "PYTHONPATH": "/nonexistent",
    "PYTHONWARNINGS": "error",
    "LC_ALL": "xx_XX.UTF-8",
    "LANGUAGE": "de",
    "GIT_DIR": "/nonexistent",
    "MAKEFLAGS": "--no-such-flag",
    "QEMU_AUDIO_DRV": "nonexistent",
    "QEMU_MODULE_DIR": "/nonexistent",
    "TMPDIR": "/nonexistent",
    "MKE2FS_CONFIG": "/nonexistent",
    "MALLOC_PERTURB_": "165",
    "BASH_ENV": "/nonexistent",
    "GOFLAGS": "-nonsense",
    "GCC_COLORS": "error=31",
}


def starts(path: Path) -> list[tuple[int, bool]]:
    """Return each call in `path` that starts a program: its line, and whether it passes a chosen environment."""
    found = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner = ast.unparse(node.func.value)
        given = [ast.unparse(value) for value in (*node.args, *(word.value for word in node.keywords))]
        says = any("child_environment.of(" in text or text == "environment" for text in given)
        if node.func.attr in STARTS.get(owner, ()):
            found.append((node.lineno, says))
    return found


def test_every_call_that_starts_a_program_passes_an_environment() -> None:
    calls = {path: starts(path) for path in sorted((SOURCE / "rumplab").rglob("*.py"))}
    assert sum(map(len, calls.values())) >= 12
    assert [f"{path}:{line}" for path, found in calls.items() for line, says in found if not says] == []


@pytest.mark.parametrize("kind", sorted(set(child_environment.SEEN) - {child_environment.ITSELF}))
def test_no_variable_of_a_hostile_environment_is_passed_on(kind: str) -> None:
    seen = child_environment.of(kind, {**HOSTILE, "PATH": "/bin", "HOME": "/h"})
    own = {"LC_ALL", "LC_CTYPE", "LC_MESSAGES", "LANGUAGE"}
    assert set(seen) - own == {"PATH", "HOME"}
    if kind != child_environment.GDB:
        assert "LANGUAGE" not in seen
        assert seen.get("LC_ALL", seen.get("LC_MESSAGES")) == "C"


def test_a_program_gets_the_variables_of_its_kind(tmp_path: Path) -> None:
    given = {"DOCKER_HOST": "unix:///x", "CPATH": "/c", "DISPLAY": ":0", "TMPDIR": str(tmp_path), "LANG": "de_DE.UTF-8"}
    docker = child_environment.of(child_environment.DOCKER, given)
    assert set(docker) - {"LC_CTYPE", "LC_MESSAGES"} == {"DOCKER_HOST", "TMPDIR"}
    build = child_environment.of(child_environment.BUILD, given)
    assert (build["CPATH"], build["TMPDIR"], build["LC_CTYPE"]) == ("/c", str(tmp_path), "de_DE.UTF-8")
    assert child_environment.of(child_environment.GDB, {**given, "RUMPLAB_CONFIG": "/x"})["RUMPLAB_CONFIG"] == "/x"
    assert child_environment.of(child_environment.GDB, given)["LANG"] == "de_DE.UTF-8"


def test_stage_run_and_debug_work_in_a_hostile_environment(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    """Stage, run and debug with the real tools, and with the launcher's option for Python."""
    environment = {**lab.environment, **HOSTILE}

    def tool(*arguments: str | Path) -> str:
        done = subprocess.run(
            process.own_command(*map(str, arguments)),
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    image = tmp_path / "a.img"
    tool("stage", pcihello, "-o", image)
    tool("run", image, "--accel", "tcg", "--wait", "--detach", "--name", "hostile")
    machine = json.loads(tool("ps", "--json"))[0]
    seen = Path(f"/proc/{machine['pid']}/environ").read_bytes()
    assert b"LD_PRELOAD" not in seen
    assert b"nonexistent" not in seen
    assert "pci_device_found" in tool("debug", "hostile", "pci_device_found", "--batch", "--ex", "bt")


def test_a_loader_that_ignores_a_library_is_no_failure(lab: LabPrefix, pcihello: Path, tmp_path: Path) -> None:
    """As with a missing library in /etc/ld.so.preload, which no environment can prevent."""
    wrapper = tmp_path / "debugfs"
    said = "ERROR: ld.so: object 'libnosuch.so.0' from /etc/ld.so.preload cannot be preloaded: ignored."
    wrapper.write_text(f'#!/bin/sh\necho "{said}" >&2\nexec {host_tool("debugfs")} "$@"\n')
    wrapper.chmod(0o755)
    paths = json.loads(lab.descriptor("rump_stager").read_text())["paths"]
    lab.component("rump_stager", {**paths, "debugfs": str(wrapper)})
    result = lab.tool("stage", pcihello, "-o", tmp_path / "a.img")
    assert result.returncode == 0, result.stderr
    shown = [line for line in lab.tool("doctor").stdout.splitlines() if "rump_stager/debugfs" in line]
    assert "ok" in shown[0]
    assert "debugfs 1." in shown[0]
    wrapper.write_text(f'#!/bin/sh\necho "debugfs: No such file" >&2\nexec {host_tool("debugfs")} "$@"\n')
    assert lab.tool("stage", pcihello, "-o", tmp_path / "b.img").returncode == 1
