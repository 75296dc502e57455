"""What of the user's files a container gets, and under which names."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest

from rumplab.container import mounts
from rumplab.container.mounts import Mount
from rumplab.errors import RumplabError

PREFIX = "/opt/rumplab"


def as_docker_reads(option: str) -> dict[str, str]:
    """The option as docker takes it apart: one record of comma-separated values."""
    (values,) = csv.reader([option], strict=True) if "\n" not in option else csv.reader(option.splitlines(True))
    return {name: value for name, _, value in (value.partition("=") for value in values)}


@pytest.mark.parametrize("name", ["plain", "two words", "a,b", 'say "so"', "c:d", "ä=ö", "line\nbreak", "'$x`"])
def test_any_name_comes_through_an_option(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.mkdir()
    assert as_docker_reads(Mount(str(path)).option()) == {
        "type": "bind",
        "source": str(path),
        "target": str(path),
        "readonly": "",
    }
    assert "readonly" not in as_docker_reads(Mount(str(path), writable=True).option())


def test_only_what_is_written_to_is_writable(tmp_path: Path) -> None:
    program, output = tmp_path / "in" / "program", tmp_path / "out"
    program.parent.mkdir()
    program.touch()
    output.mkdir()
    found = mounts.collect([str(program)], [str(output)], PREFIX)
    assert found == [Mount(str(program)), Mount(str(output), writable=True)]


def test_what_is_there_anyway_is_not_mounted_twice(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    (tmp_path / "www").mkdir()
    found = mounts.collect([str(tmp_path / "program"), str(tmp_path / "www")], [str(tmp_path)], PREFIX)
    assert found == [Mount(str(tmp_path), writable=True)]


def test_a_directory_that_is_written_to_stays_so_below_one_that_is_only_read(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    found = mounts.collect([str(tmp_path)], [str(output)], PREFIX)
    assert found == [Mount(str(tmp_path)), Mount(str(output), writable=True)]


def test_a_link_is_followed_to_what_it_shows(tmp_path: Path) -> None:
    """Its target may be out of the container's sight; the name is what the user gave."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "program").touch()
    (tmp_path / "work").mkdir()
    link = tmp_path / "work" / "prog"
    link.symlink_to("../elsewhere/program")
    found = mounts.collect([str(link)], [str(tmp_path / "work")], PREFIX)
    assert [mount.path for mount in found] == [str(tmp_path / "work"), str(link)]
    assert as_docker_reads(found[1].option())["source"] == str(tmp_path / "elsewhere" / "program")


def test_relative_names_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a").touch()
    assert mounts.collect(["a", "./a", "missing"], [], PREFIX) == [Mount(str(tmp_path / "a"))]


@pytest.mark.parametrize("path", ["/", "/etc", "/usr", "/opt", PREFIX, f"{PREFIX}/store", "/usr/bin", "/dev/null"])
def test_what_an_image_needs_is_not_covered(path: str) -> None:
    with pytest.raises(RumplabError, match=r"can't be mounted in a container.*(another directory|elsewhere)"):
        mounts.check(path, PREFIX)
    assert not mounts.possible(path, PREFIX)


@pytest.mark.parametrize("path", ["/tmp", "/srv/x", f"{PREFIX}/pcihello/pcihello.bin", "/usr/share/doc", "/etc/x"])
def test_what_an_image_does_not_need(path: str) -> None:
    assert mounts.possible(path, PREFIX)


@pytest.mark.parametrize("name", ["a\rb", os.fsdecode(b"latin-\xe4")])
def test_names_that_the_engine_would_change_are_refused(name: str) -> None:
    with pytest.raises(RumplabError, match="isn't plain UTF-8; rename it"):
        mounts.check(f"/srv/{name}", PREFIX)
