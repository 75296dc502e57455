"""What a user tells the relay by GDB's `monitor`; ``scripts/replay.gdb`` has commands for it."""

from __future__ import annotations

import re

from rumplab.replay.session import Session

PREFIX = "rr"
NUMBER = re.compile("[0-9]{1,18}", re.ASCII)
MARK = re.compile("[A-Za-z_][A-Za-z0-9_-]{0,31}")
BEGIN, END = "begin", "end"


class Misuse(Exception):
    """It can't be done as it was said."""


def is_own(text: str) -> bool:
    return text.split()[:1] == [PREFIX]


class Orders:
    def __init__(self, session: Session) -> None:
        self._session = session
        self._marks: dict[str, int] = {}
        self._going: int | None = None

    def going(self) -> int | None:
        """Where the next movement is to go, whatever it is, once."""
        going, self._going = self._going, None
        return going

    def do(self, text: str) -> str:
        """Does it; the answer. Misuse for what there isn't."""
        words = text.split()[1:]
        if words == ["where"]:
            return self._where()
        if words == ["marks"]:
            return "".join(f"{name}: instruction {place}\n" for name, place in self._marks.items()) or "no marks\n"
        if len(words) == 2 and words[0] == "mark":
            return self._mark(words[1])
        if len(words) == 2 and words[0] == "goto":
            self._going = self._place(words[1])
            return ""
        raise Misuse("it is: rr-where, rr-marks, rr-mark NAME, rr-goto NAME|ICOUNT|begin|end")

    def _where(self) -> str:
        session = self._session
        share = 100 * session.position / session.total
        return f"instruction {session.position} of {session.total} ({share:.1f} %), pc {session.pc:#x}\n"

    def _mark(self, name: str) -> str:
        if not MARK.fullmatch(name) or name in (BEGIN, END):
            raise Misuse(f"'{name}' can't name a mark: use letters, digits, '_' and '-', beginning with a letter")
        self._marks[name] = self._session.position
        return f"{name}: instruction {self._session.position}\n"

    def _place(self, text: str) -> int:
        if text in (BEGIN, END):
            return 0 if text == BEGIN else self._session.end
        if NUMBER.fullmatch(text):
            if int(text) > self._session.total:
                raise Misuse(f"the recording ends at instruction {self._session.total}, before {text}")
            return int(text)
        if text not in self._marks:
            raise Misuse(f"there is no mark '{text}'; 'rr-marks' lists them")
        return self._marks[text]
