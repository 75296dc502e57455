"""Archives that try to leave their directory or to fill the disk, with Python's tarfile filters and without them."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fixtures.upstream.support import Upstreams, opener, provide, request
from unit.plugins.artifact.test_unpack import archive, member

from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.members import Allowance, Bounded, declared
from plugins.module_utils.artifact.unpack import unpack, unpack_over

pytest_plugins = ["fixtures.upstream.served"]
LINK, HARD, FOLDER = tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE


@pytest.fixture(params=["filters", "no filters"])
def place(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory two levels deep; a secret file is outside it."""
    if request.param == "no filters":
        for name in ("tar_filter", "data_filter", "fully_trusted_filter"):
            monkeypatch.delattr(tarfile, name, raising=False)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "outside").mkdir(mode=0o700)
    (tmp_path / "in/to").mkdir(parents=True)
    return tmp_path / "in/to"


def tricks(top: Path) -> Iterator[tuple[tarfile.TarInfo, ...]]:
    """Yield archives that try to read, make or change a file in `top`."""
    secret, outside = str(top / "secret"), str(top / "outside")
    yield (member("../../outside/x"),)
    yield (member(f"{outside}/x"),)
    yield (member("d/l", LINK, "../../../outside"), member("d/l/x"))
    yield (member("l", LINK, outside), member("l/x"))
    yield (member("l", LINK, "../.."), member("m", LINK, "l/outside"), member("m/x"))
    yield (member("l", LINK, outside), member("l/sub", FOLDER))
    yield (member("h", HARD, "../../secret"),)
    yield (member("h", HARD, secret),)
    yield (member("h", HARD, "../../secret"), member("h"))
    yield (member("l", LINK, "../.."), member("h", HARD, "l/secret"))
    yield (member("l", LINK, secret), member("h", HARD, "l"))
    yield (member("h", HARD, "not/there"),)


@pytest.mark.parametrize("number", range(12))
def test_nothing_outside_is_reached(place: Path, number: int) -> None:
    top = place.parent.parent
    path = archive(top / "a", *list(tricks(top))[number])
    with pytest.raises(Broken, match=r"outside its directory|missing file"):
        unpack_over(path, str(place))
    assert os.listdir(top / "outside") == []
    status = (top / "secret").stat()
    assert (status.st_nlink, status.st_mode & 0o777, (top / "secret").read_text()) == (1, 0o600, "secret")


def test_a_link_to_outside_is_replaced_by_what_comes_after_and_not_written_through(place: Path) -> None:
    top = place.parent.parent
    path = archive(top / "a", member("s", LINK, str(top / "secret")), member("s"))
    unpack_over(path, str(place))
    assert (place / "s").read_bytes() == b"abc" and not (place / "s").is_symlink()
    path = archive(top / "b", member("d", LINK, str(top / "outside")), member("d", FOLDER))
    unpack_over(path, str(place))
    assert (place / "d").is_dir() and not (place / "d").is_symlink()
    assert (top / "outside").stat().st_mode & 0o777 == 0o700
    assert (top / "secret").read_text() == "secret"


def test_hard_links_within_the_archive_stay(place: Path) -> None:
    path = archive(place.parent / "a", member("top/one"), member("top/two", HARD, "top/one"))
    unpack_over(path, str(place))
    assert (place / "top/one").samefile(place / "top/two")
    # Unpack a second time, over the existing files.
    unpack_over(path, str(place))
    assert (place / "top/one").samefile(place / "top/two")


def test_bits_that_give_rights_to_others_are_left_out(place: Path) -> None:
    one = member("program")
    one.mode = 0o6777
    unpack_over(archive(place.parent / "a", one), str(place))
    assert (place / "program").stat().st_mode & 0o7777 == 0o755


def zeros(path: Path, mebibytes: int, kind: bytes = tarfile.REGTYPE) -> str:
    """Write a small archive that contains a large file of zeros."""
    head = member("zeros", kind)
    head.size = mebibytes << 20
    with lzma.open(path, "wb", preset=0) as stream:
        stream.write(head.tobuf())
        for _ in range(mebibytes):
            stream.write(bytes(1 << 20))
        stream.write(bytes(1024))
    return str(path)


# tarfile unpacks a member of an unknown type (here Q) as a file.
@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.CONTTYPE, b"Q"])
def test_an_archive_unpacks_to_no_more_than_is_declared(place: Path, kind: bytes) -> None:
    path = zeros(place.parent / "bomb.tar.xz", 4, kind)
    with declared(3), pytest.raises(Broken, match=r"more than the 3 MiB that artifact_space declares .*zeros"):
        unpack(path, str(place))
    assert sum(file.stat().st_size for file in place.iterdir()) == 0
    with declared(4):
        unpack(path, str(place))


def test_the_parts_of_a_source_share_the_declared_size(place: Path) -> None:
    path = zeros(place.parent / "a.tar.xz", 2)
    with declared(3):
        unpack_over(path, str(place / "one"))
        with pytest.raises(Broken, match="3 MiB"):
            unpack_over(path, str(place / "two"))


def test_many_empty_files_are_counted_too(place: Path) -> None:
    path = archive(place.parent / "a", *(member(str(number)) for number in range(300)))
    with declared(1), pytest.raises(Broken, match="1 MiB"):
        unpack_over(path, str(place))
    assert len(os.listdir(place)) == 256


def test_without_a_declared_size_there_is_no_limit() -> None:
    Allowance(0).take(1 << 50, "x")


def test_a_header_of_any_length_fills_no_memory(place: Path) -> None:
    head = member("x", tarfile.GNUTYPE_LONGNAME)
    head.size = 1 << 40
    (place.parent / "a.tar.gz").write_bytes(gzip.compress(head.tobuf() + bytes(1 << 20)))
    with pytest.raises(Broken, match=r"a.tar.gz can't be unpacked"):
        unpack_over(str(place.parent / "a.tar.gz"), str(place))
    with pytest.raises(tarfile.ReadError):
        Bounded(io.BytesIO()).read()


def test_a_source_that_unpacks_to_more_than_the_recipe_declares_is_refused(
    upstreams: Upstreams, tmp_path: Path
) -> None:
    served = upstreams.directory / "files" / "bomb.tar.xz"
    zeros(served, 4)
    pin = {"urls": [upstreams.http.url("files/bomb.tar.xz")], "sha256": hashlib.sha256(served.read_bytes()).hexdigest()}
    answer = provide(request(tmp_path / "lab", pin, space=2), opener)
    assert answer["failed"] and "2 MiB that artifact_space declares" in answer["msg"], answer
    assert os.listdir(tmp_path / "lab/work") == [] and os.listdir(tmp_path / "lab/store") == []
