"""Which packages a Go program consists of, in the usual layouts of source trees."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.building import fake_goroot, write

from rumplab.building import gopath
from rumplab.building.gopath import Finder, Package, Root
from rumplab.errors import RumplabError


def importing(*paths: str, package: str = "main") -> str:
    return f"package {package}\n" + "".join(f'import "{path}"\n' for path in paths)


def library(*paths: str) -> str:
    return importing(*paths, package="lib")


def closure(directory: Path, tmp_path: Path, *places: Path) -> dict[str, str]:
    """Map the import path of each of the program's packages to its directory, relative to `tmp_path`."""
    roots = gopath.gopath({"GOPATH": ":".join(map(str, places or [tmp_path / "gopath"]))})
    root = gopath.root_of(str(directory), roots)
    path = root.path_of(str(directory)) if root else "_" + str(directory)
    main = gopath.read_package(path, str(directory), root)
    own = (root,) if root and root.prefix else ()
    found = Finder(str(fake_goroot(tmp_path / "goroot")), (*own, *roots)).closure(main)
    assert found[0] is main
    return {package.path: str(Path(package.directory).relative_to(tmp_path)) for package in found}


def test_in_gopath(tmp_path: Path) -> None:
    write(
        tmp_path / "gopath" / "src" / "example.org",
        {
            "me/cmd/app/main.go": importing("fmt", "example.org/me/lib", "example.org/v", "not/there"),
            "me/lib/lib.go": library("os", "example.org/me/internal/deep", "example.org/v"),
            "me/internal/deep/deep.go": library("example.org/other"),
            "me/vendor/example.org/v/v.go": library("example.org/me/lib"),
            "v/v.go": library("example.org/unused"),
            "other/other.go": library("example.org/v"),
            "unused/unused.go": library(),
        },
    )
    base = "gopath/src/example.org"
    assert closure(tmp_path / base / "me" / "cmd" / "app", tmp_path) == {
        "example.org/me/cmd/app": f"{base}/me/cmd/app",
        "example.org/me/lib": f"{base}/me/lib",
        "example.org/me/vendor/example.org/v": f"{base}/me/vendor/example.org/v",
        "example.org/me/internal/deep": f"{base}/me/internal/deep",
        "example.org/other": f"{base}/other",
        # A package outside the project doesn't use the project's vendor directory.
        "example.org/v": f"{base}/v",
        "example.org/unused": f"{base}/unused",
    }


def test_the_nearest_vendor_directory_counts_if_it_has_go_files(tmp_path: Path) -> None:
    source = tmp_path / "gopath" / "src"
    write(
        source,
        {
            "a/b/main.go": importing("near", "far", "empty"),
            "a/b/vendor/near/x.go": library(),
            "a/vendor/near/x.go": library(),
            "a/vendor/far/x.go": library(),
            "a/b/vendor/empty/README": "",
            "empty/x.go": library(),
        },
    )
    assert sorted(closure(source / "a" / "b", tmp_path)) == ["a/b", "a/b/vendor/near", "a/vendor/far", "empty"]


def test_vendored_before_standard_and_standard_before_gopath(tmp_path: Path) -> None:
    source = tmp_path / "gopath" / "src"
    write(source, {"a/main.go": importing("fmt", "os"), "a/vendor/fmt/x.go": library(), "os/x.go": library()})
    assert sorted(closure(source / "a", tmp_path)) == ["a", "a/vendor/fmt"]


def test_the_first_gopath_that_has_the_package_is_used(tmp_path: Path) -> None:
    write(tmp_path, {"one/src/x/x.go": library(), "two/src/x/x.go": library(), "two/src/y/y.go": library()})
    write(tmp_path, {"two/src/app/main.go": importing("x", "y")})
    found = closure(tmp_path / "two/src/app", tmp_path, tmp_path / "one", tmp_path / "two")
    assert found == {"app": "two/src/app", "x": "one/src/x", "y": "two/src/y"}


