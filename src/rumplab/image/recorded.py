"""Records the format of a disk when the user first uses it. Later runs use the record and not the disk's content, which
a guest can write.

Without the record, a guest could write a qcow2 header to its raw disk. At the next run, it could then access any file
of the user that this header names as the backing file or the data file.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import struct
import sys
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.host.answers import MALFORMED
from rumplab.image import recognise
from rumplab.image.layout import SECTOR
from rumplab.image.recognise import QCOW2, RAW, VMDK
from rumplab.lab import places
from rumplab.lab.config import Lab
from rumplab.machine import boot_media
from rumplab.machine.boot_media import Media

# Fields of a qcow2 header: offset and length of the backing file's name; the incompatible features, and the bit for an
# external data file.
BACKING, FEATURES, DATA_FILE = struct.Struct(">QI"), struct.Struct(">Q"), 1 << 2
# Fields of a sparse VMDK's header: the capacity; offset and length of the embedded descriptor. All are in sectors.
EXTENT, DESCRIPTION = struct.Struct("<Q"), struct.Struct("<QQ")
LARGEST_DESCRIPTION = 128 * SECTOR
PARENT = re.compile(rb"^[ \t]*parentCID[ \t]*=[ \t]*(?!ffffffff)\w+", re.MULTILINE | re.IGNORECASE)


def settle(lab: Lab, path: str, given: str | None, allow_backing: bool) -> Media:
    """The program or disk at `path`. The format of a disk is the one that the user has `given`, else the one recorded
    when the disk was staged or first used, else the one that its content shows; this is recorded. RumplabError for a
    disk that names other files, unless `allow_backing`."""
    absolute = os.path.abspath(path)
    known = None if given else staged(absolute) or remembered(lab, absolute)
    found = boot_media.inspect(path, given or known)
    if found.format is None:
        return found
    if known is None:
        remember(lab, absolute, found.format)
    else:
        tell_change(absolute, known)
    if not allow_backing:
        check(absolute, found.format)
    return found


def tell_change(path: str, known: str) -> None:
    """Prints a warning if the content of the disk at `path` no longer looks like the recorded format `known`."""
    try:
        looks = boot_media.inspect(path).format
    except RumplabError:
        # A guest may write any content to its disk, for example a file system without a boot sector.
        return
    if looks not in (known, None):
        print(
            f"rumplab: {path} is recorded as a {known} disk and looks like {looks} now; it is used as {known}. If you"
            f" changed it, and not a guest, use: --format {looks} (with --drive: format={looks})",
            file=sys.stderr,
        )


def check(path: str, kind: str) -> None:
    """RumplabError for a disk that names other files: the disk's author has chosen them, and not the user."""
    others = references(path, kind)
    if others:
        raise RumplabError(
            f"{path} {others}, so a guest could access files that you haven't named; if you trust the disk's author,"
            f" use --allow-backing; or make one file of it: qemu-img convert -f {kind} -O qcow2 {path} NEW.qcow2"
        )


def staged(path: str) -> str | None:
    """The format in the image's sidecar, which ``rumplab stage`` wrote; None when there is none."""
    try:
        kind = json.loads(Path(f"{path}.rumplab.json").read_text(encoding="utf-8"))["format"]
    except (OSError, *MALFORMED):
        return None
    return kind if kind in (RAW, QCOW2, VMDK) else None


def place(lab: Lab, path: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return places.directory(lab, "formats") / f"{name}.json"


def identity(path: str) -> list[int]:
    """The device and inode of the file, which distinguish it from another file at the same path."""
    status = os.stat(path)
    return [status.st_dev, status.st_ino]


def remembered(lab: Lab, path: str) -> str | None:
    try:
        data = json.loads(place(lab, path).read_text(encoding="utf-8"))
        kind = data["format"] if data["file"] == identity(path) else None
    except (OSError, *MALFORMED):
        return None
    return kind if kind in (RAW, QCOW2, VMDK) else None


def remember(lab: Lab, path: str, kind: str) -> None:
    """Records the format. RumplabError when that fails: without a record, the next run would read the content."""
    target = place(lab, path)
    made = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        made.write_text(json.dumps({"path": path, "file": identity(path), "format": kind}) + "\n", encoding="utf-8")
        made.replace(target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise RumplabError(
            f"cannot record the format of {path} in {target}: {error.strerror}; make its directory writable"
        ) from error


def references(path: str, kind: str) -> str | None:
    """A phrase about the other files that the disk refers to; None when it refers to none."""
    if kind == RAW:
        return None
    with open(path, "rb") as stream:
        head = stream.read(SECTOR).ljust(SECTOR, b"\0")
        if kind == QCOW2:
            offset, length = BACKING.unpack_from(head, 8)
            if offset:
                stream.seek(min(offset, 1 << 40))
                return f"has the backing file {stream.read(min(length, 1023)).decode(errors='replace')!r}"
            later = int.from_bytes(head[4:8], "big") >= 3
            return "has its data in another file" if later and FEATURES.unpack_from(head, 72)[0] & DATA_FILE else None
        if head.startswith(recognise.DESCRIPTOR):
            # check_descriptor() refuses parts outside the descriptor's directory.
            recognise.check_descriptor(path, head + stream.read(recognise.LARGEST_DESCRIPTOR))
            return None
        if not EXTENT.unpack_from(head, 12)[0]:
            return "has its data in other files"
        offset, length = DESCRIPTION.unpack_from(head, 28)
        stream.seek(min(offset, 1 << 40) * SECTOR)
        text = stream.read(min(length * SECTOR, LARGEST_DESCRIPTION))
    return "has another disk as its parent" if PARENT.search(text) or b"parentFileNameHint" in text else None
