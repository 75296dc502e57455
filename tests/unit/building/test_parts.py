"""The parts of `rumplab build`, each on its own."""

from __future__ import annotations

import errno
import hashlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.building import write
from support.labfixture import host_tool

from rumplab.building import explain, golang, gopath, record
from rumplab.building.recipe import WORK, generated, quoted
from rumplab.building.target import Tools, go_release, target
from rumplab.errors import RumplabError

OWN = {"/w/gopath": "/srv/me/go", "/w/gopath/src/app": "/srv/me/app", "/w/local": ""}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("/w/gopath/src/app/x.c:3: error", "/srv/me/app/x.c:3: error"),
        ("/w/gopath/src/application/x.c", "/srv/me/go/src/application/x.c"),
        ("in '/w/gopath/src/app'", "in '/srv/me/app'"),
        ("./x.c:3:1: error", "/srv/me/app/x.c:3:1: error"),
        ("x.c: In function 'f':", "/srv/me/app/x.c: In function 'f':"),
        ("ax.c:3", "ax.c:3"),
        ("sub/x.c:3", "sub/x.c:3"),
        ("# _/w/local/tmp/app", "# _/tmp/app"),
        ("../../../../srv/me/app/a b.go:3: x", "/srv/me/app/a b.go:3: x"),
        ("(../app/y.go:3)", "(/srv/me/app/y.go:3)"),
        ("wait ... done, a/../b", "wait ... done, a/../b"),
    ],
)
def test_messages_name_the_users_files(said: str, meant: str) -> None:
    assert explain.own_words(said, "/w/gopath/src/app", OWN, {"x.c": "/srv/me/app/x.c"}) == meant


def test_files_that_build_has_made_are_not_said_to_be_the_users(tmp_path: Path) -> None:
    place = "gopath/src/app"
    package = gopath.Package("app", "/srv/me/app", gopath.Root("", "/srv/me"), ())
    target_of = target("/t/bin/x86_64-rumprun-netbsd-gcc")
    tools = Tools(target_of, "/t/bin/rumprun-bake", (), (), "/go", "/goroot")
    made = golang.recipe(golang.GoProgram((package,), (), "/srv/me"), tools, "hw_generic")
    own = {theirs.replace(WORK, "/w"): users for theirs, users in made.own.items()}
    assert own["/w/main.c"] == generated("main.c")
    for said in (f"/w/{place}/{golang.CALLER}:9: main redeclared", "/w/main.c:12: undefined reference to `f'"):
        meant = explain.own_words(said, "/w", own, {})
        assert "which build adds)" in meant
        assert "/srv/me" not in meant and "/w" not in meant
    relative = made.relative["app"]
    meant = explain.own_words(f"./{golang.CALLER}:9: main redeclared", f"/w/{place}", own, relative)
    assert meant == f"({golang.CALLER}, which build adds):9: main redeclared"


def test_paths_with_backslashes_in_messages() -> None:
    assert explain.own_words("/w/x.go:1", "/w", {"/w": r"/a\1b"}, {}) == r"/a\1b/x.go:1"


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("ld: cannot find -lfoo", "there is no library foo"),
        ("ld: cannot find -lfoo: No such file or directory", "there is no library foo"),
        ("a.c:1:10: fatal error: b/c.h: No such file or directory", "there is no header b/c.h"),
        ("a.o: undefined reference to `f_{0}'", "no linked library defines f_{0}"),
        ("cc1: No space left on device", "the disk is full"),
        ("compile: signal: killed", "the host ran out of memory"),
        ("something else", ""),
    ],
)
def test_remedies(said: str, remedy: str) -> None:
    words = explain.remedy(said, "/bin/x86_64-rumprun-netbsd-gcc")
    assert words.startswith(remedy) and bool(words) == bool(remedy)


def test_rules_as_gcc_writes_them(tmp_path: Path) -> None:
    """File names with blanks, dollars and number signs, in rules of several lines."""
    names = ["a b.h", "c$d.h", "e#f.h", "plain.h"]
    source = write(tmp_path, dict.fromkeys(names, "") | {"x.c": "".join(f'#include "{name}"\n' for name in names)})
    subprocess.run(
        [host_tool("gcc"), "-c", "x.c", "-o", "/dev/null"],
        cwd=source,
        env={"PATH": "/usr/bin:/bin", "SUNPRO_DEPENDENCIES": str(tmp_path / "rules")},
        timeout=60,
        check=True,
    )
    rules = (tmp_path / "rules").read_text()
    assert set(names) <= set(record.prerequisites(rules))
    assert record.complete(rules) and record.complete(rules + rules)


