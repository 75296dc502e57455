"""What a guest's console says about IPKDB, where the network says nothing."""

from __future__ import annotations

from pathlib import Path

TAIL = 64 * 1024
# The kernel's own words, and what they mean for who waits for an answer. The last one in the log counts.
MEANINGS = (
    ("waiting for remote debugger", "its kernel waits for a debugger: then the key may be the wrong one"),
    ("My IP address is", "its kernel waits for a debugger: then the key may be the wrong one"),
    ("IPKDB: No interface found", "its kernel found no card for IPKDB: IPKDB_NE_PCISLOT must be the card's slot"),
    ("IPKDBKEY must be at least", "its kernel has a key that is too short, and dropped IPKDB"),
    ("db> ", "its kernel is in DDB, which takes boot -d before IPKDB does: build it with 'no options DDB'"),
    ("db{0}> ", "its kernel is in DDB, which takes boot -d before IPKDB does: build it with 'no options DDB'"),
    ("kgdb waiting", "its kernel is in KGDB, on a serial line: build it with 'no options KGDB'"),
)


def meaning(log: Path) -> str:
    """What the end of a console's log means for IPKDB; '' when it says nothing about it."""
    try:
        with log.open("rb") as handle:
            handle.seek(0, 2)
            handle.seek(max(0, handle.tell() - TAIL))
            text = handle.read().decode("utf-8", "replace")
    except OSError:
        return ""
    found = [(text.rfind(words), said) for words, said in MEANINGS if words in text]
    return max(found)[1] if found else ""
