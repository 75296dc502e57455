"""``rumplab net``: brings the lab's bridge up, takes it down and shows it. ``down`` restores the host's network."""

from __future__ import annotations

from rumplab.cli.subcommands import Group

GROUP = Group(
    "net",
    {
        "up": "bring the bridge up, as root",
        "down": "take it down, as root",
        "status": "show it, and what is attached to it",
    },
)
EPILOG = """\
up and down can be repeated, and finish what a run that was killed has begun. down leaves the host's addresses, routes,
kernel settings and firewall as up found them.

examples:
  rumplab net status
  sudo rumplab net up
  sudo rumplab net down
  rumplab net up --dry-run       print the commands instead
"""
add_arguments = GROUP.add_arguments
run = GROUP.run