def test_a_module_with_vendored_dependencies(tmp_path: Path) -> None:
    write(
        tmp_path / "somewhere",
        {
            "go.mod": "// comment\n\nmodule example.org/m/v2 // another\n\ngo 1.20\n",
            "cmd/app/main.go": importing("example.org/m/v2/lib", "example.org/dep", "example.org/m/other"),
            "lib/lib.go": library("example.org/dep"),
            "vendor/example.org/dep/dep.go": library(),
        },
    )
    assert closure(tmp_path / "somewhere/cmd/app", tmp_path) == {
        "example.org/m/v2/cmd/app": "somewhere/cmd/app",
        "example.org/m/v2/lib": "somewhere/lib",
        "example.org/m/v2/vendor/example.org/dep": "somewhere/vendor/example.org/dep",
    }


def test_a_vendor_directory_alone_makes_a_project(tmp_path: Path) -> None:
    write(tmp_path / "app", {"main.go": importing("dep"), "vendor/dep/dep.go": library()})
    assert sorted(closure(tmp_path / "app", tmp_path)) == ["app", "app/vendor/dep"]


def test_the_search_for_a_project_ends_at_the_top_of_the_repository(tmp_path: Path) -> None:
    write(tmp_path, {"vendor/dep/dep.go": library(), "repo/.git": "", "repo/main.go": importing("dep")})
    assert gopath.root_of(str(tmp_path / "repo"), ()) is None


def test_relative_imports(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "app/main.go": importing("./sub", "../beside", "./absent", "in/gopath"),
            "app/sub/x.go": library("../../beside"),
            "beside/x.go": library(),
            "gopath/src/in/gopath/x.go": library("./relative"),
            "gopath/src/in/gopath/relative/x.go": library(),
        },
    )
    assert set(closure(tmp_path / "app", tmp_path).values()) == {
        *("app", "app/sub", "beside", "gopath/src/in/gopath"),
    }


def test_files_that_count(tmp_path: Path) -> None:
    names = ["main.go", "main_test.go", "_x.go", ".y.go", "a.c", "a.h", "a.s", "notes.txt", "sub.go/in.go"]
    write(tmp_path, dict.fromkeys(names, "package main\n"))
    package = gopath.read_package("p", str(tmp_path), None)
    assert [source.name for source in package.sources] == ["a.c", "a.h", "a.s", "main.go"]
    assert len({source.sha256 for source in package.sources}) == 1


@pytest.mark.parametrize("path", ["x/../../beside", "app/..", "lib/", "x//y", "/lib"])
def test_paths_that_leave_their_directory_are_no_imports(tmp_path: Path, path: str) -> None:
    """A copy of such a package would be outside the work directory."""
    files = {"app/main.go": importing(path), "beside/x.go": library(), "gopath/src/lib/x.go": library()}
    write(tmp_path, {**files, "gopath/src/x/y/y.go": library(), "gopath/beside/x.go": library()})
    assert set(closure(tmp_path / "app", tmp_path).values()) == {"app"}


@pytest.mark.parametrize("content", ["go 1.20\n", "module ../../x\n", "module /x\n", "module a/../../x\n"])
def test_a_module_without_a_name(tmp_path: Path, content: str) -> None:
    write(tmp_path, {"go.mod": content})
    with pytest.raises(RumplabError, match="has no valid module name"):
        gopath.root_of(str(tmp_path), ())


def test_default_of_gopath() -> None:
    assert gopath.gopath({"HOME": "/h"}) == (Root("", "/h/go/src"),)
    assert gopath.gopath({"GOPATH": "/a:relative::/b/"}) == (Root("", "/a/src"), Root("", "/b/src"))
    assert gopath.gopath({}) == ()


def test_imports_of_every_system_count(tmp_path: Path) -> None:
    write(tmp_path, {"a_linux.go": importing("one"), "a_rumprun.go": importing("two")})
    package: Package = gopath.read_package("p", str(tmp_path), None)
    assert package.imports == ["one", "two"]
