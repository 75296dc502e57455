"""How a machine gets on the bridge here: by qemu-bridge-helper on Linux, by vmnet on macOS.

On Linux the bridge is component ``bridge`` (path ``qemu-bridge-helper``) and its name and the group that may
use it stand in ``etc/bridge.json`` below the prefix. docs/commands/run.md says what is needed of the host.
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
# What the helper says, and what to do about it.
KNOWN_FAILURES = (
    ("access denied by acl file", "the bridge's name must stand in QEMU's bridge.conf; provision the bridge again"),
    ("failed to open /dev/net/tun", "let your account open it, or: sudo modprobe tun"),
)


@dataclass(frozen=True)
class Attachment:
    """`bridge`, `helper` and `group` are empty with vmnet, which makes a bridge of its own."""

    link: Link
    bridge: str = ""
    helper: str = ""
    group: str = ""


def find(lab: Lab, vmnet: str | None, platform: str) -> Attachment:
    """The way onto the bridge on `platform` (sys.platform's names). NotProvisioned where there is none;
    RumplabError when ``bridge.json`` is not valid."""
    if platform == "darwin":
        return Attachment(nics.vmnet_link(vmnet or "shared"))
    # Only here, so that machines without the bridge don't wait for it.
    from rumplab.network import settings

    try:
        helper = lab.component(COMPONENT).path(HELPER)
    except NotProvisioned as error:
        # Each of these messages ends with the command.
        raise NotProvisioned(f"{error} {CONSENT}") from error
    chosen = settings.load(lab)
    return Attachment(nics.helper_link(chosen.bridge, helper), chosen.bridge, helper, chosen.group)


def check(way: Attachment, uid: int, index: Callable[[str], int] = socket.if_nametoindex) -> None:
    """RumplabError with the remedy when this user can't use `way` now. `index` finds a network interface."""
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
    """How those of `cards` that are on the bridge get there in a machine that is started within: by taps that the
    helper has made, so that QEMU needs no program of root's. A tap lasts as long as somebody has it open."""
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
    """An open file that is a new tap's other end. RumplabError says what the helper has against it."""
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
        # It has ended, and with this end nobody is left to wait for.
        there.close()
        _, found, _, _ = socket.recv_fds(here, 1, 1)
    if not found:
        raise RumplabError(f"{way.helper} has opened no tap on {way.bridge}; is it QEMU's?")
    os.set_inheritable(found[0], False)
    return found[0]


def refusal(way: Attachment, said: str) -> str:
    """A message for what the helper `said`."""
    lines = said.strip().splitlines() or ["it printed nothing"]
    for sign, remedy in KNOWN_FAILURES:
        known = next((line for line in lines if sign in line), None)
        if known is not None:
            return f"no tap on {way.bridge}: {known}; {remedy}"
    return f"no tap on {way.bridge}: {lines[-1]}; bring the bridge up again: sudo rumplab net up"
