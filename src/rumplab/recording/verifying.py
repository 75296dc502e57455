"""Whether a recording is what it was, and this QEMU the one that made it."""

from __future__ import annotations

from rumplab.errors import RumplabError
from rumplab.host.files import sha256
from rumplab.recording.emulator import Emulator
from rumplab.recording.record import Recording


def changes(recording: Recording) -> list[str]:
    """What isn't as it was recorded, each in words; nothing when all is well."""
    found = []
    for name, digest in recording.hashes.items():
        path = recording.directory / name
        try:
            now = sha256(path)
        except FileNotFoundError:
            found.append(f"{path} is gone")
            continue
        except OSError as error:
            found.append(f"{path} can't be read ({error.strerror})")
            continue
        if now != digest:
            found.append(f"{path} has changed: its sha256 is {now}, and was {digest}")
    return found


def differences(recording: Recording, emulator: Emulator) -> list[str]:
    """What is different about this QEMU, each in words."""
    found = []
    if emulator.version != recording.version:
        found.append(f"this is {emulator.version}, and it was recorded by {recording.version}")
    if emulator.firmware != recording.firmware:
        found.append("QEMU's firmware (BIOS, boot code of cards) is another than when it was recorded")
    return found


def require_unchanged(recording: Recording) -> None:
    """RumplabError says what has changed."""
    found = changes(recording)
    if found:
        raise RumplabError("; ".join(found))


def require(recording: Recording, emulator: Emulator) -> None:
    """RumplabError says all that keeps `recording` from being repeated as it was."""
    found = [*changes(recording), *differences(recording, emulator)]
    if found:
        raise RumplabError(f"{recording.name} can't be replayed: {'; '.join(found)}")
