"""The descriptor of a VMDK file, which describes the disk and its parts as text.

The format is VMware's Virtual Disk Format 5.0. In a file that also has the data, the descriptor begins at sector 1 and
contains the file's own name. QEMU's descriptor has a random content id; this module's descriptor is reproducible.
"""

from __future__ import annotations

from rumplab.errors import UsageError
from rumplab.image.layout import SECTOR

SUBFORMATS = ("monolithicSparse", "streamOptimized")
DESCRIPTOR_SECTOR = 1
# QEMU's descriptor is shorter and the file reserves 20 sectors, so the new descriptor overwrites all of QEMU's.
DESCRIPTOR_BYTES = 2048
CONTENT_ID = "72756d70"
# The adapter type that VMware's tools write for a disk on a SCSI controller. A BIOS accepts only geometry 255/63 for
# it.
ADAPTER = "lsilogic"
HEADS, SECTORS_PER_TRACK = 255, 63


def check_name(name: str) -> str:
    """`name`, if a VMDK file can have this name. Else UsageError: the descriptor contains the name in quotes."""
    if '"' in name or any(character < " " or character == "\x7f" for character in name):
        raise UsageError(f"{name!r} can't be a VMDK file's name; use one without quotes and control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} can't be a VMDK file's name: it isn't UTF-8; use another name") from None
    return name


def descriptor(name: str, size: int, subformat: str) -> str:
    """The descriptor of the file `name` with a disk of `size` bytes, padded to DESCRIPTOR_BYTES in UTF-8."""
    sectors = size // SECTOR
    text = f"""\
# Disk DescriptorFile
version=1
encoding="UTF-8"
CID={CONTENT_ID}
parentCID=ffffffff
createType="{subformat}"

# Extent description
RW {sectors} SPARSE "{name}"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{sectors // (HEADS * SECTORS_PER_TRACK)}"
ddb.geometry.heads = "{HEADS}"
ddb.geometry.sectors = "{SECTORS_PER_TRACK}"
ddb.adapterType = "{ADAPTER}"
"""
    return text + "\n" * (DESCRIPTOR_BYTES - len(text.encode()))
