"""Finds the Go packages of a program by the rules of Go 1.5 to 1.7: GOPATH and ``vendor`` directories.

For a program outside GOPATH, the directory of its ``go.mod`` or of its ``vendor`` directory is an import root. A
program with neither can also import packages by relative path.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rumplab.building.gofile import GoFile, read_head
from rumplab.errors import RumplabError

MODULE = re.compile(r'^[ \t]*module[ \t]+"?([^\s"]+)', re.MULTILINE)
PLAIN = re.compile(r"[\w.~-]+")
# The suffixes of files other than Go files that `go build` compiles or links.
OTHER_SOURCES = (".c", ".cc", ".cpp", ".cxx", ".h", ".hh", ".hpp", ".hxx", ".s", ".S", ".syso")


@dataclass(frozen=True)
class Root:
    """An import root: its subdirectory DIR has the import path PREFIX/DIR, or DIR if `prefix` is empty."""

    prefix: str
    directory: str

    def path_of(self, directory: str) -> str:
        inside = os.path.relpath(directory, self.directory)
        return self.prefix if inside == os.curdir else os.path.join(self.prefix, inside)

    def directory_of(self, path: str) -> str | None:
        """The directory for the import path `path`; None if `path` doesn't belong to this root."""
        if not self.prefix:
            return os.path.join(self.directory, path)
        if path != self.prefix and not path.startswith(self.prefix + "/"):
            return None
        return os.path.join(self.directory, path[len(self.prefix) + 1 :]).rstrip("/")


@dataclass(frozen=True)
class Source:
    """A file of a package. `head` is None for a file other than Go; `marked` tells that it has a byte order mark."""

    name: str
    sha256: str
    head: GoFile | None
    marked: bool


@dataclass(frozen=True)
class Package:
    """A package. `path` is its import path; `root` is None if it can be imported only by relative path."""

    path: str
    directory: str
    root: Root | None
    sources: tuple[Source, ...]

    @property
    def uses_cgo(self) -> bool:
        return any(source.head is not None and source.head.uses_cgo for source in self.sources)

    @property
    def imports(self) -> list[str]:
        """The import paths in all of its files, also in files for other systems."""
        heads = [source.head for source in self.sources if source.head is not None]
        return list(dict.fromkeys(path for head in heads for path in head.imports))


def gopath(environment: dict[str, str]) -> tuple[Root, ...]:
    """The import roots of GOPATH; its default is the directory ``go`` in the home directory."""
    home = environment.get("HOME")
    value = environment.get("GOPATH") or (os.path.join(home, "go") if home else "")
    places = [place for place in value.split(os.pathsep) if os.path.isabs(place)]
    return tuple(Root("", os.path.join(os.path.normpath(place), "src")) for place in places)


def root_of(directory: str, roots: Sequence[Root]) -> Root | None:
    """The import root of a program in `directory`; None when it has none. RumplabError for an invalid ``go.mod``."""
    for root in roots:
        for outer in (root.directory, os.path.realpath(root.directory)):
            if directory.startswith(outer + os.sep):
                return Root("", outer)
    for parent in (Path(directory), *Path(directory).parents):
        module = parent / "go.mod"
        if module.is_file():
            named = MODULE.search(module.read_text(encoding="utf-8", errors="replace"))
            if named is None or not orderly(named[1]):
                raise RumplabError(f"{module} has no valid module name; its first line must be: module NAME")
            return Root(named[1], str(parent))
        if (parent / "vendor").is_dir():
            return Root(parent.name if PLAIN.fullmatch(parent.name) else "program", str(parent))
        if (parent / ".git").exists():
            return None
    return None


def orderly(path: str) -> bool:
    """Whether `path` is a valid import path. A valid path never leaves the directory in which it is looked up."""
    return os.path.normpath(path) == path and not path.startswith(("/", "../")) and path not in (".", "..")


def read_package(path: str, directory: str, root: Root | None, only: str | None = None) -> Package:
    """The package in `directory`; with `only`, the package of this one Go file."""
    names = [only] if only else sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    return Package(path, directory, root, tuple(_sources(directory, names)))


def _sources(directory: str, names: Sequence[str]) -> Iterator[Source]:
    for name in names:
        go = name.endswith(".go") and not name.endswith("_test.go")
        if name.startswith(("_", ".")) or not (go or name.endswith(OTHER_SOURCES)):
            continue
        content = Path(directory, name).read_bytes()
        head = read_head(content.decode(errors="replace")) if go else None
        yield Source(name, hashlib.sha256(content).hexdigest(), head, content.startswith(b"\xef\xbb\xbf"))


@dataclass(frozen=True)
class Found:
    """The location of an imported package; the fields are those of Package."""

    path: str
    directory: str
    root: Root | None


@dataclass(frozen=True)
class Finder:
    """Finds imported packages in the `roots`, in this order, unless they are standard packages in `goroot`."""

    goroot: str
    roots: tuple[Root, ...]

    def find(self, path: str, importer: Package) -> Found | None:
        """The package that `importer` imports as `path`; None for a standard package, or if it doesn't exist."""
        if path in ("C", "unsafe"):
            return None
        if path.startswith(("./", "../")) or path in (".", ".."):
            directory = os.path.normpath(os.path.join(importer.directory, path))
            local = importer.root is None and os.path.isdir(directory)
            return Found("_" + directory, directory, None) if local else None
        if not orderly(path):
            return None
        vendored = self._vendored(path, importer)
        if vendored is not None:
            return vendored
        if os.path.isdir(os.path.join(self.goroot, "src", path)):
            return None
        for root in self.roots:
            place = root.directory_of(path)
            if place is not None and os.path.isdir(place):
                return Found(path, place, root)
        return None

    def _vendored(self, path: str, importer: Package) -> Found | None:
        """`path` in the nearest ``vendor`` directory, from the importer's own directory upwards; None if in none."""
        root = importer.root
        if root is None:
            return None
        inside = os.path.relpath(importer.directory, root.directory)
        parts = [] if inside == os.curdir else inside.split(os.sep)
        for length in range(len(parts), -1, -1):
            directory = os.path.join(root.directory, *parts[:length], "vendor", path)
            if _has_go(directory):
                return Found(root.path_of(directory), directory, root)
        return None

    def closure(self, main: Package) -> tuple[Package, ...]:
        """`main`, followed by all packages, except standard ones, that it imports directly or indirectly."""
        found = {main.path: main}
        waiting = [main]
        while waiting:
            importer = waiting.pop()
            for path in importer.imports:
                imported = self.find(path, importer)
                if imported is not None and imported.path not in found:
                    package = read_package(imported.path, imported.directory, imported.root)
                    found[package.path] = package
                    waiting.append(package)
        return tuple(found.values())


def _has_go(directory: str) -> bool:
    """Whether `directory` contains a Go file; Go ignores a vendored package without one."""
    return os.path.isdir(directory) and any(name.endswith(".go") for name in os.listdir(directory))
