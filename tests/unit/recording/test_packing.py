"""Packed recordings that somebody else has made: nothing of them lands where no recording has it."""

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
    """A packed archive of `members`, each plain file of them with `content`."""
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
        ((file("../out"),), "holds ../out, which no recording has"),
        ((file("/tmp/out"),), "which no recording has"),
        ((file("a/../../out"),), "which no recording has"),
        ((file("a/b/c"),), "which no recording has"),
        ((file("alone"),), "which no recording has"),
        ((link("a/log", "/etc/passwd"),), "which no recording has"),
        ((link("a/log", "a/other", tarfile.LNKTYPE),), "which no recording has"),
        ((file("a/log"), file("a/log")), "holds a/log twice"),
        ((link("a/pipe", "", tarfile.FIFOTYPE),), "which no recording has"),
        ((file("a/recording.json"), file("b/recording.json")), "holds no recording"),
        ((file("a/log"),), "holds no recording"),
        ((), "holds no recording"),
        ((file("a/recording.json"),), "has schema None"),
    ],
)
def test_what_is_no_recording_is_refused_and_leaves_nothing(
    tmp_path: Path, members: tuple[tarfile.TarInfo, ...], why: str
) -> None:
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    archive = packed(tmp_path / "a.tar.zst", *members)
    with pytest.raises(RumplabError, match=why), packing.unpacked(archive, place):
        pass
    assert list(place.iterdir()) == []
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a.tar.zst", "deep", "er"]


def test_what_zstd_cannot_read_is_told(tmp_path: Path) -> None:
    archive = tmp_path / "a.tar.zst"
    archive.write_bytes(b"no archive")
    with pytest.raises(RumplabError, match=r"no packed recording|zstd failed"), packing.unpacked(archive, tmp_path):
        pass
