"""Unpacking in role artifact: the members that an archive may have, and the top directory of its source."""

from __future__ import annotations

import gzip
import io
import os
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.unpack import unpack, unpack_over


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.mode = kind, link, 0o755
    return made


def archive(path: Path, *members: tarfile.TarInfo, mode: str = "w") -> str:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for one in members:
            if one.isreg():
                one.size = 3
            made.addfile(one, io.BytesIO(b"abc"))
    return str(path)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_single_top_directory_is_the_source(tmp_path: Path, mode: str) -> None:
    path = archive(tmp_path / "a", member("top/file"), member("top/sub/file"), mode=mode)
    top = unpack(path, str(tmp_path / "out"))
    assert top == str(tmp_path / "out/top")
    assert (tmp_path / "out/top/sub/file").read_bytes() == b"abc"


@pytest.mark.parametrize("names", [("one", "two"), ("only-a-file",), ("top/file", "beside")])
def test_without_a_single_top_directory_the_whole_archive_is_the_source(tmp_path: Path, names: tuple[str, ...]) -> None:
    path = archive(tmp_path / "a", *map(member, names))
    assert unpack(path, str(tmp_path / "out")) == str(tmp_path / "out")


def test_links_within_the_source_stay_links(tmp_path: Path) -> None:
    path = archive(tmp_path / "a", member("top/file"), member("top/link", tarfile.SYMTYPE, "file"))
    assert os.readlink(unpack(path, str(tmp_path / "out")) + "/link") == "file"


@pytest.mark.parametrize(
    "members",
    [
        (member("../escaped"),),
        (member("top/../../escaped"),),
        (member("link", tarfile.SYMTYPE, ".."), member("link/escaped")),
    ],
)
def test_no_member_is_unpacked_outside_the_directory(tmp_path: Path, members: tuple[tarfile.TarInfo, ...]) -> None:
    path = archive(tmp_path / "a", *members)
    with pytest.raises(Broken, match="escaped"):
        unpack(path, str(tmp_path / "out"))
    assert not (tmp_path / "escaped").exists()


@pytest.mark.parametrize("kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE])
def test_no_device_is_made(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "a", member("top/thing", kind))
    with pytest.raises(Broken, match="contains a device: top/thing"):
        unpack(path, str(tmp_path / "out"))
    assert not os.path.lexists(tmp_path / "out/top/thing")


def halved(content: bytes) -> bytes:
    return content[: len(content) // 2]


def garbled(content: bytes) -> bytes:
    half = len(content) // 2
    return content[:half] + b"\xaa" * 40 + content[half + 40 :]


def misdeflated(content: bytes) -> bytes:
    """Return gzip data whose second block has an invalid type."""
    raw = gzip.decompress(content)
    packer = zlib.compressobj(wbits=31)
    return packer.compress(raw[: len(raw) // 2]) + packer.flush(zlib.Z_FULL_FLUSH) + b"\xff" * 100


@pytest.mark.parametrize(
    ("mode", "damage"),
    [
        ("w:gz", halved),
        ("w:gz", misdeflated),
        ("w:bz2", halved),
        ("w:bz2", garbled),
        ("w:xz", halved),
        ("w:xz", garbled),
    ],
)
def test_a_damaged_archive_is_named(tmp_path: Path, mode: str, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "release.tar"
    archive(path, *(member(f"top/{number}") for number in range(2000)), mode=mode)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(Broken, match=r"release\.tar can't be unpacked"):
        unpack(str(path), str(tmp_path / "out"))


def test_a_file_that_is_not_an_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "page.tar.gz").write_text("<html>sign in first</html>")
    with pytest.raises(Broken, match=r"page\.tar\.gz can't be unpacked"):
        unpack(str(tmp_path / "page.tar.gz"), str(tmp_path / "out"))


@pytest.mark.parametrize("filtered", [True, False])
def test_an_archive_is_unpacked_over_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filtered: bool) -> None:
    if not filtered:
        monkeypatch.delattr(tarfile, "tar_filter", raising=False)
    out = tmp_path / "out"
    unpack_over(archive(tmp_path / "a", member("top/same"), member("top/link", tarfile.SYMTYPE, "same")), str(out))
    (out / "top/same").write_text("older")
    (out / "top/same").chmod(0o444)
    unpack_over(archive(tmp_path / "b", member("top/same"), member("top/link"), member("top/new")), str(out))
    assert {path.name: path.read_bytes() for path in (out / "top").iterdir()} == dict.fromkeys(
        ("same", "link", "new"), b"abc"
    )
    assert not (out / "top/link").is_symlink()
