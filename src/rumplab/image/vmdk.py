"""The text at the beginning of a VMDK file: which disk it holds and how its parts fit together.

The format is VMware's Virtual Disk Format 5.0: the descriptor of a file that holds its own data begins at
sector 1 and says, among other things, the file's own name. QEMU writes one with a random content
identifier; this one has nothing random in it.
"""

from __future__ import annotations

from rumplab.errors import UsageError
from rumplab.image.layout import SECTOR

SUBFORMATS = ("monolithicSparse", "streamOptimized")
DESCRIPTOR_SECTOR = 1
# A descriptor of QEMU's is shorter, and the file has 20 sectors for it: nothing of the old text is left.
DESCRIPTOR_BYTES = 2048
CONTENT_ID = "72756d70"
# What VMware's tools write for a disk on a SCSI controller; a BIOS takes no other geometry than 255/63 here.
ADAPTER = "lsilogic"
HEADS, SECTORS_PER_TRACK = 255, 63


def check_name(name: str) -> str:
    """`name` if a VMDK file can be called so. UsageError otherwise: it stands in the file, in quotes."""
    if '"' in name or any(character < " " or character == "\x7f" for character in name):
        raise UsageError(f"{name!r} can't name a VMDK file: leave out quotes and control characters")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{name!r} can't name a VMDK file: it isn't UTF-8") from None
    return name


def descriptor(name: str, size: int, subformat: str) -> str:
    """The descriptor of the file `name` with a disk of `size` bytes, as long as DESCRIPTOR_BYTES in UTF-8."""
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
