"""The format of a disk, as it was when the user first gave it: never read again from bytes that a guest can write.

A guest that writes the header of a qcow2 file into its raw disk would else have, at the next run, any file of the
user's that the header names as what is below it, or as its data.
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

# Of a qcow2 file: where the name of what is below it stands, how long that is, and what a reader has to know.
BACKING, FEATURES, DATA_FILE = struct.Struct(">QI"), struct.Struct(">Q"), 1 << 2
# Of a sparse VMDK: its size, and where its description is, in sectors.
EXTENT, DESCRIPTION = struct.Struct("<Q"), struct.Struct("<QQ")
LARGEST_DESCRIPTION = 128 * SECTOR
PARENT = re.compile(rb"^[ \t]*parentCID[ \t]*=[ \t]*(?!ffffffff)\w+", re.MULTILINE | re.IGNORECASE)


def settle(lab: Lab, path: str, given: str | None, allow_backing: bool) -> Media:
    """The program or the disk at `path`. The format of a disk is what the user has `given`, what was recorded when it
    was staged or first run, or what it looks like, which is recorded then. RumplabError for one that names other files,
    unless `allow_backing`."""
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
    """Says where the disk at `path`, `known` as that, looks like something else by now."""
    try:
        looks = boot_media.inspect(path).format
    except RumplabError:
        # What a guest writes there, as a file system without a boot sector, need be nothing that is known here.
        return
    if looks not in (known, None):
        print(
            f"rumplab: {path} is a {known} disk on record and looks like {looks} now; it is run as {known}. If you, and"
            f" not a guest, have changed it: --format {looks} (of --drive: format={looks})",
            file=sys.stderr,
        )


def check(path: str, kind: str) -> None:
    """RumplabError for a disk that names other files, which whoever made it has chosen."""
    others = references(path, kind)
    if others:
        raise RumplabError(
            f"{path} {others}, so that a guest would have files that you don't name here; if you trust whoever made it:"
            f" --allow-backing; or make one file of it: qemu-img convert -f {kind} -O qcow2 {path} NEW.qcow2"
        )


def staged(path: str) -> str | None:
    """What ``rumplab stage`` wrote beside the image."""
    try:
        kind = json.loads(Path(f"{path}.rumplab.json").read_text(encoding="utf-8"))["format"]
    except (OSError, *MALFORMED):
        return None
    return kind if kind in (RAW, QCOW2, VMDK) else None


def place(lab: Lab, path: str) -> Path:
    name = hashlib.sha256(os.fsencode(os.path.realpath(path))).hexdigest()[:32]
    return places.directory(lab, "formats") / f"{name}.json"


def identity(path: str) -> list[int]:
    """What tells this file from another that was put in its place."""
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
    """Records the format. RumplabError where that can't be done: the next run would have to guess."""
    target = place(lab, path)
    made = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        made.write_text(json.dumps({"path": path, "file": identity(path), "format": kind}) + "\n", encoding="utf-8")
        made.replace(target)
    except OSError as error:
        made.unlink(missing_ok=True)
        raise RumplabError(f"cannot record the format of {path} in {target}: {error.strerror}") from error


def references(path: str, kind: str) -> str | None:
    """Which other files the disk needs, in words; None for a disk that is all there."""
    if kind == RAW:
        return None
    with open(path, "rb") as stream:
        head = stream.read(SECTOR).ljust(SECTOR, b"\0")
        if kind == QCOW2:
            offset, length = BACKING.unpack_from(head, 8)
            if offset:
                stream.seek(min(offset, 1 << 40))
                return f"lies over {stream.read(min(length, 1023)).decode(errors='replace')!r}"
            later = int.from_bytes(head[4:8], "big") >= 3
            return "has its data in another file" if later and FEATURES.unpack_from(head, 72)[0] & DATA_FILE else None
        if head.startswith(recognise.DESCRIPTOR):
            # Its parts stand beside it, or it is refused.
            recognise.check_descriptor(path, head + stream.read(recognise.LARGEST_DESCRIPTOR))
            return None
        if not EXTENT.unpack_from(head, 12)[0]:
            return "has its data in other files"
        offset, length = DESCRIPTION.unpack_from(head, 28)
        stream.seek(min(offset, 1 << 40) * SECTOR)
        text = stream.read(min(length * SECTOR, LARGEST_DESCRIPTION))
    return "lies over another disk" if PARENT.search(text) or b"parentFileNameHint" in text else None
