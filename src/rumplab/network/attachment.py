"""Attaches a machine to the bridge: with qemu-bridge-helper on Linux, with vmnet on macOS.

On Linux, component ``bridge`` has the path ``qemu-bridge-helper``; ``etc/bridge.json`` below the prefix has the
bridge's name and the group that may use it. docs/commands/run.md tells what the host needs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import accounts, child_environment
from rumplab.lab.config import Lab
from rumplab.machine import nics
from rumplab.machine.nics import Link, Nic

COMPONENT = "bridge"
HELPER = "qemu-bridge-helper"
# Nothing changes the host's network without this switch.
CONSENT = "-e bridge_manage=true"
HELPER_SECONDS = 10.0
# Messages of the helper, and the remedies.
KNOWN_FAILURES = (
    ("access denied by acl file", "the bridge's name must stand in QEMU's bridge.conf; provision the bridge again"),
    ("failed to open /dev/net/tun", "give your account access to it, or run: sudo modprobe tun"),
)


@dataclass(frozen=True)
class Attachment:
    """How QEMU attaches a card. `bridge`, `helper` and `group` are empty with vmnet, which makes its own bridge."""

    link: Link
    bridge: str = ""
    helper: str = ""
    group: str = ""


def find(lab: Lab, vmnet: str | None, platform: str) -> Attachment:
    """The attachment for `platform`, a value of sys.platform. NotProvisioned when the lab has no bridge; RumplabError
    when ``bridge.json`` is not valid."""
    if platform == "darwin":
        return Attachment(nics.vmnet_link(vmnet or "shared"))
    # Imported only here, since machines without the bridge don't need it.
    from rumplab.network import settings

    try:
        helper = lab.component(COMPONENT).path(HELPER)
    except NotProvisioned as error:
        # The message of NotProvisioned ends with the command, to which the option is appended.
        raise NotProvisioned(f"{error} {CONSENT}") from error
    chosen = settings.load(lab)
    return Attachment(nics.helper_link(chosen.bridge, helper), chosen.bridge, helper, chosen.group)


def check(way: Attachment, uid: int, index: Callable[[str], int] = socket.if_nametoindex) -> None:
    """RumplabError when the user `uid` can't use `way` now. `index` maps an interface's name to its number."""
    if not way.bridge:
        if uid != 0:
            raise RumplabError(
                "macOS lets only root use vmnet, which --net bridge needs; run it with sudo: sudo rumplab run …"
            )
        return
    try:
        index(way.bridge)
    except OSError as error:
        raise RumplabError(f"{way.bridge} is not up; bring it up: sudo rumplab net up") from error
    if not os.access(way.helper, os.X_OK):
        raise RumplabError(f"{way.helper} is for members of group {way.group}; {accounts.how_to_join(way.group)}")


@contextlib.contextmanager
def opened(way: Attachment | None, cards: Sequence[Nic]) -> Iterator[Link | None]:
    """Yields the link for the `cards` on the bridge of a machine that starts within the context. On Linux the helper
    makes a tap for each card, so that QEMU itself needs no setuid program. A tap exists as long as a process has it
    open."""
    if way is None or not way.helper:
        yield way.link if way else None
        return
    with contextlib.ExitStack() as stack:
        taps: list[int] = []
        for _ in range(sum(card.net == nics.BRIDGE for card in cards)):
            taps.append(tap(way))
            stack.callback(os.close, taps[-1])
        yield replace(way.link, spawns=False, taps=tuple(taps))


def tap(way: Attachment) -> int:
    """The open file of a new tap on the bridge. RumplabError with the helper's message when it fails."""
    here, there = socket.socketpair()
    with here, there:
        argv = [way.helper, "--use-vnet", f"--br={way.bridge}", f"--fd={there.fileno()}"]
        try:
            done = subprocess.run(
                argv,
                env=child_environment.of(child_environment.TOOL),
                pass_fds=(there.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                timeout=HELPER_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise RumplabError(f"{way.helper} can't be run: {error}") from error
        if done.returncode:
            raise RumplabError(refusal(way, done.stderr.decode(errors="replace")))
        # Close the helper's end: if the helper has sent no file, recv_fds() returns at once instead of waiting.
        there.close()
        _, found, _, _ = socket.recv_fds(here, 1, 1)
    if not found:
        raise RumplabError(f"{way.helper} has opened no tap on {way.bridge}; check that it is QEMU's helper")
    os.set_inheritable(found[0], False)
    return found[0]


def refusal(way: Attachment, said: str) -> str:
    """The error message for the helper's output `said`."""
    lines = said.strip().splitlines() or ["it printed nothing"]
    for sign, remedy in KNOWN_FAILURES:
        known = next((line for line in lines if sign in line), None)
        if known is not None:
            return f"no tap on {way.bridge}: {known}; {remedy}"
    return f"no tap on {way.bridge}: {lines[-1]}; bring the bridge up again: sudo rumplab net up"
