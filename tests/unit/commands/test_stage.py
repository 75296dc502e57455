"""`rumplab stage`, run as a user runs it: images, errors, interruptions."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import signal
import stat
import subprocess
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.staging import command, in_user_name_space, make_lab, stage_argv, stage_environment, tool_paths
from support.standin import PROGRAM

from rumplab.cli import main
from rumplab.commands import stage
from rumplab.errors import RumplabError, UsageError
from rumplab.image import stager, writer
from rumplab.image.layout import MIB, PARTITION_START

NASTY = "nä me $x `'\" ?&;"


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return make_lab(tmp_path / "prefix", tool_paths())


def run(lab: Path, *arguments: str | Path, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        stage_argv(*arguments),
        env=stage_environment(lab),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **options,  # type: ignore[call-overload]
    )


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def partition(image: Path, tmp_path: Path) -> Path:
    path = tmp_path / "partition"
    path.write_bytes(image.read_bytes()[PARTITION_START:])
    return path


def test_the_image_is_sound(lab: Path, program: Path, out: Path, tmp_path: Path) -> None:
    image = out / "a.img"
    result = run(lab, program, "-o", image, "--json", "--args", "one two")
    assert result.returncode == 0, result.stderr
    report = json.loads(result.stdout)
    assert report.pop("seconds") > 0
    assert report == {
        "image": str(image),
        "program": str(program),
        "size": image.stat().st_size,
        "sha256": digest(image),
    }
    assert sorted(path.name for path in out.iterdir()) == ["a.img", "a.img.rumplab.json"]
    assert json.loads((out / "a.img.rumplab.json").read_text()) == {
        "schema": 1,
        "format": "raw",
        "program": str(program),
        "sha256": digest(program),
        "args": "one two",
    }
    checked = subprocess.run(
        [tool_paths()["sfdisk"], "--verify", str(image)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert "No errors detected" in checked.stdout
    part = partition(image, tmp_path)
    subprocess.run([command("e2fsck"), "-fn", str(part)], capture_output=True, timeout=30, check=True)
    label = subprocess.run(
        [tool_paths()["debugfs"], "-R", "stats -h", str(part)], capture_output=True, text=True, timeout=30
    )
    assert "Filesystem volume name:   boot\n" in label.stdout
    head = image.read_bytes()[:512]
    assert head[:440] == (Path(tool_paths()["grub-modules"]) / "boot.img").read_bytes()[:440]
    assert head[510:] == b"\x55\xaa" and head[446] == 0x80
    assert image.stat().st_blocks * 512 < image.stat().st_size


def test_the_same_input_gives_the_same_image(lab: Path, program: Path, out: Path, tmp_path: Path) -> None:
    """The second stage has another directory, file name, mode, time stamp and umask, and starts 0.5 s later."""
    assert run(lab, program, "-o", out / "a.img").returncode == 0
    elsewhere = tmp_path / NASTY
    elsewhere.mkdir()
    other = elsewhere / "other"
    other.write_bytes(PROGRAM)
    other.chmod(0o400)
    os.utime(other, (1, 1))
    time.sleep(0.5)
    result = run(lab, "other", "-o", f"{NASTY}.img", cwd=elsewhere, umask=0o077)
    assert result.returncode == 0, result.stderr
    image = elsewhere / f"{NASTY}.img"
    assert digest(image) == digest(out / "a.img")
    assert stat.S_IMODE(image.stat().st_mode) == 0o600


@pytest.fixture
def public() -> Iterator[Path]:
    """A directory that every user can enter; pytest's own directories are only for root."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        yield path


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: becomes another user")
def test_another_user_makes_the_same_image(public: Path) -> None:
    lab = make_lab(public / "prefix", tool_paths())
    program = public / "program.bin"
    program.write_bytes(PROGRAM)
    for path in public.rglob("*"):
        path.chmod(0o755)
    assert run(lab, program, "-o", public / "a.img").returncode == 0
    child = os.fork()
    if child == 0:
        status = 1
        try:
            # The modules are loaded before the change of user: other users may not be able to read the checkout.
            os.environ.update(RUMPLAB_CONFIG=str(lab))
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            status = main.main(["stage", str(program), "-o", str(public / "b.img")])
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert digest(public / "a.img") == digest(public / "b.img")
    assert (public / "b.img").stat().st_uid == 65534


def test_different_input_gives_different_images(lab: Path, program: Path, out: Path, tmp_path: Path) -> None:
    config = tmp_path / "c.json"
    config.write_text("{}")
    variants: list[list[str]] = [[], ["--args", "x"], ["--args", '"x"'], ["--config", str(config)]]
    variants.append(["--size", "9"])
    for index, variant in enumerate(variants):
        assert run(lab, program, "-o", out / f"{index}.img", *variant).returncode == 0
    assert len({digest(out / f"{index}.img") for index in range(len(variants))}) == len(variants)


