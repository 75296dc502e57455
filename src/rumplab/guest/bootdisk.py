"""The small disk from which GRUB boots a NetBSD kernel in place of NetBSD's own boot loader.

The kernel is on this disk and not on the guest's disk, so a new kernel leaves the guest's disk unchanged.
"""

from __future__ import annotations

import json
from pathlib import Path

from rumplab.host import files
from rumplab.host.answers import MALFORMED
from rumplab.host.files import sha256
from rumplab.image import grub, layout
from rumplab.image.recipe import Recipe, recipe
from rumplab.image.stager import tools
from rumplab.image.writer import sidecar, write_image


def plan(kernel: Path, root: str | None, waits: bool) -> tuple[Recipe, int]:
    """The recipe of the image and the image's size in bytes. With `waits`, the kernel stops in its debugger."""
    size = layout.image_size([kernel.stat().st_size, layout.BLOCK])
    menu = grub.netbsd_menu(root, waits)
    return recipe(tools(), kernel, size, "", None, menu=menu), size


def provide(image: Path, kernel: Path, root: str | None, waits: bool) -> None:
    """Makes `image`, unless a current one exists. RumplabError when there is no space for it."""
    wanted: dict[str, object] = {"program": str(kernel), "sha256": sha256(str(kernel)), "root": root, "debugger": waits}
    if stands(image, wanted):
        return
    made, size = plan(kernel, root, waits)
    files.require_space(image.parent, size, "the disk that boots it")
    # `image` belongs to the guest, so it may be overwritten.
    write_image(made, image, size, lambda: dict(wanted), force=True)


def stands(image: Path, wanted: dict[str, object]) -> bool:
    """Whether `image` exists and its sidecar says `wanted`."""
    try:
        said = json.loads(sidecar(image).read_text(encoding="utf-8"))
        return image.is_file() and said == {"schema": 1, **wanted}
    except (OSError, *MALFORMED):
        return False
