"""The relay's own commands for GDB's `monitor`. ``scripts/replay.gdb`` defines GDB commands that use them."""

from __future__ import annotations

import re

from rumplab.replay.session import Session

PREFIX = "rr"
NUMBER = re.compile("[0-9]{1,18}", re.ASCII)
MARK = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,31}")
BEGIN, END = "begin", "end"


class InvalidCommand(Exception):
    """The command is unknown, or its argument is wrong."""


def is_own(text: str) -> bool:
    """Returns whether the command is for the relay, not for QEMU."""
    return text.split()[:1] == [PREFIX]


class MonitorCommands:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._marks: dict[str, int] = {}
        self._target: int | None = None

    def take_target(self) -> int | None:
        """Returns the position to which rr-goto moves the next step, and forgets it; None without rr-goto."""
        target, self._target = self._target, None
        return target

    def do(self, text: str) -> str:
        """Executes the command and returns the text to print. InvalidCommand if it is wrong."""
        words = text.split()[1:]
        if words == ["where"]:
            return self._where()
        if words == ["marks"]:
            return (
                "".join(f"{name}: instruction {position}\n" for name, position in self._marks.items()) or "no marks\n"
            )
        if len(words) == 2 and words[0] == "mark":
            return self._mark(words[1])
        if len(words) == 2 and words[0] == "goto":
            self._target = self._position_of(words[1])
            return ""
        raise InvalidCommand("the commands are: rr-where, rr-marks, rr-mark NAME, rr-goto NAME|ICOUNT|begin|end")

    def _where(self) -> str:
        session = self._session
        share = 100 * session.position / session.total
        return f"instruction {session.position} of {session.total} ({share:.1f} %), pc {session.pc:#x}\n"

    def _mark(self, name: str) -> str:
        if not MARK.fullmatch(name) or name in (BEGIN, END):
            raise InvalidCommand(
                f"'{name}' is not a name for a mark; use letters, digits, '_', '-', with a letter first"
            )
        self._marks[name] = self._session.position
        return f"{name}: instruction {self._session.position}\n"

    def _position_of(self, text: str) -> int:
        if text in (BEGIN, END):
            return 0 if text == BEGIN else self._session.end
        if NUMBER.fullmatch(text):
            if int(text) > self._session.total:
                raise InvalidCommand(f"the recording has only {self._session.total} instructions; use a smaller number")
            return int(text)
        if text not in self._marks:
            raise InvalidCommand(f"there is no mark '{text}'; 'rr-marks' lists them")
        return self._marks[text]
