"""``rumplab recording``: manages the recordings of ``rumplab run --record``."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "recording",
    {
        "ls": "list your recordings",
        "show": "show the content of a recording",
        "verify": "compare a recording with its hashes, and QEMU with the one that recorded it",
        "index": "take snapshots along a recording, which make reverse execution quick",
        "rm": "remove recordings",
        "pack": "write a recording to one file",
        "unpack": "make a recording from such a file",
    },
)
EPILOG = """\
'rumplab run … --record' makes a recording. NAME is a name in 'rumplab recording ls', or the path of a recording's
directory.

examples:
  rumplab recording ls
  rumplab recording pack hello -o hello.tar.zst
  rumplab recording unpack hello.tar.zst
"""
add_arguments = GROUP.add_arguments
run = GROUP.run
