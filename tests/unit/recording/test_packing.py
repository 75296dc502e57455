"""Packed recordings from others: no file gets outside of the recording's directory, and the disk doesn't get full."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.recordings import unrecorded
from support.staging import command

from rumplab.errors import RumplabError
from rumplab.recording import packing, record
from rumplab.recording.packing import MOST, Forward
from rumplab.recording.record import LARGEST, Recording

CONTENT = bytes(100)


def member(name: str, content: bytes = CONTENT) -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.size = len(content)
    return made, content


def special(name: str, kind: bytes, target: str = "") -> tuple[tarfile.TarInfo, bytes]:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made, b""


def compressed(path: Path, data: bytes) -> Path:
    with path.open("wb") as output:
        subprocess.run([command("zstd"), "--quiet", "--stdout"], input=data, stdout=output, check=True)
    return path


def packed(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    """Return a packed archive of `members`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return compressed(path, data.getvalue())


@pytest.fixture
def good(tmp_path: Path) -> Recording:
    """A recording without an end, whose only other file is its program."""
    (tmp_path / "a").mkdir()
    return unrecorded(tmp_path / "a", CONTENT)


def head(recording: Recording) -> tuple[tarfile.TarInfo, bytes]:
    return member("a/recording.json", (recording.directory / record.RECORD).read_bytes())


def refused(archive: Path, place: Path, why: str) -> None:
    place.mkdir(parents=True)
    with pytest.raises(RumplabError, match=why), packing.unpacked(archive, place):
        pass
    assert list(place.iterdir()) == []
    assert not (place.parent / "out").exists()


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((member("../out"),), "which is not a file of a recording"),
        ((member("/tmp/out"),), "which is not a file of a recording"),
        ((member("a/../../out"),), "without need"),
        ((member("a/b/c"),), "without need"),
        ((member("a/"),), "without need"),
        ((member("alone"),), "which is not a file of a recording"),
        ((member("b/app.bin"),), "which is not a file of a recording"),
        ((special("a/app.bin", tarfile.SYMTYPE, "/etc/passwd"),), "which is not a file of a recording"),
        ((special("a/app.bin", tarfile.LNKTYPE, "a/recording.json"),), "which is not a file of a recording"),
        ((special("a/app.bin", tarfile.FIFOTYPE),), "which is not a file of a recording"),
        ((special("a/app.bin", tarfile.CHRTYPE),), "which is not a file of a recording"),
        ((member("a/app.bin"), member("a/app.bin")), "contains 'a/app.bin' twice"),
        ((member("a/app.bin"), member("a/recording.json")), "contains 'a/recording.json' twice"),
        ((member("a/.recording.json"),), "without need"),
        ((member("a/\x1b[31m"),), r"contains 'a/\\x1b\[31m'"),
    ],
)
def test_an_archive_with_another_member_is_refused_and_leaves_nothing(
    tmp_path: Path, good: Recording, members: tuple[tuple[tarfile.TarInfo, bytes], ...], why: str
) -> None:
    refused(packed(tmp_path / "a.tar.zst", head(good), *members), tmp_path / "deep" / "er", why)


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((), "contains no recording"),
        ((member("a/log"),), "contains no recording"),
        ((member("recording.json"),), "contains no recording"),
        ((special("a/recording.json", tarfile.SYMTYPE, "/etc/passwd"),), "contains no recording"),
        ((member("a/recording.json", bytes(LARGEST + 1)),), "contains no recording"),
        ((member("a/recording.json", b"{}"),), "has schema None"),
        ((member("../recording.json", b"{}"),), "can't name a recording"),
        ((member("/recording.json", b"{}"),), "can't name a recording"),
        ((member("\x1b[31m/recording.json", b"{}"),), r"contains '\\x1b\[31m', which can't name a recording"),
    ],
)
def test_an_archive_that_does_not_begin_with_a_record_is_refused(
    tmp_path: Path, members: tuple[tuple[tarfile.TarInfo, bytes], ...], why: str
) -> None:
    refused(packed(tmp_path / "a.tar.zst", *members), tmp_path / "deep" / "er", why)


def test_a_file_that_zstd_cannot_read_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"no archive")
    refused(archive, tmp_path / "place", r"not a complete packed|zstd failed")
    refused(tmp_path / "missing", tmp_path / "other", "No such file or directory; name a file")
    refused(tmp_path, tmp_path / "third", "Is a directory; name a file")


def test_an_archive_takes_no_more_than_half_of_the_free_space(
    tmp_path: Path, good: Recording, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = bytes(8 << 20) + b"x" * (4 << 20)
    archive = packed(tmp_path / "a.tar.zst", head(good), member("a/app.bin", content))
    # The zeros become holes.
    with packing.unpacked(archive, tmp_path) as found:
        assert (found.directory / "app.bin").read_bytes() == content
        assert (found.directory / "app.bin").stat().st_blocks * 512 <= 5 << 20
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=8 << 20))
    refused(archive, tmp_path / "place", "takes more than half of the free space")


def test_a_member_of_any_size_takes_no_time(tmp_path: Path, good: Recording) -> None:
    huge, _ = member("a/app.bin")
    huge.size = MOST + 1
    data = b"".join((info.tobuf() + content).ljust(-(-(512 + len(content)) // 512) * 512, b"\0")
                    for info, content in (head(good), (huge, b"")))  # fmt: skip
    refused(compressed(tmp_path / "a.tar.zst", data), tmp_path / "place", "unpacks to more than 64 GiB")


def test_a_header_of_any_length_fills_no_memory(tmp_path: Path) -> None:
    for kind in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE):
        info, _ = special("x", kind)
        info.size = 1 << 40
        archive = compressed(tmp_path / "a.tar.zst", info.tobuf() + bytes(1 << 20))
        refused(archive, tmp_path / kind.hex(), "is not a complete packed recording")


def test_the_stream_of_an_archive_seeks_back_by_a_block() -> None:
    content = bytes(range(256)) * 16
    stream = Forward(io.BytesIO(content))
    assert stream.read(2000) == content[:2000]
    assert (stream.seek(1999), stream.read(3), stream.tell()) == (1999, content[1999:2002], 2002)
    assert (stream.seek(4000), stream.read(1000)) == (4000, content[4000:])
    assert stream.seek(9999) == len(content)
    with pytest.raises(tarfile.ReadError):
        stream.seek(10)
    with pytest.raises(tarfile.ReadError):
        stream.read()
