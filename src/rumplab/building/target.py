"""Finds out from a toolchain for which system it compiles."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.lab.config import Component

COMPILER = re.compile(r"(?P<machine>\w+)-(?P<system>[a-z]+)(?:-\w+)?-gcc")
GO_ARCHITECTURES = {"x86_64": "amd64", "i486": "386", "i686": "386", "aarch64": "arm64"}
RELEASE = re.compile(r"go1\.([0-9]{1,4})")


@dataclass(frozen=True)
class Target:
    """The C compiler `gcc`, with the name TUPLE-gcc of GNU cross compilers, and the system for which it compiles.

    The first part of the tuple is the machine, the second part the system: x86_64-rumprun-netbsd-gcc compiles for Go's
    GOOS=rumprun GOARCH=amd64. Only the compiler's name defines the system.
    """

    gcc: str
    goos: str
    goarch: str

    @property
    def gxx(self) -> str:
        """The C++ compiler, which is in the directory of the C compiler."""
        return self.gcc[: -len("gcc")] + "g++"


def target(gcc: str) -> Target:
    """The target of the compiler `gcc` (a path). RumplabError when its name isn't that of a cross compiler."""
    named = COMPILER.fullmatch(os.path.basename(gcc))
    if named is None or named["machine"] not in GO_ARCHITECTURES:
        raise RumplabError(
            f"{gcc} is not named MACHINE-SYSTEM-gcc, like x86_64-rumprun-netbsd-gcc; provision rump_toolchain again"
        )
    return Target(gcc, named["system"], GO_ARCHITECTURES[named["machine"]])


def go_release(goroot: str) -> int:
    """The minor number of the Go release in `goroot` (7 for go1.7beta2), from its file VERSION.

    RumplabError when the file is missing or has another content.
    """
    path = Path(goroot, "VERSION")
    found = RELEASE.match(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else None
    if found is None:
        raise RumplabError(f"{path} does not contain Go's version; provision go_builder again")
    return int(found[1])


@dataclass(frozen=True)
class Tools:
    """The programs that a build calls. `go` and `goroot` are empty for a C program."""

    target: Target
    bake: str
    configurations: tuple[str, ...]
    stamps: tuple[str, ...]
    go: str = ""
    goroot: str = ""

    @property
    def path(self) -> tuple[str, ...]:
        """The directories that must be on PATH, in this order."""
        tools = [self.target.gcc, self.bake, *([self.go] if self.go else [])]
        return tuple(dict.fromkeys(os.path.dirname(tool) for tool in tools))

    @property
    def trees(self) -> tuple[str, ...]:
        """The trees of the toolchain, whose content the stamps identify: the parents of the bin directories, and
        GOROOT."""
        return (*(os.path.dirname(place) for place in self.path), *([self.goroot] if self.goroot else []))


CONFIGURATION = re.compile(r"^[ \t]*(?:conf|create)[ \t]+([a-z]\w*)", re.MULTILINE)


def tools(toolchain: Component, builder: Component | None) -> Tools:
    """The tools of the components rump_toolchain and, for Go programs, go_builder."""
    configuration = Path(toolchain.path("bake-conf")).read_text(encoding="utf-8", errors="replace")
    return Tools(
        target=target(toolchain.path("rumprun-gcc")),
        bake=toolchain.path("rumprun-bake"),
        configurations=tuple(dict.fromkeys(CONFIGURATION.findall(configuration))),
        stamps=(toolchain.stamp, builder.stamp if builder else ""),
        go=builder.path("go") if builder else "",
        goroot=builder.path("goroot") if builder else "",
    )
