"""``rumplab ipkdb``: connects GDB to a kernel that has IPKDB, and helps to port IPKDB to another card or machine."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rumplab.cli.subcommands import Group

GROUP = Group(
    "ipkdb",
    {
        "connect": "translate between GDB and a kernel that waits in IPKDB",
        "decode": "print captured IPKDB packets as text",
        "check-port": "test whether a kernel's IPKDB follows the protocol, request by request",
        "new-port": "write skeleton files for a port of IPKDB to another card or machine",
    },
)
EPILOG = """\
The key is the text of the kernel's option IPKDBKEY. Put it into a file that only you can read, and name that file with
--key-file; or set RUMPLAB_IPKDB_KEY to the key itself.

examples:
  rumplab ipkdb connect netbsd --key-file ipkdb.key                then in GDB: target remote SOCKET, which it prints
  rumplab ipkdb connect --target 127.0.0.1:1138 --key-file ipkdb.key --port 2345
  rumplab ipkdb decode session.pcap --key-file ipkdb.key
  rumplab ipkdb check-port --target 127.0.0.1:1138 --json
  rumplab ipkdb new-port --interface xx --bus pci -o port
"""
add_arguments = GROUP.add_arguments
run = GROUP.run


def translate_old(words: Sequence[str]) -> list[str]:
    """Returns `words` with ``connect`` before them, and prints a warning, if they name no sub-command: in an earlier
    release ``rumplab ipkdb`` had none."""
    if not words or words[0] in (*GROUP.subcommands, "-h", "--help"):
        return list(words)
    print("rumplab ipkdb: use 'rumplab ipkdb connect …'; a later release refuses this old form", file=sys.stderr)
    return ["connect", *words]
