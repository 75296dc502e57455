"""The menu in a small model of GRUB: its script language, and how its loader joins words."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rumplab.errors import RumplabError
from rumplab.image import grub

SPECIAL = frozenset('{}|&$;<>#"\\')
texts = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60)
shellish = st.text(st.sampled_from(string.punctuation + " aé€😀x41"), max_size=40)


def script_words(line: str) -> list[str]:
    """Split a line of GRUB script, which quotes only with single quotes and backslashes, into words."""
    words: list[str] = []
    word: str | None = None
    characters = iter(line)
    for character in characters:
        if character == "'":
            word = word or ""
            for inner in characters:
                if inner == "'":
                    break
                word += inner
            else:
                raise AssertionError("a quote has no end")
        elif character == "\\":
            word = (word or "") + next(characters)
        elif character in " \t":
            if word is not None:
                words.append(word)
            word = None
        else:
            assert character not in SPECIAL, f"{character} has a special meaning here"
            word = (word or "") + character
    return words if word is None else [*words, word]


def loader_command_line(words: list[str]) -> str:
    """Join words as GRUB's multiboot command does; measured on GRUB 2.06, see test_stage_boot.py."""
    hexadecimal = frozenset(string.hexdigits)
    joined = []
    for word in words:
        out = ""
        rest = word
        while rest:
            if rest[:2] == "\\x" and len(rest) > 3 and rest[2] in hexadecimal and rest[3] in hexadecimal:
                out, rest = out + rest[:4], rest[4:]
                continue
            out += f"\\{rest[0]}" if rest[0] in "\\'\"" else rest[0]
            rest = rest[1:]
        joined.append(f'"{out}"' if " " in word else out)
    return " ".join(joined)


def menu_command(menu: str, name: str) -> list[str]:
    """Return the words of the menu's only command `name`."""
    (line,) = [line for line in menu.split("\n") if line.startswith(f"\t{name} ")]
    return script_words(line)


@given(st.one_of(texts, shellish))
def test_arguments_arrive_as_they_are(text: str) -> None:
    if not grub.survives_command_line(text):
        return
    command, file, *words = menu_command(grub.menu(text, None), "multiboot")
    assert (command, file) == ("multiboot", grub.PROGRAM)
    expected = f"{grub.PROGRAM} {text}" if text else grub.PROGRAM
    assert loader_command_line(words) == expected


@given(shellish)
def test_only_what_the_loader_would_change_is_kept_off_the_command_line(text: str) -> None:
    unchanged = loader_command_line(grub.command_line_words(text)) == text
    assert grub.survives_command_line(text) == (unchanged and "\\" not in text)


@given(texts)
def test_quote_makes_one_word(text: str) -> None:
    assert script_words(grub.quote(text)) == [text]


@pytest.mark.parametrize("text", ["a\nb", "a\x00b", "\t", "\x7f", '{"a": 1}', "it's", "\\"])
def test_kept_off_the_command_line(text: str) -> None:
    assert not grub.survives_command_line(text)


def test_the_limit_counts_bytes() -> None:
    assert grub.survives_command_line("x" * grub.COMMAND_LINE_LIMIT)
    assert not grub.survives_command_line("x" * (grub.COMMAND_LINE_LIMIT + 1))
    assert not grub.survives_command_line("é" * (grub.COMMAND_LINE_LIMIT // 2 + 1))
    longest = f"{grub.PROGRAM} {'x' * grub.COMMAND_LINE_LIMIT}"
    assert len(longest) == 4095


def test_the_modules_in_the_file_system() -> None:
    core = "biosdisk:\npart_msdos:\next2: fshelp\nfshelp:\n"
    rest = "serial: terminfo\nterminfo: extcmd\nterminal:\nmultiboot: boot\nboot:\nnormal: extcmd fshelp\n"
    modules = grub.modules_in_file_system(core + rest + "extcmd:\nxfs: fshelp\n")
    assert modules == ["boot", "extcmd", "multiboot", "normal", "serial", "terminal", "terminfo"]
    with pytest.raises(RumplabError, match="no module extcmd"):
        grub.modules_in_file_system(core + rest)


def test_the_module_is_loaded_under_its_name() -> None:
    assert menu_command(grub.menu("", "/boot/config.json"), "module") == [
        "module",
        *["/boot/config.json"] * 2,
    ]
    assert "\tmodule" not in grub.menu("", None)
