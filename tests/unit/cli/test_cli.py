"""The command line itself: verbs, help, exit codes, lazy loading."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys

import pytest
from support.labfixture import SOURCE, LabPrefix

from rumplab import __version__
from rumplab.cli import main


def test_overview_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    text = capsys.readouterr().out
    for verb, line in main.VERBS.items():
        assert re.search(rf"^  {verb} +{re.escape(line)}$", text, re.MULTILINE)


def test_no_arguments_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main([]) == 2
    assert "usage: rumplab VERB" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--version"]) == 0
    assert capsys.readouterr().out == f"rumplab {__version__}\n"


def test_unknown_verb_suggests_the_near_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["staus"]) == 2
    assert "did you mean status?" in capsys.readouterr().err


@pytest.mark.parametrize("verb", [*main.VERBS, *main.HIDDEN_VERBS])
def test_every_verb_has_help_with_examples(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main.main([verb, "--help"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: rumplab {verb}" in text
    assert "examples:" in text


def examples() -> list[str]:
    """Return every example line of the help texts."""
    texts = [main.EXAMPLES, *(main.verb_module(verb).EPILOG for verb in main.VERBS)]
    return [
        re.split(r"   +", line.strip())[0]
        for text in texts
        for line in text.splitlines()
        if line.startswith("  rumplab ")
    ]


@pytest.mark.parametrize("example", examples())
def test_examples_are_valid_command_lines(example: str) -> None:
    _, verb, *arguments = shlex.split(example)
    module = main.verb_module(verb)
    if getattr(module, "TAKES_EXTRA", False):
        arguments, _ = main.split_extra(arguments)
    main.verb_parser(verb, module).parse_args(arguments)


def test_only_the_verb_used_is_loaded() -> None:
    code = (
        "import sys; from rumplab.cli import main; main.main(['status']);"
        "print(*sorted(name for name in sys.modules if name.startswith('rumplab.')))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(SOURCE), "RUMPLAB_CONFIG": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=20,
        check=True,
    )
    loaded = {name.removeprefix("rumplab.commands.") for name in result.stdout.split()}
    assert loaded & set(main.VERBS) == {"status"}


def test_extra_arguments_stand_after_the_first_dashes() -> None:
    assert main.split_extra(["a", "--", "-x", "--", "y"]) == (["a"], ["-x", "--", "y"])
    assert main.split_extra(["a", "-x"]) == (["a", "-x"], [])


def test_no_lab_is_exit_3_and_says_how_to_get_one(empty_lab: LabPrefix) -> None:
    empty_lab.config.unlink()
    result = empty_lab.tool("status")
    assert result.returncode == 3
    assert str(empty_lab.config) in result.stderr
    assert "./provision" in result.stderr


def test_a_closed_pipe_is_no_traceback(empty_lab: LabPrefix) -> None:
    process = subprocess.Popen(
        empty_lab.argv("completion", "bash"),
        env=empty_lab.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.close()
    _, errors = process.communicate(timeout=20)
    assert "Traceback" not in errors
    assert process.returncode in (0, 141)


def test_a_full_output_is_an_error_not_a_traceback(empty_lab: LabPrefix) -> None:
    with open("/dev/full", "w", encoding="ascii") as full:
        result = subprocess.run(
            empty_lab.argv("status"),
            env=empty_lab.environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=20,
            check=False,
        )
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "No space left" in result.stderr


def test_an_option_without_its_value_tells_how_to_write_one_with_a_dash(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main.main(["run", "x.img", "--args", "-d"])
    assert "argument --args: expected one argument; write one that begins with '-' like this: --args=-x" in (
        capsys.readouterr().err
    )
