"""Compares a recording with its hashes, and a QEMU with the one that recorded it."""

from __future__ import annotations

from rumplab.errors import RumplabError
from rumplab.host.files import sha256
from rumplab.output import printable
from rumplab.recording import hardware
from rumplab.recording.emulator import Emulator
from rumplab.recording.record import Recording


def changes(recording: Recording) -> list[str]:
    """Returns a message for each file that is missing or has changed."""
    found = []
    for name, digest in recording.hashes.items():
        path = recording.directory / name
        try:
            now = sha256(path)
        except FileNotFoundError:
            found.append(f"{path} is missing")
            continue
        except OSError as error:
            found.append(f"{path} can't be read ({error.strerror})")
            continue
        if now != digest:
            found.append(f"{path} has changed: its sha256 is {now}, and was {digest}")
    return found


def differences(recording: Recording, emulator: Emulator) -> list[str]:
    """Returns a message for each difference between `emulator` and the QEMU that recorded."""
    found = []
    if emulator.version != recording.version:
        found.append(f"this QEMU is {emulator.version}, and {printable(recording.version)} recorded it")
    if emulator.firmware != recording.firmware:
        found.append("QEMU's firmware (BIOS, boot code of cards) has changed since the recording")
    return found


def outside(recording: Recording) -> list[str]:
    """Returns a message for each disk that names other files: a replay must read only files of the recording."""
    # Imported here because it loads several modules, and few machines have disks.
    from rumplab.image.recorded import references

    found = []
    for number, drive in enumerate(recording.hardware.disks):
        path = recording.directory / hardware.disk_name(number)
        others = references(str(path), drive.format)
        if others:
            found.append(f"{path} {others}, which is not a file of the recording")
    return found


def require_unchanged(recording: Recording) -> None:
    """Raises RumplabError if a file has changed."""
    found = changes(recording)
    if found:
        raise RumplabError(f"{'; '.join(found)}; unpack the recording again, or record the run again")


def require(recording: Recording, emulator: Emulator) -> None:
    """Raises RumplabError, with all reasons, if `emulator` can't replay `recording`."""
    found = [*changes(recording), *differences(recording, emulator)]
    found += [] if found else outside(recording)
    if found:
        raise RumplabError(f"{recording.name} can't be replayed: {'; '.join(found)}; record the run again")
