"""``rumplab net``: brings the lab's bridge up, takes it down and shows it. ``down`` restores the host's network."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "net",
    {
        "up": "make the bridge and its DHCP server; needs root",
        "down": "remove them; needs root",
        "status": "show the bridge, and what is attached to it",
    },
)
EPILOG = """\
The bridge needs the component 'bridge': docs/roles/bridge.md. You can repeat 'up' and 'down'; each finishes what a
killed one has begun. 'down' restores the host's addresses, routes, kernel settings and firewall to what they were
before 'up'.

examples:
  rumplab net status
  sudo rumplab net up
  sudo rumplab net down
  rumplab net up --dry-run       print the commands instead
"""
add_arguments = GROUP.add_arguments
run = GROUP.run
