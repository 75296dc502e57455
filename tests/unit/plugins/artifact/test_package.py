"""Debian packages as sources of role artifact: unpacked by Python alone, fetched from archives or by the host's apt."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import Upstreams, opener, provide, request

from plugins.module_utils.artifact import apt, fetch
from plugins.module_utils.artifact.errors import Broken, Unreachable
from plugins.module_utils.artifact.unpack import unpack_over

pytest_plugins = ["fixtures.upstream.served"]

PRINTED = """\
'http://mirror.example/debian/dists/bookworm/InRelease' mirror.example_debian_dists_bookworm_InRelease 0
'http://mirror.example/debian/dists/bookworm-updates/InRelease' mirror.example_debian_dists_InRelease 0
'https://user@other.example/a/b/dists/x/InRelease' other.example_a_b_dists_x_InRelease 0
'mirror+file:/etc/apt/mirrors/debian.list/dists/bookworm/InRelease' x 0
'file:/srv/archive/dists/bookworm/InRelease' x 0
'cdrom:[Debian]/dists/bookworm/InRelease' x 0
"""


def member(name: str, content: bytes) -> bytes:
    """Return a member of an ar archive."""
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def tar(mode: str, **files: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in files.items():
            one = tarfile.TarInfo(f"./usr/{name}")
            one.size = len(content)
            archive.addfile(one, io.BytesIO(content))
    return made.getvalue()


def package(path: Path, data: bytes, suffix: str = ".xz", control: bytes = b"odd") -> Path:
    """Write a package whose files are the archive `data`."""
    members = [member("debian-binary", b"2.0\n"), member("control.tar.xz", control), member(f"data.tar{suffix}", data)]
    path.write_bytes(b"!<arch>\n" + b"".join(members))
    return path


@pytest.mark.parametrize(("mode", "suffix"), [("w:xz", ".xz"), ("w:gz", ".gz"), ("w:bz2", ".bz2"), ("w", "")])
def test_a_package_is_unpacked_without_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str, suffix: str
) -> None:
    """PATH is empty, since unpacking must not need ar, xz or dpkg."""
    monkeypatch.setenv("PATH", "")
    made = package(tmp_path / "a.deb", tar(mode, one=b"1", two=b"22"), suffix)
    unpack_over(str(made), str(tmp_path / "out"))
    assert (tmp_path / "out/usr/one").read_bytes() == b"1"
    assert (tmp_path / "out/usr/two").read_bytes() == b"22"


def test_packages_are_unpacked_over_one_another(tmp_path: Path) -> None:
    for name in ("one", "two"):
        unpack_over(str(package(tmp_path / name, tar("w:xz", **{name: b"x"}))), str(tmp_path / "out"))
    assert sorted(os.listdir(tmp_path / "out/usr")) == ["one", "two"]


def test_zstd_is_named_where_python_cannot_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(tarfile.TarFile, "zstopen", raising=False)
    with pytest.raises(Broken, match=r"a\.deb is compressed with zstd; unpacking it needs Python 3\.14"):
        unpack_over(str(package(tmp_path / "a.deb", b"\x28\xb5\x2f\xfd", ".zst")), str(tmp_path / "out"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-40], "it is truncated"),
        (lambda content: content[:72], "has no member data.tar"),
        (lambda content: b"!<arch>\n" + b"x" * 200, "no package, or is damaged"),
        (lambda content: b"!<arch>\n", "has no member data.tar"),
    ],
)
def test_a_truncated_package_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    made = package(tmp_path / "a.deb", tar("w:xz", one=os.urandom(500)))
    made.write_bytes(change(made.read_bytes()))
    with pytest.raises(Broken, match=message):
        unpack_over(str(made), str(tmp_path / "out"))


def test_the_archives_are_those_that_apt_names_each_once() -> None:
    assert apt.archives(PRINTED) == [
        "http://mirror.example/debian",
        "https://user@other.example/a/b",
        "mirror+file:/etc/apt/mirrors/debian.list",
        "file:/srv/archive",
    ]
    assert apt.archives("E: something is wrong\n") == []


def test_a_host_without_apt_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert apt.origins("pool/x.deb") == []


def test_apt_is_told_how_long_to_wait() -> None:
    argv = apt.download_argv("http://a.example/x", "/there", 30)
    assert argv[0] == apt.HELPER and argv[-3:] == ["download-file", "http://a.example/x", "/there"]
    assert "Acquire::http::Timeout=30" in argv and "Acquire::https::Timeout=30" in argv


needs_apt = pytest.mark.skipif(not os.path.exists(apt.HELPER), reason="no apt")


@needs_apt
@pytest.mark.parametrize(
    ("how", "message"),
    [("404", "404"), ("files/absent", "404"), ("page", "something else than a package"), ("502", "502")],
)
def test_whatever_apt_cannot_fetch_is_unreachable(upstreams: Upstreams, tmp_path: Path, how: str, message: str) -> None:
    pin = {"sha256": "0" * 64, "size": 1000}
    with pytest.raises(Unreachable, match=message):
        fetch.fetch_url(f"apt:{upstreams.http.url(f'{how}/x.deb')}", pin, str(tmp_path / "x.deb"), opener, 5)
    assert os.listdir(tmp_path) == []


@needs_apt
def test_a_file_fetched_by_apt_is_verified(upstreams: Upstreams, tmp_path: Path) -> None:
    url = f"apt:{upstreams.http.url('files/hello-1.0.tar')}"
    good = upstreams.pin()["sha256"]
    fetch.fetch_url(url, {"sha256": good}, str(tmp_path / "x.tar"), opener, 5)
    assert fetch.file_hash(str(tmp_path / "x.tar"), "sha256") == good
    with pytest.raises(Broken, match=f"{good}, expected {'0' * 64}"):
        fetch.fetch_url(url, {"sha256": "0" * 64}, str(tmp_path / "y.tar"), opener, 5)
    assert os.listdir(tmp_path) == ["x.tar"]


@needs_apt
def test_a_directorys_archive_is_copied(upstreams: Upstreams, tmp_path: Path) -> None:
    there = upstreams.directory / "files/hello-1.0.tar"
    fetch.fetch_url(f"apt:file:{there}", upstreams.pin(), str(tmp_path / "x.tar"), opener, 5)
    assert not (tmp_path / "x.tar").is_symlink() and there.exists()


def test_the_hosts_own_archives_are_tried_in_their_place(
    upstreams: Upstreams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def download(origin: str, pin: Any, path: str, timeout: float) -> None:
        asked.append(origin)
        raise Unreachable(f"{origin}: no")

    monkeypatch.setattr(apt, "origins", lambda path: [f"apt:{name}/{path}" for name in ("one", "two")])
    monkeypatch.setattr(apt, "download", download)
    pin = upstreams.pin()
    answer = provide(request(tmp_path, {**pin, "urls": ["apt:pool/h/hello-1.0.tar", *pin["urls"]]}), opener)
    assert (answer["state"], answer["source"]) == ("installed", "upstream"), answer
    assert asked == ["apt:one/pool/h/hello-1.0.tar", "apt:two/pool/h/hello-1.0.tar"]


@pytest.mark.parametrize("cached", [False, True])
def test_a_packages_member_is_the_source(upstreams: Upstreams, tmp_path: Path, cached: bool) -> None:
    inner = (upstreams.directory / "files/hello-1.0.tar").read_bytes()
    made = package(upstreams.directory / "files/hello-source_1.0_all.deb", tar("w:xz", **{"hello.tar": inner}))
    pin = {
        "urls": [upstreams.http.url("files/hello-source_1.0_all.deb")],
        "sha256": fetch.file_hash(str(made), "sha256"),
        "member": "usr/hello.tar*",
    }
    if cached:
        assert provide(request(tmp_path, pin, only="source"), opener)["state"] == "fetched"
        pin["urls"] = [upstreams.http.url("404/hello-source_1.0_all.deb")]
    assert provide(request(tmp_path, pin), opener)["state"] == "installed"
    wrong = provide(
        request(
            tmp_path / "other", {**pin, "urls": [upstreams.http.url(f"files/{made.name}")], "member": "usr/absent*"}
        ),
        opener,
    )
    assert "usr/absent* matches 0 files in it, expected one" in wrong["msg"]


def test_a_source_says_where_it_came_from_also_when_it_was_fetched_before(upstreams: Upstreams, tmp_path: Path) -> None:
    pin = upstreams.pin()
    provide(request(tmp_path, pin, only="source"), opener)
    provide(request(tmp_path, {**pin, "urls": [upstreams.http.url("404/hello-1.0.tar")]}), opener)
    assert f'"origin": "{pin["urls"][0]}"' in (tmp_path / "etc/components.d/hello.json").read_text()
