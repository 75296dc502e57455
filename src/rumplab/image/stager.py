"""Makes the recipe of an image from a program, its arguments and its volumes."""

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
    """The unikernel's arguments and configuration in the image. `module` is the name and content of the Multiboot
    module, if there is one."""

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
    """The recipe of an image of format `kind`, and the disk's size in bytes. `boot` is the end of the boot partition.

    The size is `wanted`, or the smallest possible one if that is None. The last partition gets the surplus.
    """
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
    # Only formats other than raw need QEMU.
    qemu_img = "" if kind == "raw" else config.load().component("qemu").path("qemu-img")
    convert = formats.conversion(qemu_img, kind, output.name, size)
    return recipe(tools(), program, boot, content.arguments, content.module, partitions, convert), size


def tools() -> dict[str, str]:
    """The paths of the tools that build an image, by name. NotProvisioned when the component is missing."""
    component = config.load().component(COMPONENT)
    return {name: component.path(name) for name in TOOLS}


def content_sizes(program_size: int, content: Content) -> list[int]:
    """The sizes in bytes of the program, the module and the menu; the menu's size is an upper bound."""
    module = len(content.module[1]) if content.module else 0
    return [program_size, module, 4 * len(content.arguments) + layout.BLOCK]


def choose_content(arguments: str | None, configuration: bytes | None) -> Content:
    """Puts the arguments and the configuration on the command line or in a module; rumplab.image.grub tells why.
    UsageError when neither is possible."""
    arguments = arguments or ""
    fits = grub.survives_command_line(arguments)
    if configuration is None:
        if fits:
            return Content(arguments, None)
        return Content("", ("arguments", arguments.encode(errors="surrogateescape")))
    if not fits:
        raise UsageError(
            "with a configuration, --args can't contain a quote, a backslash, a control character or more than"
            f" {grub.COMMAND_LINE_LIMIT} bytes: GRUB would change it; move it into the configuration"
        )
    return Content(arguments, ("config.json", configuration))
