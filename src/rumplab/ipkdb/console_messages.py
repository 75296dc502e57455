"""Reads the state of IPKDB from a guest's console, for the case that the target doesn't answer over the network."""

from __future__ import annotations

from pathlib import Path

TAIL = 64 * 1024
# The kernel prints the first message before it requests its address, and the second one when it has the address.
WAITING = ("waiting for remote debugger", "My IP address is")
WAITS = "its kernel waits for a debugger, so the key may be wrong: check the key"
WENT_ON = (
    "its kernel has printed more since it waited for a debugger: if it runs, it answers at its next stop, and after a"
    " detach only in a panic: start it again with -d"
)
# The kernel's messages, and what they mean for a debugger that gets no answer. The last message in the log counts.
MEANINGS = (
    *((words, WAITS) for words in WAITING),
    ("IPKDB: No interface found", "its kernel found no card for IPKDB: IPKDB_NE_PCISLOT must be the card's slot"),
    ("IPKDBKEY must be at least", "its kernel's IPKDBKEY is too short, so IPKDB is off: build it with a longer key"),
    ("db> ", "its kernel is in DDB, which handles boot -d before IPKDB: build it with 'no options DDB'"),
    ("db{0}> ", "its kernel is in DDB, which handles boot -d before IPKDB: build it with 'no options DDB'"),
    ("kgdb waiting", "its kernel is in KGDB, on a serial line: build it with 'no options KGDB'"),
)


def meaning(log: Path) -> str:
    """What the end of a console's log means for IPKDB, one of the texts above; '' when it has no known message."""
    text = tail(log)
    found = [(text.rfind(words), said) for words, said in MEANINGS if words in text]
    said = max(found)[1] if found else ""
    return WENT_ON if said == WAITS and not waits(text) else said


def waits(text: str) -> bool:
    """Whether the last line of a console's output tells that the kernel waits for a debugger."""
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    return any(words in last for words in WAITING)


def tail(log: Path) -> str:
    """The last TAIL bytes of a log as text; '' when the log can't be read."""
    try:
        with log.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL))
            return handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
