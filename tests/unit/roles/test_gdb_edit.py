"""The edit of GDB for the 'g' packet: where it matches, that it compiles as C and C++, and its effect."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from plugins.module_utils.artifact.edits import edit_text
from plugins.module_utils.artifact.errors import Broken

ROOT = Path(__file__).resolve().parents[3]

EDIT: dict[str, Any] = yaml.safe_load((ROOT / "roles/gdb/vars/main.yml").read_text())["__gdb_edits"][0]

# The statement in the two forms of GDB's sources. The text around it is the test's.
OLD = """  if (buf_len > 2 * rsa->sizeof_g_packet)
    error (_("too many digits: %s"), rs->buf);
"""
NEW = """  if (buf_len > 2 * rsa->sizeof_g_packet)
    error (_("too many digits (wanted %ld bytes, got %d "
\t     "bytes): %s"),
\t   rsa->sizeof_g_packet, buf_len / 2,
\t   rs->buf.data ());
"""
BEFORE = "  buf_len = length_of (reply);\n\n"
AFTER = """
  if (buf_len < 2 * rsa->sizeof_g_packet)
    error (_("too few digits"));
"""

HARNESS = r"""
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define _(text) text
#define REGISTERS 6

struct gdbarch { int sizes[REGISTERS]; };
struct packet_reg { long offset; int pnum; int in_g_packet; };
struct remote_arch_state { long sizeof_g_packet; struct packet_reg regs[REGISTERS]; };

static int gdbarch_num_regs (struct gdbarch *arch) { (void) arch; return REGISTERS; }
static int register_size (struct gdbarch *arch, int number) { return arch->sizes[number]; }

static void
error (const char *format, ...)
{
  va_list list;
  va_start (list, format);
  vprintf (format, list);
  va_end (list);
  putchar ('\n');
  exit (3);
}

static void
process (struct gdbarch *gdbarch, struct remote_arch_state *rsa, int buf_len)
{
@STATEMENT@}

int
main (int argc, char **argv)
{
  /* The fourth register isn't known to the protocol: it has neither number nor place.  */
  struct gdbarch arch = { { 4, 4, 10, 4, 16, 4 } };
  struct remote_arch_state state
    = { 38, { { 0, 0, 1 }, { 4, 1, 1 }, { 8, 2, 1 }, { 0, -1, 0 }, { 18, 3, 1 }, { 34, 4, 1 } } };
  int step, number;

  for (step = 1; step < argc; step++)
    {
      process (&arch, &state, 2 * atoi (argv[step]));
      printf ("%ld ", state.sizeof_g_packet);
      for (number = 0; number < REGISTERS; number++)
        putchar ('0' + state.regs[number].in_g_packet);
      putchar ('\n');
    }
  return 0;
}
"""
# (offset, size) of the registers above; None for the register that isn't in the protocol.
LAYOUT = [(0, 4), (4, 4), (8, 10), None, (18, 16), (34, 4)]


def expected(size: int) -> str:
    """Return the harness's line for a reply of `size` bytes."""
    carried = "".join("1" if place and sum(place) <= size else "0" for place in LAYOUT)
    return f"{size} {carried}"


@pytest.mark.parametrize("statement", [OLD, NEW], ids=["up to 8.1", "from 8.2 on"])
def test_the_edit_replaces_the_statement_and_nothing_else(statement: str) -> None:
    edited = edit_text(BEFORE + statement + AFTER, EDIT, "gdb/remote.c")
    assert edited == BEFORE + "  " + EDIT["replacement"] + "\n" + AFTER
    assert "too many digits" not in edited


@pytest.mark.parametrize(
    ("text", "times"),
    [
        (BEFORE + AFTER, 0),
        (BEFORE + OLD.replace("2 * ", "") + AFTER, 0),
        (BEFORE + OLD.replace("rsa->", "state->") + AFTER, 0),
        (BEFORE + EDIT["replacement"] + AFTER, 0),
        (BEFORE + OLD + NEW + AFTER, 2),
    ],
    ids=["no such statement", "other units", "other names", "edited already", "twice"],
)
def test_a_source_that_the_edit_does_not_match_is_refused(text: str, times: int) -> None:
    with pytest.raises(Broken, match=re.escape(EDIT["name"]) + f".*gdb/remote.c.*{times} times"):
        edit_text(text, EDIT, "gdb/remote.c")


LANGUAGES = [("cc", "c", "gnu89"), ("cc", "c", "gnu17"), ("c++", "c++", "c++11")]


@pytest.fixture(scope="module", params=LANGUAGES, ids=str)
def harness(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The edit's statement, compiled in the test's own program."""
    compiler, language, standard = request.param
    if shutil.which(compiler) is None:
        pytest.skip(f"no {compiler}")
    directory = tmp_path_factory.mktemp("harness")
    source = directory / "harness.txt"
    source.write_text(HARNESS.replace("@STATEMENT@", edit_text(OLD, EDIT, "gdb/remote.c")))
    program = directory / "harness"
    strictly = [f"-std={standard}", "-Wall", "-Wextra", "-Werror"]
    command = [compiler, "-x", language, *strictly, "-o", str(program), str(source)]
    subprocess.run(command, check=True, timeout=60)
    return program


def run(program: Path, sizes: list[int]) -> list[str]:
    command = [str(program), *map(str, sizes)]
    return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.splitlines()


def test_a_longer_reply_is_adopted_in_bytes(harness: Path) -> None:
    assert run(harness, [38, 100]) == ["38 111011", "100 111011"]


def test_a_register_that_the_reply_cuts_is_not_read(harness: Path) -> None:
    assert run(harness, [17, 18, 33, 34, 37]) == [
        "17 110000",
        "18 111000",
        "33 111000",
        "34 111010",
        "37 111010",
    ]


def test_registers_come_back_when_the_reply_grows_again(harness: Path) -> None:
    assert run(harness, [100, 3, 38, 0, 8]) == ["100 111011", "3 000000", "38 111011", "0 000000", "8 110000"]


def test_any_series_of_sizes(harness: Path) -> None:
    chance = random.Random(13984)
    sizes = [chance.randrange(0, 64) for _ in range(300)]
    assert run(harness, sizes) == [expected(size) for size in sizes]


def test_a_reply_that_would_overrun_the_stack_is_refused(harness: Path) -> None:
    limit = 1024 * 1024
    assert run(harness, [limit, limit + 1]) == [
        f"{limit} 111011",
        f"Remote 'g' packet reply isn't credible: {limit + 1} bytes",
    ]
