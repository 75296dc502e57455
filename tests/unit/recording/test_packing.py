"""Packed recordings from others: no file gets outside of the recording's directory."""

from __future__ import annotations

import io
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.staging import command

from rumplab.errors import RumplabError
from rumplab.recording import packing


def packed(path: Path, *members: tarfile.TarInfo, content: bytes = b"{}") -> Path:
    """Returns a packed archive of `members`, whose regular files have `content`."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for member in members:
            if member.isfile():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    with path.open("wb") as output:
        subprocess.run([command("zstd"), "--quiet", "--stdout"], input=data.getvalue(), stdout=output, check=True)
    return path


def file(name: str) -> tarfile.TarInfo:
    return tarfile.TarInfo(name)


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname = kind, target
    return made


@pytest.mark.parametrize(
    ("members", "why"),
    [
        ((file("../out"),), "contains ../out, which is not a file of a recording"),
        ((file("/tmp/out"),), "which is not a file of a recording"),
        ((file("a/../../out"),), "which is not a file of a recording"),
        ((file("a/b/c"),), "which is not a file of a recording"),
        ((file("alone"),), "which is not a file of a recording"),
        ((link("a/log", "/etc/passwd"),), "which is not a file of a recording"),
        ((link("a/log", "a/other", tarfile.LNKTYPE),), "which is not a file of a recording"),
        ((file("a/log"), file("a/log")), "contains a/log twice"),
        ((link("a/pipe", "", tarfile.FIFOTYPE),), "which is not a file of a recording"),
        ((file("a/recording.json"), file("b/recording.json")), "contains no recording"),
        ((file("a/log"),), "contains no recording"),
        ((), "contains no recording"),
        ((file("a/recording.json"),), "has schema None"),
    ],
)
def test_an_archive_without_a_recording_is_refused_and_leaves_nothing(
    tmp_path: Path, members: tuple[tarfile.TarInfo, ...], why: str
) -> None:
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    archive = packed(tmp_path / "a.tar.zst", *members)
    with pytest.raises(RumplabError, match=why), packing.unpacked(archive, place):
        pass
    assert list(place.iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.zst", "deep", "er"]


def test_a_file_that_zstd_cannot_read_is_refused(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"no archive")
    with (
        pytest.raises(RumplabError, match=r"not a complete packed|zstd failed"),
        packing.unpacked(archive, tmp_path),
    ):
        pass
