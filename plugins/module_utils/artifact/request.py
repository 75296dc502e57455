"""What the module is asked for: its options as a type, and what of them decides together."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from .errors import Broken

# Without a hyphen, so that no artefact's trees can be taken for another's.
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Pin(TypedDict, total=False):
    """A pinned input: files, a commit, several files that make up one source, or a directory of this repository."""

    urls: list[str]
    sha512: str
    sha256: str
    sha1: str
    size: int
    # The name in cache and mirror, where that isn't the URL's last part.
    file: str
    # A glob: the archive in the file that is the source.
    member: str
    git: str
    commit: str
    submodules: bool
    submodule_urls: dict[str, str]
    parts: list[Pin]
    # Of a part: where it goes, and whether it is unpacked there.
    into: str
    unpack: bool
    bundle: str
    data: str


class Recipe(TypedDict, total=False):
    """How a source becomes a tree."""

    root: str
    environment: dict[str, str]
    relocate: bool
    commands: list[Mapping[str, Any]]


class Substitute(TypedDict, total=False):
    """The host's own package of the source, which may be built by another recipe."""

    apt_source: str
    member: str
    build: Recipe
    needs: dict[str, str]


class AddedFile(TypedDict, total=False):
    """A file that is added to the tree."""

    path: str
    content: str
    mode: str


@dataclass(frozen=True)
class Request:
    """The module's options; plugins/modules/artifact.py describes each."""

    name: str
    version: str
    licence: str
    prefix: str
    source: Pin
    substitute: Substitute
    edits: Sequence[Mapping[str, Any]]
    build: Recipe
    files: Sequence[AddedFile]
    paths: Mapping[str, str]
    needs: Mapping[str, str]
    stamps: Mapping[str, str]
    host: Mapping[str, str]
    space: int
    mirror: str
    candidates: Sequence[str]
    strict: bool
    retry: bool
    retry_after: int
    request: str
    built_cache: str
    blocked: str
    only: str
    generations: int
    jobs: int
    lock_wait: float
    fetch_timeout: float
    build_timeout: float

    @classmethod
    def of(cls, parameters: Mapping[str, Any]) -> Request:
        """Return the request that a module's parameters make; those that it has besides are the module's own."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def check(self) -> None:
        """Raise Broken for a name that could be taken for another artefact's."""
        if not NAME.fullmatch(self.name):
            raise Broken("a name is lower-case letters, digits and _: a tree's name ends in -VERSION-STAMP")

    def pieces(self) -> Sequence[Pin]:
        """Return the pins that make up the source: its parts, or the one that it is."""
        parts = self.source.get("parts") or []
        if not all(part.get("urls") for part in parts):
            raise Broken("each of a source's parts is a file: it has urls and a hash")
        return parts or [self.source]

    def kinds(self) -> list[str]:
        """Return the kinds of stamp that will do, the preferred first."""
        if self.strict or not self.substitute or "substitute" not in self.candidates:
            return ["upstream"]
        return ["upstream", "substitute"]

    def recipe_for(self, kind: str) -> tuple[Recipe, Mapping[str, str]]:
        """Return the recipe and the needs of a kind of source: a substitute may have its own."""
        if kind != "substitute":
            return self.build, self.needs
        return self.substitute.get("build", self.build), self.substitute.get("needs", self.needs)

    def stamp_for(self, kind: str) -> str:
        """Return the stamp of the tree that a kind of source makes: the mirror's files are the upstream's."""
        return self.stamps["substitute" if kind == "substitute" else "upstream"]

    def file_name(self, pin: Pin) -> str:
        """Return the name under which cache and mirror hold a pin's file (or checkout, or git bundle)."""
        if pin.get("git"):
            return f"{self.name}-{pin['commit']}"
        return str(pin.get("file") or os.path.basename(urllib.parse.urlsplit(pin["urls"][0]).path))

    def mirror_origin(self, pin: Pin) -> str:
        """Return where the mirror, a directory or URL, holds the pin's file."""
        wanted = self.file_name(pin) + (".bundle" if pin.get("git") else "")
        return self.mirror.rstrip("/") + "/" + (urllib.parse.quote(wanted) if "://" in self.mirror else wanted)
