"""``rumplab guest``: NetBSD and Linux guests, which their own kernel's debugger debugs."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "guest",
    {
        "create": "define a guest: its kernel, disk and network cards; starts nothing",
        "start": "start a guest, in the background",
        "console": "connect this terminal to a guest's console; Ctrl-] leaves it",
        "debug": "attach the lab's GDB to a guest's kernel, with its symbols",
        "break": "stop a running kernel in its debugger",
        "pci": "list the PCI devices of a guest, with their drivers",
        "stop": "shut a guest down; end it if it takes too long",
        "list": "list your guests",
        "delete": "delete a guest's definition, and the disk contents that --persist has kept",
    },
)
EPILOG = """\
A guest is a definition that you start by its name, again and again. While it runs, it is also a machine: 'rumplab ps',
'logs' and 'stop' know it. docs/guides/serial-line.md and docs/guides/ethernet.md each show a first session.

examples:
  rumplab guest create nb                  the lab's own NetBSD kernel
  rumplab guest start nb --kgdb            the kernel waits in its debugger
  rumplab guest debug nb                   GDB on the waiting kernel
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
