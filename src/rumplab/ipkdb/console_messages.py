"""What a guest's console says about IPKDB, where the network says nothing."""

from __future__ import annotations

from pathlib import Path

TAIL = 64 * 1024
# The first comes before the kernel has asked for its address, the second with it.
WAITING = ("waiting for remote debugger", "My IP address is")
WAITS = "its kernel waits for a debugger: then the key may be the wrong one"
WENT_ON = (
    "its kernel has said more since it waited for a debugger: if it runs, it listens at its next stop, and after a"
    " detach in a panic only: start it again with -d"
)
# The kernel's own words, and what they mean for who waits for an answer. The last one in the log counts.
MEANINGS = (
    *((words, WAITS) for words in WAITING),
    ("IPKDB: No interface found", "its kernel found no card for IPKDB: IPKDB_NE_PCISLOT must be the card's slot"),
    ("IPKDBKEY must be at least", "its kernel has a key that is too short, and dropped IPKDB"),
    ("db> ", "its kernel is in DDB, which takes boot -d before IPKDB does: build it with 'no options DDB'"),
    ("db{0}> ", "its kernel is in DDB, which takes boot -d before IPKDB does: build it with 'no options DDB'"),
    ("kgdb waiting", "its kernel is in KGDB, on a serial line: build it with 'no options KGDB'"),
)


def meaning(log: Path) -> str:
    """What the end of a console's log means for IPKDB; '' when it says nothing about it."""
    text = tail(log)
    found = [(text.rfind(words), said) for words, said in MEANINGS if words in text]
    said = max(found)[1] if found else ""
    return WENT_ON if said == WAITS and not waits(text) else said


def waits(text: str) -> bool:
    """Whether the last thing on a console is that the kernel waits for a debugger."""
    last = next((line for line in reversed(text.split("\n")) if line.strip()), "")
    return any(words in last for words in WAITING)


def tail(log: Path) -> str:
    """The last TAIL bytes of a log as text; '' where there is none."""
    try:
        with log.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL))
            return handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
