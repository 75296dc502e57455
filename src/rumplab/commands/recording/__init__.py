"""``rumplab recording``: the recordings that ``rumplab run --record`` made."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "recording",
    {
        "ls": "list your recordings",
        "show": "what a recording holds",
        "verify": "compare a recording with its hashes, and with this QEMU",
        "rm": "remove recordings",
        "pack": "write a recording to one file",
        "unpack": "make a recording of such a file",
    },
)
EPILOG = """\
'rumplab run … --record' makes them. NAME is one of 'recording ls', or the path of a recording's directory.

examples:
  rumplab recording ls
  rumplab recording pack hello -o hello.tar.zst
  rumplab recording unpack hello.tar.zst
"""
add_arguments = GROUP.add_arguments
run = GROUP.run