@pytest.mark.parametrize("shell", ["sh", "bash", "zsh"])
def test_the_printed_commands_make_the_same_image(lab: Path, tmp_path: Path, out: Path, shell: str) -> None:
    interpreter = command(shell)
    program = tmp_path / NASTY
    program.write_bytes(PROGRAM)
    config = tmp_path / f"{NASTY}.json"
    config.write_text('{"a": "\'$\\\\ü"}\n')
    image = out / f"{NASTY}.img"
    arguments: list[str | Path] = [program, "-o", image, "--config", config, "--args", "a  $b; #c"]
    printed = run(lab, *arguments, "--dry-run")
    assert printed.returncode == 0, printed.stderr
    assert not list(out.iterdir())
    subprocess.run([interpreter], input=printed.stdout, text=True, capture_output=True, timeout=60, check=True)
    by_hand = digest(out / f"{NASTY}.img")
    assert [path.name for path in out.iterdir()] == [f"{NASTY}.img"]
    assert run(lab, *arguments, "--force").returncode == 0
    assert digest(out / f"{NASTY}.img") == by_hand


def test_force_replaces_image_and_description(lab: Path, program: Path, out: Path, tmp_path: Path) -> None:
    image = out / "a.img"
    assert run(lab, program, "-o", image).returncode == 0
    before = digest(image)
    refused = run(lab, program, "-o", image, "--args", "new")
    assert refused.returncode == 1
    assert f"{image} exists; overwrite it with --force" in refused.stderr
    assert digest(image) == before
    assert run(lab, program, "-o", image, "--args", "new", "--force").returncode == 0
    assert digest(image) != before
    assert json.loads((out / "a.img.rumplab.json").read_text())["args"] == "new"


