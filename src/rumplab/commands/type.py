"""``rumplab type``: types on a machine's keyboard."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterable, Sequence

from rumplab.errors import RumplabError, UsageError
from rumplab.lab import config
from rumplab.machine import qmp, screen
from rumplab.machine.registry import Machine, open_machines

EPILOG = """\
TEXT is typed first, then the keys, on a keyboard with the US layout. A line feed in TEXT is the Enter key. A KEY is one
of QEMU's names (ret, esc, f12, up, spc, a), or several held down together (ctrl-alt-delete).

examples:
  rumplab type ipxe --key ctrl-b
  rumplab type ipxe 'ifstat' --key ret
  rumplab type ipxe $'ifstat\\nroute\\n'
  rumplab screen ipxe                     see the result
"""
# A PS/2 keyboard buffers only a few bytes, and a guest may read them slowly: so pause after each key.
HOLD_MILLISECONDS = 20
PAUSE_SECONDS = 2.5 * HOLD_MILLISECONDS / 1000
ANSWER_SECONDS = 10.0
SHIFT = "shift"
PLAIN = {
    **{letter: letter for letter in "abcdefghijklmnopqrstuvwxyz0123456789"},
    "\n": "ret",
    "\t": "tab",
    " ": "spc",
    "-": "minus",
    "=": "equal",
    "[": "bracket_left",
    "]": "bracket_right",
    "\\": "backslash",
    ";": "semicolon",
    "'": "apostrophe",
    "`": "grave_accent",
    ",": "comma",
    ".": "dot",
    "/": "slash",
}
# The characters that need Shift, each with the character of its key without Shift.
SHIFTED = dict(
    zip("""ABCDEFGHIJKLMNOPQRSTUVWXYZ)!@#$%^&*(_+{}|:"~<>?""", """abcdefghijklmnopqrstuvwxyz0123456789-=[]\\;'`,./""")
)
ALIASES = {"enter": "ret", "return": "ret", "escape": "esc", "space": "spc", "pageup": "pgup", "pagedown": "pgdn",
           "del": "delete", "ins": "insert", "control": "ctrl"}  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage = "rumplab type NAME [TEXT] [--key KEY…]"
    parser.add_argument("name", metavar="NAME", help="the machine")
    parser.add_argument("text", metavar="TEXT", nargs="?", help="text to type")
    parser.add_argument(
        "--key", metavar="KEY", action="append", default=[], help="a key to press after TEXT; repeatable"
    )


def keys_of(text: str) -> list[list[str]]:
    """Returns the keys that type `text`: for each character, the keys that are pressed together. UsageError for a
    character that a US keyboard doesn't have."""
    found = []
    for at, character in enumerate(text):
        if character in PLAIN:
            found.append([PLAIN[character]])
        elif character in SHIFTED:
            found.append([SHIFT, PLAIN[SHIFTED[character]]])
        else:
            raise UsageError(
                f"{character!a} (character {at + 1} of TEXT) is on no key of a US keyboard; enter it in the guest in"
                " another way"
            )
    return found


def combination(text: str) -> list[str]:
    """Returns the keys of a --key, which are held down together. UsageError if a name is empty."""
    names = [ALIASES.get(name, name) for name in text.lower().split("-")]
    if not all(names):
        raise UsageError(f"'{text}' is not a key; use a name such as ret, esc or minus, or several: ctrl-alt-delete")
    return names


def press(session: qmp.Session, keys: Sequence[str]) -> None:
    """Presses `keys` together, then pauses. RumplabError if QEMU doesn't know a key."""
    values = [{"type": "qcode", "data": key} for key in keys]
    try:
        session.execute("send-key", {"keys": values, "hold-time": HOLD_MILLISECONDS})
    except qmp.Refused as error:
        raise RumplabError(f"QEMU has no key for '{'-'.join(keys)}' ({error}); use a name such as ret") from error
    time.sleep(PAUSE_SECONDS)


def send(machine: Machine, strokes: Iterable[Sequence[str]]) -> None:
    """Presses each of `strokes` on the keyboard of `machine`. RumplabError if the machine doesn't run, or is paused."""
    try:
        with qmp.Session(machine.socket, ANSWER_SECONDS) as session:
            for keys in strokes:
                # QEMU drops keys silently while the machine is paused.
                state = session.status()
                if state != "running":
                    raise RumplabError(f"{machine.name} is not running ({state}) and takes no keys; continue it first")
                press(session, keys)
    except qmp.QmpError as error:
        raise RumplabError(f"{machine.name} takes no keys: {error}") from error


def run(args: argparse.Namespace) -> int:
    if args.text is None and not args.key:
        raise UsageError("there is nothing to type; give TEXT, or --key KEY")
    strokes = [*keys_of(args.text or ""), *map(combination, args.key)]
    machine = open_machines(config.load()).find(args.name)
    screen.check(machine)
    send(machine, strokes)
    return 0
