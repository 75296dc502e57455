"""From a program, its arguments and its volumes to the recipe of an image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import UsageError
from rumplab.image import formats, grub, layout
from rumplab.image.recipe import Partition, Recipe, recipe
from rumplab.image.volume import Volume
from rumplab.lab import config

COMPONENT = "rump_stager"
TOOLS = ("sfdisk", "mke2fs", "debugfs", "grub-mkimage", "grub-modules")


@dataclass(frozen=True)
class Content:
    """What goes into the image beside the program. `module` is a file name and its content."""

    arguments: str
    module: tuple[str, bytes] | None


def plan(
    program: Path,
    output: Path,
    content: Content,
    boot: int,
    volumes: tuple[Volume, ...],
    wanted: int | None,
    kind: str,
) -> tuple[Recipe, int]:
    """The recipe of an image of format `kind` whose boot partition takes up to `boot` bytes, and the disk's
    size, `wanted` or just large enough. What is more than enough goes to the last partition."""
    sizes = [layout.volume_size(item.contents, item.inodes) for item in volumes]
    what = "the program with its volumes" if volumes else "the program"
    size = layout.choose(wanted, boot + sum(sizes), what)
    if volumes:
        sizes[-1] = size - boot - sum(sizes[:-1])
    else:
        boot = size
    places = layout.place_volumes(boot, sizes)
    partitions = [
        Partition(item, number, start, length) for number, (item, (start, length)) in enumerate(zip(volumes, places), 2)
    ]
    # QEMU is needed for the other formats only.
    qemu_img = "" if kind == "raw" else config.load().component("qemu").path("qemu-img")
    convert = formats.conversion(qemu_img, kind, output.name, size)
    return recipe(tools(), program, boot, content.arguments, content.module, partitions, convert), size


def tools() -> dict[str, str]:
    """The paths of the programs that build an image. NotProvisioned when one is missing."""
    component = config.load().component(COMPONENT)
    return {name: component.path(name) for name in TOOLS}


def content_sizes(program_size: int, content: Content) -> list[int]:
    """The sizes in bytes of the files in the image; the menu is at most a few pages of arguments."""
    module = len(content.module[1]) if content.module else 0
    return [program_size, module, 4 * len(content.arguments) + layout.BLOCK]


def choose_content(arguments: str | None, configuration: bytes | None) -> Content:
    """Which way the arguments and the configuration go into the image; see rumplab.image.grub."""
    arguments = arguments or ""
    fits = grub.survives_command_line(arguments)
    if configuration is None:
        if fits:
            return Content(arguments, None)
        return Content("", ("arguments", arguments.encode(errors="surrogateescape")))
    if not fits:
        raise UsageError(
            "with a configuration, --args can hold no quote, backslash or control character and at most"
            f" {grub.COMMAND_LINE_LIMIT} bytes: GRUB would change it; move it into the configuration"
        )
    return Content(arguments, ("config.json", configuration))
