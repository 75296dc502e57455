"""How a machine gets on the bridge here: by qemu-bridge-helper on Linux, by vmnet on macOS.

On Linux the bridge is component ``bridge`` (path ``qemu-bridge-helper``) and its name and the group that may
use it stand in ``etc/bridge.json`` below the prefix. docs/run.md says what is needed of the host.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from dataclasses import dataclass

from rumplab import accounts, nics
from rumplab.config import Lab
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.nics import Link

COMPONENT = "bridge"
HELPER = "qemu-bridge-helper"
# Nothing changes the host's network without this switch.
CONSENT = "-e bridge_manage=true"


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
        raise RumplabError(
            f"{way.helper} is for members of group {way.group}; {accounts.joining(way.group)}"
        )
