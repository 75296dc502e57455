"""Staged images booted in QEMU by their own boot loader."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from support.staging import (
    DONE,
    boot_image,
    build,
    copy_example,
    make_lab,
    needs_compiler,
    needs_qemu,
    stage_argv,
    stage_environment,
    tool_paths,
)

from rumplab.image.grub import PROGRAM

pytestmark = [pytest.mark.qemu, needs_qemu, needs_compiler]

NASTY = '$x ${y} "\'`\\ \\x41 \\" # ; {} [] | & <> ! ~ * ? %s , ,, = ü€😀\u2028 end'


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("program")
    return build(copy_example(directory / "source"), directory / "pcihello.bin")


@pytest.fixture
def lab(tmp_path: Path) -> Path:
    return make_lab(tmp_path / "prefix", tool_paths())


def boot_output(lab: Path, program: Path, *arguments: str | Path) -> str:
    """Stage the program, boot the image, and return the console's output."""
    image = lab.parent / "a, b ü.img"
    subprocess.run(
        stage_argv(program, "-o", image, *arguments),
        env=stage_environment(lab),
        capture_output=True,
        timeout=60,
        check=True,
    )
    status, said = boot_image(image)
    assert status == DONE, said
    assert said.endswith("pcihello: done\n")
    return said


def test_the_command_line_arrives(lab: Path, program: Path) -> None:
    arguments = "$x ${y} # ; {} [] | & <> ! ~ * ? ` , ,, =  two   spaces ü€😀 -- end "
    said = boot_output(lab, program, f"--args={arguments}")
    assert f"pcihello: command line: {PROGRAM} {arguments}\n" in said
    assert "pcihello: module" not in said


def test_arguments_that_grub_would_change_arrive(lab: Path, program: Path) -> None:
    arguments = json.dumps({"cmdline": NASTY}, ensure_ascii=False)
    said = boot_output(lab, program, "--args", arguments)
    assert f"pcihello: command line: {PROGRAM}\n" in said
    assert f"pcihello: module 0: {len(arguments.encode())} bytes, /boot/arguments\n{arguments}\n" in said


@pytest.mark.parametrize("length", [0, 100_000])
def test_the_configuration_arrives(lab: Path, program: Path, tmp_path: Path, length: int) -> None:
    config = tmp_path / "c ü.json"
    content = json.dumps({NASTY: [NASTY, None, 1e9], "pad": "x" * length}, ensure_ascii=False, indent=1)
    config.write_text(content)
    said = boot_output(lab, program, "--config", config, "--args", "one two")
    assert f"pcihello: command line: {PROGRAM} one two\n" in said
    assert f"pcihello: module 0: {len(content.encode())} bytes, /boot/config.json\n{content}\n" in said


def test_a_larger_image_boots_too(lab: Path, program: Path) -> None:
    assert "00:00.0 8086:1237" in boot_output(lab, program, "--size", "3G")
