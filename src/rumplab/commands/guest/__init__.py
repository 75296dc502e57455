"""``rumplab guest``: NetBSD and Linux guests, which their own kernel's debugger debugs."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "guest",
    {
        "create": "describe a guest, to be started by its name",
        "start": "start a guest, in the background",
        "console": "this terminal on a guest's console; Ctrl-] leaves it",
        "debug": "attach the lab's GDB to a guest's kernel, its symbols loaded",
        "break": "stop a running kernel in its debugger",
        "pci": "the PCI devices of a guest, with their drivers",
        "stop": "shut a guest down, within a bounded time",
        "list": "list your guests",
        "delete": "forget a guest, and the disk that it kept",
    },
)
EPILOG = """\
examples:
  rumplab guest create nb
  rumplab guest start nb --kgdb            the kernel waits in its debugger
  rumplab guest debug nb                   GDB, stopped in the kernel
  rumplab guest break nb                   stop a running kernel
  rumplab guest console nb                 Ctrl-] leaves it
  rumplab guest pci nb
  rumplab guest list
  rumplab guest stop nb
  rumplab guest delete nb
"""
TAKES_EXTRA = True
add_arguments = GROUP.add_arguments
run = GROUP.run
