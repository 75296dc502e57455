"""The documentation's examples run, and their parser finds faults."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
from support.docs_examples import (
    BadExample,
    Example,
    all_examples,
    check,
    doubled_headings,
    endless,
    examples,
    faults,
    matches,
)

ROOT = Path(__file__).resolve().parents[3]


def shell(text: str) -> str:
    environment = {**os.environ, "PATH": f"{ROOT / '.venv' / 'bin'}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", text],
        cwd=ROOT,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    return done.stdout


def read(tmp_path: Path, text: str) -> list[Example]:
    path = tmp_path / "page.md"
    path.write_text(text, "utf-8")
    return examples(path)


@pytest.mark.parametrize("example", [e for e in all_examples(ROOT) if e.env == "host"], ids=lambda e: e.name)
def test_host_example(example: Example) -> None:
    faults = check(example, shell)
    assert not faults, "\n".join(faults)


def test_block_is_read_with_its_place_commands_and_output(tmp_path: Path) -> None:
    text = "Text\n\n<!-- run: lab -->\n\n```console\n$ echo a \\\n> b\na b\n$ false\n[exit 1]\n```\n"
    assert read(tmp_path, text) == [
        Example("page.md", 5, "lab", ("echo a \\\nb", "false"), ("a b", ""), (0, 1)),
    ]


def test_reason_is_kept(tmp_path: Path) -> None:
    (example,) = read(tmp_path, "<!-- skip: needs a Mac -->\n```console\n$ brew list\n```\n")
    assert (example.env, example.reason) == ("skip", "needs a Mac")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("```console\n$ ls\n```\n", "page.md:1: no `<!-- run"),
        ("<!-- run: lab -->\nText between.\n```console\n$ ls\n```\n", "page.md:3: no `<!-- run"),
        ("<!-- skip: -->\n```console\n$ ls\n```\n", "page.md:2: no `<!-- run"),
        ("<!-- run: moon -->\n```console\n$ ls\n```\n", "no environment is called moon"),
        ("<!-- run: lab -->\n```console\nls\n```\n", "starts with output"),
        ("<!-- run: lab -->\n```console\n```\n", "has no command"),
        ("<!-- run: lab -->\n```console\n$ ls\n", "doesn't end"),
        ("<!-- run: lab -->\n```console\n$ ls\n```\n\n```console\n$ ls\n```\n", "page.md:6: no `<!-- run"),
    ],
)
def test_block_that_breaks_the_convention_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    with pytest.raises(BadExample) as caught:
        read(tmp_path, text)
    assert complaint in str(caught.value)


@pytest.mark.parametrize(
    ("expected", "actual", "answer"),
    [
        ("", "anything\n", True),
        ("one\ntwo", "one\ntwo\n", True),
        ("one", "one\ntwo\n", False),
        ("one\n…\nfour", "one\ntwo\nthree\nfour\n", True),
        ("one\n…\nfour", "one\nfour\n", True),
        ("one\n…\nfour", "one\ntwo\nfive\n", False),
        ("pid … on port …", "pid 12 on port 3\n", True),
        ("pid … on port …", "pid 12\non port 3\n", False),
        ("a.c", "abc\n", False),
    ],
)
def test_wildcards(expected: str, actual: str, answer: bool) -> None:
    assert matches(expected, actual) is answer


@pytest.mark.parametrize(
    ("block", "fault"),
    [
        ("$ printf 'no newline'\nno newline", ""),
        ("$ cd /\n$ pwd\n/", ""),
        ("$ (exit 3)\n[exit 3]", ""),
        ("$ echo one\ntwo", "printed\none"),
        ("$ (exit 3)", "ended with 3, documented is 0"),
        ("$ true\n[exit 3]", "ended with 0, documented is 3"),
        ("$ exit 4\n$ true", "`exit 4` did not end"),
        ("$ echo >&2 told\ntold", ""),
    ],
)
def test_check_compares_status_and_output(tmp_path: Path, block: str, fault: str) -> None:
    (example,) = read(tmp_path, f"<!-- run: host -->\n```console\n{block}\n```\n")
    faults = check(example, shell)
    assert (fault in "\n".join(faults)) if fault else not faults


def test_script_survives_quoting(tmp_path: Path) -> None:
    text = 'it\'s "quoted" $HOME'
    (example,) = read(tmp_path, f"<!-- run: host -->\n```console\n$ printf '%s\\n' {shlex.quote(text)}\n{text}\n```\n")
    assert check(example, shell) == []


def test_a_heading_that_stands_twice_is_named_with_its_line() -> None:
    text = "# Page\n\n## One\n\n## Two\n\n```\n## One\n```\n\n## One\n"
    assert doubled_headings(text) == ["11: the heading `Page / One` occurs 2 times; rename it"]


def test_chapters_may_have_sections_of_the_same_name() -> None:
    assert doubled_headings("# Page\n## One\n### Files\n## Two\n### Files\n") == []


@pytest.mark.parametrize(
    "command",
    [
        "cat > hello.c",
        'cd "$(mktemp -d)" && cat > hello.c',
        "cat >hello.c",
        "cat -",
        "true | true; sort",
        "tee file",
        "LANG=C python3",
        "cat > f <<'END'\ntext",
        "cat <<-END\n\ttext\nEND of it",
        "echo 'no end",
    ],
)
def test_a_command_that_waits_for_input_is_found(command: str) -> None:
    assert endless(command)


@pytest.mark.parametrize(
    "command",
    [
        "cat hello.c",
        "cat file > other",
        "echo x | cat > other",
        "ls | sort",
        "cat > f <<'END'\ncat\nEND",
        "cat <<-END\n\ttext\n\tEND",
        "python3 -c 'print()'",
        "sh <script",
        "wc -l file 2>&1",
        "rumplab run x --detach &",
    ],
)
def test_a_command_that_ends_is_left_alone(command: str) -> None:
    assert endless(command) == ""


def test_pages_are_looked_at_as_they_stand(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "a.md").write_text("# A\n<!-- skip: no -->\n```console\n$ cat >x\n```\n# A\n", "utf-8")
    found = faults(tmp_path)
    assert found == [
        "docs/a.md:6: the heading `A` occurs 2 times; rename it",
        "docs/a.md:3: an example that never ends: `cat > x` waits for input",
    ]
