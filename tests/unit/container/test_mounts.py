"""Which of the user's files are mounted into a container, and at which paths."""

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
    """Parse the option as docker does: it is one record of comma-separated values."""
    (values,) = csv.reader([option], strict=True) if "\n" not in option else csv.reader(option.splitlines(True))
    return {name: value for name, _, value in (value.partition("=") for value in values)}


@pytest.mark.parametrize("name", ["plain", "two words", "a,b", 'say "so"', "c:d", "ä=ö", "line\nbreak", "'$x`"])
def test_any_path_survives_the_mount_option(tmp_path: Path, name: str) -> None:
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


def test_a_path_below_a_mounted_directory_is_not_mounted_again(tmp_path: Path) -> None:
    (tmp_path / "program").touch()
    (tmp_path / "www").mkdir()
    found = mounts.collect([str(tmp_path / "program"), str(tmp_path / "www")], [str(tmp_path)], PREFIX)
    assert found == [Mount(str(tmp_path), writable=True)]


def test_a_writable_directory_stays_writable_below_a_read_only_one(tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    found = mounts.collect([str(tmp_path)], [str(output)], PREFIX)
    assert found == [Mount(str(tmp_path)), Mount(str(output), writable=True)]


def test_a_link_is_mounted_with_the_content_of_its_target(tmp_path: Path) -> None:
    """The target of the link may not be mounted, so it is mounted at the path that the user gave."""
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
def test_no_mount_hides_a_directory_that_the_image_needs(path: str) -> None:
    with pytest.raises(RumplabError, match=r"can't be mounted in a container.*(another directory|elsewhere)"):
        mounts.check(path, PREFIX)
    assert not mounts.possible(path, PREFIX)


@pytest.mark.parametrize("path", ["/tmp", "/srv/x", f"{PREFIX}/pcihello/pcihello.bin", "/usr/share/doc", "/etc/x"])
def test_directories_that_an_image_does_not_need(path: str) -> None:
    assert mounts.possible(path, PREFIX)


@pytest.mark.parametrize("name", ["a\rb", os.fsdecode(b"latin-\xe4")])
def test_names_that_the_engine_would_change_are_refused(name: str) -> None:
    with pytest.raises(RumplabError, match="isn't plain UTF-8; rename it"):
        mounts.check(f"/srv/{name}", PREFIX)