@pytest.mark.parametrize(
    "rules", ["", "a.o: b.h /usr/inclc.o: d.h\nude/e.h\n", "a.o: b.h \\\nc.o: d.h \\\n e.h\n f.h\n"]
)
def test_incomplete_rules(rules: str) -> None:
    """An empty file, and the rules of two compilers that wrote at the same time."""
    assert not record.complete(rules)


def test_files_that_compilers_read(tmp_path: Path) -> None:
    write(tmp_path, {"src/a.h": "a", "tree/b.h": "b", "work/c.h": "c", "other/d.h": "d"})
    work = tmp_path / "work"
    (work / "link.h").symlink_to(tmp_path / "other" / "d.h")
    rules = f"x.o: a.h gone.h {tmp_path}/tree/b.h \\\n {work}/c.h {work}/link.h\n"
    directories, outside = [str(tmp_path / "src")], [str(tmp_path / "tree"), str(work)]
    (tmp_path / "src" / "link.h").symlink_to(tmp_path / "other" / "d.h")
    rules += "y.o: link.h\n"
    found = record.read_files(rules, directories, outside, time.time() + 10)
    read = [str(tmp_path / "src" / "a.h"), str(tmp_path / "other" / "d.h"), str(tmp_path / "src" / "link.h")]
    assert found == {path: hashlib.sha256(Path(path).read_bytes()).hexdigest() for path in read}
    older = record.read_files(rules, directories, outside, 0)
    assert older == dict.fromkeys(read, "")


def test_an_unreadable_directory_beside_a_package_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The C code can't include from it, so the build goes on. The test fakes the error, since root may read all."""
    write(tmp_path, {"app/main.go": 'package main\nimport "C"\n', "app/data/x": "", "beside/y.h": ""})
    package = gopath.read_package("app", str(tmp_path / "app"), gopath.Root("app", str(tmp_path / "app")))
    inside = {"gopath/src/app/data": f"{tmp_path}/app/data"}
    linked = golang.surroundings(package, {"gopath/src/app"})
    assert linked == {**inside, "gopath/src/beside": f"{tmp_path}/beside"}
    scandir = os.scandir

    def refused(directory: str) -> Iterator[os.DirEntry[str]]:
        if directory == str(tmp_path):
            raise PermissionError(errno.EACCES, "Permission denied", directory)
        return scandir(directory)

    monkeypatch.setattr(os, "scandir", refused)
    assert golang.surroundings(package, {"gopath/src/app"}) == inside


def test_the_cache_directory() -> None:
    assert record.cache_root({"HOME": "/h"}) == Path("/h/.cache/rumplab/build")
    assert record.cache_root({"HOME": "/h", "XDG_CACHE_HOME": "/x"}) == Path("/x/rumplab/build")


@pytest.mark.parametrize("home", [{}, {"HOME": "relative"}, {"HOME": "/with blank"}, {"XDG_CACHE_HOME": "/a$b"}])
def test_a_cache_directory_must_be_plain(home: dict[str, str]) -> None:
    with pytest.raises(RumplabError, match="set XDG_CACHE_HOME to such a path"):
        record.cache_root(home)


@pytest.mark.parametrize(
    ("name", "system"),
    [
        ("x86_64-rumprun-netbsd-gcc", ("rumprun", "amd64")),
        ("i486-rumprun-netbsdelf-gcc", ("rumprun", "386")),
        ("x86_64-linux-gnu-gcc", ("linux", "amd64")),
    ],
)
def test_the_compilers_name_tells_the_target(name: str, system: tuple[str, str]) -> None:
    found = target(f"/some where/{name}")
    assert (found.goos, found.goarch) == system


@pytest.mark.parametrize("name", ["gcc", "x86_64-rumprun-netbsd-g++", "vax-rumprun-netbsd-gcc"])
def test_other_compiler_names_tell_no_target(name: str) -> None:
    with pytest.raises(RumplabError, match="is not named MACHINE-SYSTEM-gcc"):
        target(f"/bin/{name}")


def test_releases_of_go(tmp_path: Path) -> None:
    for text, minor in (("go1.5.1", 5), ("go1.7beta2\n", 7), ("go1.24.4\ntime 2025\n", 24)):
        write(tmp_path, {"VERSION": text})
        assert go_release(str(tmp_path)) == minor
    write(tmp_path, {"VERSION": "devel"})
    with pytest.raises(RumplabError, match="does not contain Go's version"):
        go_release(str(tmp_path))


def test_shell_words() -> None:
    assert quoted("") == "''"
    assert quoted("a b") == "'a b'"
    assert quoted(f"{WORK}/a b") == "\"$work\"'/a b'"
    assert quoted(f"-m={WORK}/x={WORK}") == '-m="$work"/x="$work"'
