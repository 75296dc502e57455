"""Reads the head of a Go file: package, imports, build constraints, cgo's settings.

Formats: the Go specification (source file organisation), package go/build of Go 1.7 (constraints), and the
documentation of its command cgo (``#cgo`` lines). ``//go:build`` lines came later: these releases ignore them.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass

# An unterminated comment or string is a token too: searching its end from each of its bytes takes quadratic time.
TOKEN = re.compile(
    r"""(?P<comment>//[^\n]*|/\*.*?(?:\*/|\Z))
      | (?P<string>"(?:[^"\\\n]|\\.)*"?|`[^`]*`)
      | (?P<word>\w+)
      | (?P<line>\n)
      | (?P<blank>[\ \t\r\ufeff]+)
      | (?P<mark>.)""",
    re.VERBOSE | re.DOTALL,
)
SYSTEMS = {
    *("android", "darwin", "dragonfly", "freebsd", "linux", "nacl", "netbsd", "openbsd", "plan9", "rumprun"),
    *("solaris", "windows"),
}
MACHINES = {
    *("386", "amd64", "amd64p32", "arm", "armbe", "arm64", "arm64be", "mips", "mipsle", "mips64", "mips64le"),
    *("mips64p32", "mips64p32le", "ppc", "ppc64", "ppc64le", "s390", "s390x", "sparc", "sparc64"),
}
CGO = re.compile(r"^[ \t]*(?:(?://|/\*)[ \t]*)?#cgo[ \t]([^:\n]*):(.*)$", re.MULTILINE)


@dataclass(frozen=True)
class CgoSetting:
    """One ``#cgo`` line: ``#cgo linux,!arm windows LDFLAGS: -lm`` has two alternatives and the verb LDFLAGS."""

    alternatives: tuple[str, ...]
    verb: str
    value: str


@dataclass(frozen=True)
class GoFile:
    """The head of a file. `package` is None when there is no package clause. `constraints` are the ``+build`` lines."""

    package: str | None
    imports: tuple[str, ...]
    constraints: tuple[str, ...]
    cgo: tuple[CgoSetting, ...]

    @property
    def uses_cgo(self) -> bool:
        return "C" in self.imports


def read_head(text: str) -> GoFile:
    """The head of a Go file with the content `text`. Invalid Go raises no error, since the compiler reports it."""
    package: str | None = None
    imports: list[str] = []
    preamble = ""
    for comment, imported, word in _clauses(text):
        if imported is None:
            package = word
            continue
        imports.append(imported)
        if imported == "C":
            preamble += comment + "\n"
    return GoFile(package, tuple(dict.fromkeys(imports)), tuple(build_lines(text)), tuple(cgo_settings(preamble)))


def _clauses(text: str) -> Iterator[tuple[str, str | None, str]]:
    """The package clause as ("", None, name), then each import as (the comment above it, path, "")."""
    comment, newlines, keyword, grouped = "", 0, "", False
    for token in TOKEN.finditer(text):
        kind, found = token.lastgroup, token.group()
        if kind == "blank":
            continue
        if kind == "line":
            newlines += 1
            # After an empty line, a comment doesn't belong to the next declaration.
            comment = comment if newlines < 2 else ""
            continue
        if kind == "comment":
            comment += found + "\n"
        elif kind == "word" and keyword == "package":
            yield "", None, found
            keyword = ""
        elif kind == "word" and found in ("package", "import"):
            keyword = found
        elif kind == "string" and keyword == "import" and len(found) > 1 and found[-1] == found[0]:
            yield comment, found[1:-1], ""
            keyword, comment = (keyword if grouped else ""), ""
        elif found == "(" and keyword == "import":
            grouped, comment = True, ""
        elif found == ")" and grouped:
            grouped, keyword = False, ""
        elif keyword != "import" and found != ";":
            return
        newlines = 0


def build_lines(text: str) -> Iterator[str]:
    """The words after ``+build`` in the line comments at the top of the file, before the last empty line among them: a
    comment directly above the package clause is documentation."""
    top: list[str] = []
    end = 0
    for line in text.splitlines():
        line = line.strip().lstrip("\ufeff")
        if line and not line.startswith("//"):
            break
        top.append(line)
        end = end if line else len(top)
    for line in top[:end]:
        words = line[2:].split()
        if words[:1] == ["+build"]:
            yield " ".join(words[1:])


def cgo_settings(preamble: str) -> Iterator[CgoSetting]:
    for left, value in CGO.findall(preamble):
        *alternatives, verb = left.split() or [""]
        yield CgoSetting(tuple(alternatives), verb, value.replace("*/", "").strip())


def satisfied(alternatives: Collection[str], tags: Collection[str]) -> bool:
    """Whether `tags` satisfy one of `alternatives`, each a comma-separated list of tags. True without alternatives."""
    return not alternatives or any(
        all((term.lstrip("!") in tags) != term.startswith("!") for term in alternative.split(","))
        for alternative in alternatives
    )


def selected(name: str, head: GoFile, tags: Collection[str]) -> bool:
    """Whether Go builds the file `name` with these tags, judged by its name and its ``+build`` lines."""
    # The part before the first underscore is never a system: plan9.go is for all systems.
    parts = name.partition(".")[0].split("_")[1:]
    last = parts[-1:]
    if len(parts) > 1 and parts[-2] in SYSTEMS and parts[-1] in MACHINES:
        last = parts[-2:]
    named = [part for part in last if part in SYSTEMS or part in MACHINES]
    return set(named) <= set(tags) and all(satisfied(line.split(), tags) for line in head.constraints)


def tags(goos: str, goarch: str, release: int) -> frozenset[str]:
    """The tags that are set in a build with cgo by Go 1.`release`."""
    return frozenset({goos, goarch, "cgo", "gc", *(f"go1.{minor}" for minor in range(1, release + 1))})
