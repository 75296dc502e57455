"""Tools in containers: docker's command line, when a container is used, and signals that end a real container."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.labfixture import SOURCE, LabPrefix

from rumplab.cli import main
from rumplab.commands import debug
from rumplab.container import builder_images, docker, runner
from rumplab.container.docker import Image
from rumplab.container.mounts import Mount
from rumplab.container.runner import Caller, Container
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.lab import config
from rumplab.machine.registry import Machine
from rumplab.postmortem import elf, record

# The tests need any image; the scenarios start from this one.
BASE = "rumplab/debian:12"
BOX = Container(
    image="rumplab/stager",
    name="n",
    command=("rumplab", "stage", "a b", "-o", "c"),
    mounts=(Mount("/srv/a b", writable=True),),
    caller=Caller(1000, 100, (4, 27), 0o022, "/srv/a b"),
)


def has_image() -> bool:
    try:
        return docker.image(BASE) is not None
    except RumplabError:
        return False


def needs_engine(test: Callable[..., None]) -> Any:
    """Mark a test that `./test` runs in its part `engine`, after it has made the image."""
    without = pytest.mark.skipif(not has_image(), reason=f"no Docker engine here has {BASE}")
    return pytest.mark.engine(without(test))


def test_the_command_line() -> None:
    argv = runner.run_argv(BOX)
    assert shlex.split(shlex.join(argv)) == argv
    assert argv[:2] == ["docker", "run"]
    for words in (
        ["--pull", "never"],
        ["--cap-drop", "ALL"],
        ["--security-opt", "no-new-privileges"],
        ["--user", "1000:100"],
        ["--network", "none"],
        ["--workdir", "/srv/a b"],
        ["--group-add", "4"],
        ["--group-add", "27"],
        ["--mount", "type=bind,source=/srv/a b,target=/srv/a b"],
    ):
        assert any(argv[at : at + 2] == words for at in range(len(argv))), words
    assert argv[-6:] == ["rumplab/stager", "rumplab", "stage", "a b", "-o", "c"]
    assert not {"--privileged", "--device", "--tty", "--interactive", "--volume"} & set(argv)


def test_a_terminal_is_passed_on_where_there_is_one() -> None:
    argv = runner.run_argv(replace(BOX, stdin=True, terminal=True, network=None))
    assert {"--interactive", "--tty", "--env", "TERM"} <= set(argv)
    assert "--network" not in argv


def test_the_umask_is_the_callers() -> None:
    command = runner.with_umask(["sh", "-c", "umask; echo $1", "sh", "a b"], 0o077)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "0077\na b\n"


def test_a_verbs_arguments_are_passed_on_except_those_for_the_host() -> None:
    words = ["p", "--container", "-o", "x", "--dry-run", "--", "--container"]
    assert runner.words_inside(words) == ["p", "-o", "x", "--", "--container"]


@pytest.mark.parametrize(
    ("asked", "platform", "installed", "expected"),
    [
        (True, "linux", True, True),
        (False, "linux", False, False),
        (False, "darwin", True, False),
        (False, "darwin", False, True),
        (True, "darwin", True, True),
    ],
)
def test_when_a_container_is_used(
    empty_lab: LabPrefix, asked: bool, platform: str, installed: bool, expected: bool
) -> None:
    if installed:
        empty_lab.component("gdb", {"gdb": "/bin/true"})
    assert runner.wanted(asked, config.load(), platform, "gdb") is expected


def answer(monkeypatch: pytest.MonkeyPatch, status: int, said: str = "", error: str = "") -> None:
    done = subprocess.CompletedProcess(["docker"], status, said, error)
    monkeypatch.setattr(docker, "ask", lambda *words, **more: done)


def test_an_image_that_is_missing_names_the_command_and_the_reason(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"image": "rumplab/gdb:latest", "state": "deferred", "stamp": None, "id": None, "reason": "gdb: no route"}
    description = {"schema": 1, "images": {"gdb": one}}
    (empty_lab.prefix / "etc" / "images.json").write_text(json.dumps(description))
    answer(monkeypatch, 1, error="Error: No such image: rumplab/gdb:latest")
    with pytest.raises(NotProvisioned, match=r"no image rumplab/gdb:latest \(gdb: no route\); make it: .*images.yml"):
        builder_images.find(config.load(), "gdb")


def test_an_unreachable_engine_is_not_reported_as_a_missing_image(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer(monkeypatch, 1, error="Cannot connect to the Docker daemon at unix:///x. Is it running?")
    with pytest.raises(RumplabError, match=r"can't be used: Cannot connect.*; start it") as caught:
        builder_images.find(config.load(), "gdb")
    assert caught.value.exit_code == 1


def test_an_image_that_the_lab_did_not_make_is_not_run(empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, 0, '{"id": "sha256:1", "labels": null}')
    with pytest.raises(RumplabError, match="is not one of rumplab's"):
        builder_images.find(config.load(), "gdb")


@pytest.mark.parametrize(
    ("status", "said", "error", "state"),
    [
        (0, '{"id": "sha256:1", "labels": {}}', "", "installed"),
        (0, '{"id": "sha256:2", "labels": {}}', "", "replaced"),
        (1, "", "Error: No such image: rumplab/gdb:latest", "missing"),
        (1, "", "Cannot connect to the Docker daemon", "unknown"),
    ],
)
def test_the_state_of_an_image_is_asked_of_the_engine(
    empty_lab: LabPrefix, monkeypatch: pytest.MonkeyPatch, status: int, said: str, error: str, state: str
) -> None:
    assert builder_images.present(config.load()) == []
    one = {"image": "rumplab/gdb:latest", "state": "installed", "stamp": "ab" * 32, "id": "sha256:1", "reason": None}
    (empty_lab.prefix / "etc" / "images.json").write_text(json.dumps({"schema": 1, "images": {"gdb": one}}))
    answer(monkeypatch, status, said, error)
    assert [found.state for found in builder_images.present(config.load())] == [state]


@pytest.mark.parametrize("content", ['{"schema": 1}', '{"schema": 1, "images": {"gdb": {"image": 3}}}', "{"])
def test_a_damaged_description_names_the_remedy(empty_lab: LabPrefix, content: str) -> None:
    (empty_lab.prefix / "etc" / "images.json").write_text(content)
    with pytest.raises(RumplabError, match=r"images\.json.*write it again: .*playbooks/images\.yml"):
        builder_images.described(config.load())


@pytest.mark.parametrize(("rootless", "ids"), [(True, (0, 0)), (False, (os.getuid(), os.getgid()))])
def test_in_a_rootless_engine_root_is_the_caller(
    monkeypatch: pytest.MonkeyPatch, rootless: bool, ids: tuple[int, int]
) -> None:
    answer(monkeypatch, 0, '["name=seccomp,profile=default"' + (',"name=rootless"]' if rootless else "]"))
    who = runner.caller()
    assert (who.uid, who.gid) == ids
    assert who.directory == os.getcwd()


def test_the_debuggers_command_line_on_both_systems(
    empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program, work = tmp_path / "prog", tmp_path / "work"
    program.touch()
    work.mkdir()
    monkeypatch.chdir(work)
    answer(monkeypatch, 0, "[]")
    paths = {"gdb": "/i/gdb", "gdbinit": "/i/gdbinit"}
    labels = {"rumplab.components": json.dumps([{"name": "gdb", "paths": paths}])}
    image = Image("rumplab/gdb", "sha256:1", labels)
    gdb, gdbinit = debug.debugger_inside(image)
    session = debug.Session(gdb=gdb, gdbinit=gdbinit, remote="127.0.0.1:1234", program=str(program), batch=True)
    machine = Machine(name="m", directory=str(work), gdb_port=1234)
    for platform, network, place in (
        ("linux", ["--network", "host"], "127.0.0.1"),
        ("darwin", [], "host.docker.internal"),
    ):
        monkeypatch.setattr(debug.sys, "platform", platform)
        remote = debug.remote_inside(machine, "16.3", platform)
        assert debug.run_inside(image, replace(session, remote=remote), machine, dry_run=True) == 0
        argv = shlex.split(capsys.readouterr().out)
        assert argv[argv.index("--network") :][:2] == network if network else "--network" not in argv
        assert f"target remote {place}:1234" in argv
        assert argv[argv.index("rumplab/gdb") + 1] == "/i/gdb"
        assert f"type=bind,source={program},target={program},readonly" in argv
        assert f"type=bind,source={work},target={work}" in argv


def test_a_dump_is_opened_in_a_container(
    empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    answer(monkeypatch, 0, "[]")
    labels = {"rumplab.components": json.dumps([{"name": "gdb", "paths": {"gdb": "/i/gdb", "gdbinit": "/i/gdbinit"}}])}
    image = Image("rumplab/gdb", "sha256:1", labels)
    rumplab_note = record.note(record.Record("nb", kind="netbsd"))
    note = elf.Segment(elf.PT_NOTE, 64, 0, 0, len(elf.note_bytes(rumplab_note)))
    at = 64 + note.size
    dump = tmp_path / "nb.core"
    content = elf.core_header(True, elf.EM_X86_64, at, 1) + elf.note_bytes(rumplab_note) + elf.segment_bytes(note, True)
    dump.write_bytes(content)
    words = ["--core", str(dump), "--batch", "--dry-run", "--ex", "nb-dmesg"]
    args = main.verb_parser("debug", debug).parse_args(words)
    args.extra = []
    assert debug.open_core(args, config.load(), image) == 0
    argv = shlex.split(capsys.readouterr().out)
    assert argv[argv.index("rumplab/gdb") + 1] == "/i/gdb"
    assert argv[argv.index("--network") :][:2] == ["--network", "none"]
    assert f"core-file {dump}" in argv
    # The container has the dump and the commands for NetBSD's kernels.
    (helpers,) = [word.partition(" ")[2] for word in argv if word.startswith("source ")]
    for file in (str(dump), helpers):
        assert f"type=bind,source={file},target={file},readonly" in argv


def test_build_mounts_sources_and_cache_and_passes_settings(
    empty_lab: LabPrefix, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, home, output = tmp_path / "module", tmp_path / "home", tmp_path / "out"
    for directory in (module / "cmd", home / "go" / "src", output):
        directory.mkdir(parents=True)
    (module / "go.mod").write_text("module example.org/m\n", encoding="utf-8")
    (module / "cmd" / "main.go").write_text("package main\nfunc main() {}\n", encoding="utf-8")
    answer(monkeypatch, 0, "[]")
    monkeypatch.setattr(docker, "image", lambda name: Image(name, "sha256:1", {"rumplab.component": "go_builder"}))
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.delenv("GOPATH", raising=False)
    monkeypatch.setenv("CGO_LDFLAGS", "-lm -lz")
    monkeypatch.chdir(tmp_path)
    assert main.main(["build", "module/cmd", "-o", "out/p.bin", "--container", "--dry-run"]) == 0
    argv = shlex.split(capsys.readouterr().out)
    at = argv.index("rumplab/go-builder:latest")
    assert argv[at + 1 :] == ["rumplab", "build", "module/cmd", "-o", "out/p.bin"]
    mounted = [argv[n + 1] for n, word in enumerate(argv) if word == "--mount"]
    assert mounted == [
        f"type=bind,source={home}/go/src,target={home}/go/src,readonly",
        f"type=bind,source={module},target={module},readonly",
        f"type=bind,source={output},target={output}",
    ]
    settings = [argv[n + 1] for n, word in enumerate(argv) if word == "--env"]
    assert settings == [
        "HOME=/tmp",
        f"XDG_CACHE_HOME={home}/.cache",
        f"GOPATH={home}/go",
        "CGO_LDFLAGS=-lm -lz",
    ]


def start(*command: str) -> tuple[subprocess.Popen[str], str]:
    """Run `command` in a container of the base image; return the process and the container's name."""
    name = runner.new_name("test")
    box = replace(BOX, image=BASE, name=name, command=command, mounts=(), caller=replace(BOX.caller, directory="/"))
    script = f"""
        import sys
        from rumplab.container import runner
        try:
            sys.exit(runner.supervise({runner.run_argv(box)!r}, {name!r}))
        except KeyboardInterrupt:
            sys.exit(130)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, name


def exists(name: str) -> bool:
    return docker.ask("container", "inspect", name).returncode == 0


@needs_engine
def test_the_status_is_the_programs_own() -> None:
    process, name = start("sh", "-c", "id -u; exit 7")
    said = process.communicate(timeout=60)[0]
    assert (process.returncode, said) == (7, "1000\n")
    assert not exists(name)


@needs_engine
def test_what_docker_cannot_run_is_its_failure() -> None:
    process, _ = start("/no/such/program")
    error = process.communicate(timeout=60)[1]
    assert "docker could not run the container" in error


@needs_engine
@pytest.mark.parametrize("after", [0.0, 0.15, 0.3, None])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_container(number: Any, after: float | None) -> None:
    """`after` is the delay in seconds: before or while docker makes the container; with None, while it runs."""
    process, name = start("sh", "-c", "echo runs; sleep 600")
    assert process.stdout is not None
    if after is None:
        assert process.stdout.readline() == "runs\n"
    else:
        deadline = time.monotonic() + 20
        # Wait until Python has installed its signal handlers: from then on, docker's command is its child.
        while not Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(after)
    process.send_signal(number)
    started = time.monotonic()
    process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert time.monotonic() - started < 25
    assert not exists(name)


@needs_engine
def test_a_program_that_ignores_signals_is_ended_too() -> None:
    process, name = start("sh", "-c", "trap '' TERM INT HUP; echo runs; while :; do sleep 1; done")
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM
    assert not exists(name)