def test_a_link_as_output_is_replaced_not_followed(lab: Path, program: Path, out: Path) -> None:
    target = out / "target"
    target.write_text("keep me")
    (out / "a.img").symlink_to(target)
    assert run(lab, program, "-o", out / "a.img").returncode == 1
    assert run(lab, program, "-o", out / "a.img", "--force").returncode == 0
    assert target.read_text() == "keep me"
    assert not (out / "a.img").is_symlink()


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["{program}", "-o", "{out}/none/a.img"], 1, "{out}/none is not a directory"),
        (["{program}", "-o", "{out}"], 1, "{out} exists and is not a file"),
        (["{program}", "-o", "{program}", "--force"], 1, "is the program itself"),
        (["{program}", "-o", "/dev/null", "--force"], 1, "/dev/null exists and is not a file"),
        (["{out}/none", "-o", "{out}/a.img"], 1, "cannot read {out}/none: No such file"),
        (["{program}", "-o", "{out}/a.img", "--size", "1"], 1, "larger than the image: it needs 3 MiB"),
        (["{program}", "-o", "{out}/a.img", "--size", "x"], 2, "--size x: give a number"),
        (["{program}", "-o", "{out}/a.img", "--config", "{out}/none"], 1, "cannot read {out}/none"),
        (["{program}"], 2, "-o/--output"),
    ],
)
def test_refusals_leave_nothing(
    lab: Path, program: Path, out: Path, arguments: list[str], status: int, message: str
) -> None:
    places = {"program": str(program), "out": str(out)}
    result = run(lab, *[argument.format(**places) for argument in arguments])
    assert result.returncode == status
    assert message.format(**places) in result.stderr
    assert "Traceback" not in result.stderr
    assert not list(out.iterdir())
    assert program.read_bytes() == PROGRAM


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1,\n  "b" 2}', "line 2, column 7"),
        (b"", "line 1, column 1"),
        (b'{"a": NaN}', "NaN is not a JSON value"),
        (b'{"a":\n"\xff"}', "line 2: not UTF-8"),
        (b'\xef\xbb\xbf{"a": 1}', "line 1, column 1: Unexpected UTF-8 BOM"),
        (b"[" * 200000, "nested too deeply"),
        (b'"' + b"x" * MIB + b'"', "is larger than 1 MiB"),
    ],
)
def test_bad_configurations(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "c.json"
    path.write_bytes(content)
    with pytest.raises(RumplabError) as refusal:
        stage.read_configuration(path)
    assert message in str(refusal.value) and str(path) in str(refusal.value)


def test_a_configuration_goes_in_as_it_is(tmp_path: Path) -> None:
    """rumprun's format repeats keys, which a JSON parser would lose."""
    path = tmp_path / "c.json"
    path.write_bytes(b'{ "blk": {"source": "dev"}, "blk": {} }\n')
    content = stage.read_configuration(path)
    assert stager.choose_content("a b", content) == stager.Content("a b", ("config.json", path.read_bytes()))
    with pytest.raises(UsageError, match="move it into the configuration"):
        stager.choose_content('a "b"', content)


def test_arguments_that_grub_would_change_become_a_module() -> None:
    assert stager.choose_content("a $b", None) == stager.Content("a $b", None)
    assert stager.choose_content('{"a": 1}', None) == stager.Content("", ("arguments", b'{"a": 1}'))
    assert stager.choose_content(None, None) == stager.Content("", None)


def test_not_provisioned(tmp_path: Path, program: Path, out: Path) -> None:
    result = run(tmp_path / "none.json", program, "-o", out / "a.img")
    assert result.returncode == 3
    lab = make_lab(tmp_path / "lab", {"sfdisk": "/nonexistent/sfdisk"})
    result = run(lab, program, "-o", out / "a.img")
    assert result.returncode == 3
    assert "./provision --tags rump_stager" in result.stderr
    assert not list(out.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_without_write_permission(lab: Path, program: Path, out: Path) -> None:
    out.chmod(0o555)
    result = run(lab, program, "-o", out / "a.img")
    assert result.returncode == 1 and f"{out} is not writable" in result.stderr


def failing_tool(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "tool"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("tool", "text", "message"),
    [
        ("mke2fs", "echo >&2 broken; exit 1", "/tool failed: broken"),
        ("grub-mkimage", "exit 3", "/tool failed: exit status 3"),
        ("debugfs", "echo >&2 'debugfs 1.0 (date)'; echo >&2 'write: nope'", "write: nope"),
        (
            "debugfs",
            "echo >&2 'write: No space left on device'",
            "no space left: the image needs 3 MiB in {out}",
        ),
    ],
)
def test_a_failing_tool_leaves_nothing(
    tmp_path: Path, program: Path, out: Path, tool: str, text: str, message: str
) -> None:
    lab = make_lab(tmp_path / "lab", {**tool_paths(), tool: str(failing_tool(tmp_path, text))})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    result = subprocess.run(
        stage_argv(program, "-o", out / "a.img"),
        env={**stage_environment(lab), "TMPDIR": str(scratch)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 1
    assert message.format(out=out) in result.stderr
    assert not list(out.iterdir()) and not list(scratch.iterdir())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_an_interruption_leaves_nothing(tmp_path: Path, program: Path, out: Path, number: int) -> None:
    marker = tmp_path / "started"
    slow = failing_tool(tmp_path, f"touch {marker}; exec sleep 60")
    lab = make_lab(tmp_path / "lab", {**tool_paths(), "mke2fs": str(slow)})
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    process = subprocess.Popen(
        stage_argv(program, "-o", out / "a.img"), env={**stage_environment(lab), "TMPDIR": str(scratch)}
    )
    deadline = time.monotonic() + 20
    while not marker.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert list(out.iterdir())
    process.send_signal(number)
    assert process.wait(timeout=20) == 128 + number
    assert not list(out.iterdir()) and not list(scratch.iterdir())


def test_a_tool_that_hangs_is_given_up(
    tmp_path: Path, lab: Path, program: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = failing_tool(tmp_path, "exec sleep 60")
    other = make_lab(tmp_path / "other", {**tool_paths(), "mke2fs": str(slow)})
    monkeypatch.setenv("RUMPLAB_CONFIG", str(other))
    monkeypatch.setattr(writer, "PATIENCE", 0)
    monkeypatch.setattr(writer, "SLOWEST", 10 * MIB)
    parser = argparse.ArgumentParser()
    stage.add_arguments(parser)
    with pytest.raises(RumplabError, match="took more than 0 s and was stopped"):
        stage.run(parser.parse_args([str(program), "-o", str(out / "a.img")]))
    assert not list(out.iterdir())


@pytest.fixture
def small_disk(tmp_path: Path) -> Path:
    path = tmp_path / "small disk"
    path.mkdir()
    return path


def in_small_disk(disk: Path, size: str, argv: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """Run `argv` in its own mount namespace, with a tmpfs of `size` at `disk`."""
    script = 'mount -t tmpfs -o size="$1" tmpfs "$2"; cd "$2"; shift 2; "$@"; code=$?; ls -A; exit $code'
    return in_user_name_space(["sh", "-c", script, "sh", size, disk, *argv], environment, disk)


def test_a_full_disk_is_seen_before_anything_is_written(lab: Path, tmp_path: Path, small_disk: Path) -> None:
    program = tmp_path / "large.bin"
    program.write_bytes(PROGRAM + b"x" * 5 * MIB)
    status, said = in_small_disk(
        small_disk, "4m", stage_argv(program, "-o", small_disk / "a.img"), stage_environment(lab)
    )
    assert status == 1
    assert said == (
        f"rumplab stage: no space left: the image needs 8 MiB in {small_disk}, which has 4 MiB free,"
        f" and 1 MiB in {tempfile.gettempdir()}; free some space or choose another directory with -o\n"
    )


def test_a_disk_that_fills_while_staging(lab: Path, tmp_path: Path, small_disk: Path) -> None:
    """Without the check of free space, as if another program had used up the space after the check."""
    program = tmp_path / "large.bin"
    program.write_bytes(PROGRAM + b"x" * 5 * MIB)
    argv = stage_argv(program, "-o", small_disk / "a.img")
    patched = (
        "import sys; from rumplab.cli import main; from rumplab.image import writer;"
        "writer.check_space = lambda *_: None; sys.exit(main.main(sys.argv[1:]))"
    )
    argv = [argv[0], "-c", patched, *argv[3:]]
    status, said = in_small_disk(small_disk, "4m", argv, stage_environment(lab))
    assert status == 1
    assert said.startswith(f"rumplab stage: no space left: the image needs 8 MiB in {small_disk}, which has ")
    assert said.count("\n") == 1


def test_only_one_of_several_claims_of_a_name_succeeds(tmp_path: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from rumplab.image import writer

    def take(number: int) -> bool:
        mine = tmp_path / f"mine-{number}"
        mine.write_text(str(number), encoding="utf-8")
        try:
            writer.take_name(mine, tmp_path / "out")
        except RumplabError as error:
            assert "has been made by another process meanwhile" in str(error)
            return False
        return True

    with ThreadPoolExecutor(20) as all_at_once:
        won = list(all_at_once.map(take, range(20)))
    assert won.count(True) == 1
    assert (tmp_path / "out").read_text(encoding="utf-8") == str(won.index(True))


def test_of_twenty_stages_to_one_name_one_makes_it(lab: Path, program: Path, out: Path) -> None:
    argvs = [stage_argv(program, "-o", out / "a.img", f"--args=WHICH_{number:02}") for number in range(20)]
    environment = stage_environment(lab)
    stages = [subprocess.Popen(argv, env=environment, stderr=subprocess.PIPE, text=True) for argv in argvs]
    ends = [(stage.communicate(timeout=120)[1], stage.returncode) for stage in stages]
    won = [number for number, (_, status) in enumerate(ends) if status == 0]
    assert len(won) == 1, ends
    for said, status in ends:
        assert status == 0 or "a.img exists" in said or "has been made by another process meanwhile" in said, said
    assert sorted(path.name for path in out.iterdir()) == ["a.img", "a.img.rumplab.json"]
    assert f"WHICH_{won[0]:02}".encode() in (out / "a.img").read_bytes()
    assert f"WHICH_{won[0]:02}" in (out / "a.img.rumplab.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("locked", [True, False])
def test_an_image_and_its_description_are_of_one_stage(
    tmp_path: Path, locked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several stages replace one output at once. Without the lock, the test must find a wrong pair."""
    from concurrent.futures import ThreadPoolExecutor

    if not locked:
        monkeypatch.setattr(writer, "alone_in", lambda _: contextlib.nullcontext())
    output = tmp_path / "a.img"

    def replace(number: int) -> None:
        result, description = tmp_path / f"r{number}", tmp_path / f"d{number}"
        result.write_text(str(number), encoding="utf-8")
        description.write_text(str(number), encoding="utf-8")
        writer.publish(result, description, output, force=True)

    mixed = 0
    with ThreadPoolExecutor(8) as all_at_once:
        for start in range(0, 2400, 8):
            list(all_at_once.map(replace, range(start, start + 8)))
            mixed += output.read_text() != writer.sidecar(output).read_text()
    assert (mixed == 0) is locked


def test_a_lock_on_the_directory_keeps_nobody_from_staging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PUBLISHING", 0.1)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    for name in ("r", "d"):
        (tmp_path / name).touch()
    writer.publish(tmp_path / "r", tmp_path / "d", tmp_path / "a.img", force=False)
    os.close(handle)
    assert (tmp_path / "a.img").exists()


def test_what_a_killed_stage_left_is_swept_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from rumplab.host import files

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    (tmp_path / "rumplab-smoke-0").mkdir()
    with files.work_directory("smoke") as used, files.work_directory("smoke") as place:
        assert sorted(tmp_path.iterdir()) == sorted([used, place])
        assert used.stat().st_mode & 0o777 == 0o700
    assert not list(tmp_path.iterdir())
    left, other = tmp_path / f"{files.PREFIX}0", tmp_path / "other"
    left.touch()
    other.touch()
    (tmp_path / f"{files.PREFIX}1").mkdir()
    with files.temporary_file(tmp_path) as used, files.temporary_directory(tmp_path) as place:
        files.sweep(tmp_path)
        assert sorted(tmp_path.iterdir()) == sorted([used, place, other])
