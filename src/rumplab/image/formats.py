"""The steps that convert a raw image to another format with qemu-img. This module runs nothing."""

from __future__ import annotations

from rumplab.image import vmdk
from rumplab.image.layout import SECTOR
from rumplab.image.step import Step

# The directory in the work directory where the converted image has its final name.
CONVERTED = "converted"


def conversion(qemu_img: str, kind: str, name: str, size: int) -> tuple[Step, ...]:
    """The steps that convert the raw `image` of `size` bytes to `converted/NAME` of format `kind`, and check it."""
    if kind == "raw":
        return ()
    target = f"{CONVERTED}/{name}"
    if kind == "vmdk":
        return vmdk_steps(qemu_img, "raw", "image", target, size, vmdk.SUBFORMATS[0])
    return (
        Step((qemu_img, "convert", "-f", "raw", "-O", kind, "image", target)),
        check(qemu_img, kind, target),
    )


def vmdk_steps(
    qemu_img: str, source_format: str, source: str, target: str, size: int, subformat: str
) -> tuple[Step, ...]:
    """The steps that convert the disk `source` of `size` bytes to the VMDK file `target`, and check it."""
    options = f"subformat={subformat},adapter_type={vmdk.ADAPTER}"
    text = vmdk.descriptor(vmdk.check_name(target.rpartition("/")[2]), size, subformat)
    place = (f"bs={SECTOR}", f"seek={vmdk.DESCRIPTOR_SECTOR}", "conv=notrunc")
    return (
        Step((qemu_img, "convert", "-f", source_format, "-O", "vmdk", "-o", options, source, target)),
        Step(("dd", f"of={target}", *place), stdin=text),
        check(qemu_img, "vmdk", target),
    )


def check(qemu_img: str, kind: str, target: str) -> Step:
    """The step that checks whether the image's metadata is consistent."""
    return Step((qemu_img, "check", "-q", "-f", kind, target))
