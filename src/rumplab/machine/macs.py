"""Ethernet addresses of network cards: checks them, chooses a machine's default, and lists those a bridge has seen."""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Collection
from pathlib import Path

DEFAULT = "54:54:00:55:55:55"
# The prefix of QEMU's own default addresses; it is locally administered.
LOCAL = (0x52, 0x54, 0x00)
MAC = re.compile(r"[0-9a-f]{2}([:-][0-9a-f]{2}){5}")
SYS_NET = Path("/sys/class/net")
# The kernel's struct __fdb_entry: address, low byte of the port, is_local, then an age and a reserve.
FDB_ENTRY = struct.Struct("6sBB8x")


def parse(text: str) -> str:
    """Returns the address `text` as six pairs of lower-case hexadecimal digits, separated by colons. ValueError if it
    is no address of a network card."""
    mac = text.lower()
    if not MAC.fullmatch(mac):
        raise ValueError(f"'{text}' is not an Ethernet address; use for example {DEFAULT}")
    mac = mac.replace("-", ":")
    if int(mac[:2], 16) & 1:
        raise ValueError(f"'{text}' is a group address; in a network card's address the first pair is even")
    if mac == "00:00:00:00:00:00":
        raise ValueError(f"'{text}' is no network card's address; use for example {DEFAULT}")
    return mac


def next_after(mac: str, steps: int) -> str:
    """Returns the address `steps` after `mac`. Only the last three bytes change."""
    head, number = mac[:8], int(mac[9:].replace(":", ""), 16) + steps
    return f"{head}:{_colons((number & 0xFFFFFF).to_bytes(3, 'big'))}"


def derived(seed: str) -> str:
    """Returns a locally administered address that depends only on `seed`."""
    return _colons(bytes(LOCAL) + hashlib.sha256(seed.encode()).digest()[:3])


def choose(seed: str, taken: Collection[str]) -> str:
    """Returns DEFAULT, or if `taken` contains that, the first address derived from `seed` that is not in `taken`."""
    seeds = (f"{seed} {number}" for number in range(len(taken) + 1))
    return next(mac for mac in (DEFAULT, *map(derived, seeds)) if mac not in taken)


def learned(bridge: str, root: Path = SYS_NET) -> frozenset[str]:
    """Returns the addresses from which the kernel's bridge `bridge` has received frames, without its own ports'. Empty
    if the kernel doesn't show them."""
    try:
        table = (root / bridge / "brforward").read_bytes()
    except OSError:
        return frozenset()
    whole = len(table) - len(table) % FDB_ENTRY.size
    return frozenset(
        _colons(address) for address, _port, is_local in FDB_ENTRY.iter_unpack(table[:whole]) if not is_local
    )


def _colons(data: bytes) -> str:
    return ":".join(f"{byte:02x}" for byte in data)
