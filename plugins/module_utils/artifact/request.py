"""The module's options as a type, and the values that follow from several of them."""

from __future__ import annotations

import os
import re
import urllib.parse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, TypedDict

from .errors import Broken

# No hyphen: it separates the name from the version in a tree's name, so that no name is a prefix of another's trees.
NAME = re.compile(r"[a-z][a-z0-9_]*")


class Pin(TypedDict, total=False):
    """A pinned input: files, a commit, several files that make up one source, or a directory of this repository."""

    urls: list[str]
    sha512: str
    sha256: str
    sha1: str
    size: int
    # The name in cache and mirror; by default the URL's last part.
    file: str
    # A glob that matches one archive in the file; that archive is the source.
    member: str
    git: str
    commit: str
    submodules: bool
    submodule_urls: dict[str, str]
    parts: list[Pin]
    # For a part: the directory that it goes into, and whether to unpack it there.
    into: str
    unpack: bool
    bundle: str
    data: str


class Recipe(TypedDict, total=False):
    """The commands that make a tree from a source."""

    root: str
    environment: dict[str, str]
    relocate: bool
    commands: list[Mapping[str, Any]]


class Substitute(TypedDict, total=False):
    """The host's package with the source, which may need another recipe."""

    apt_source: str
    member: str
    build: Recipe
    needs: dict[str, str]


class AddedFile(TypedDict, total=False):
    """A file to add to the tree."""

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
        """Return the request with a module's parameters, without those that aren't fields of it."""
        return cls(**{field.name: parameters[field.name] for field in fields(cls)})

    def check(self) -> None:
        """Raise Broken for a name that could be confused with another artefact's tree."""
        if not NAME.fullmatch(self.name):
            raise Broken("an artefact's name may have only lower-case letters, digits and _; choose another name")

    def pieces(self) -> Sequence[Pin]:
        """Return the pins of the source: those of its parts, or its only one."""
        parts = self.source.get("parts") or []
        if not all(part.get("urls") for part in parts):
            raise Broken("each part of a source must be a file, with urls and a hash")
        return parts or [self.source]

    def kinds(self) -> list[str]:
        """Return the acceptable kinds of stamp, the preferred one first."""
        if self.strict or not self.substitute or "substitute" not in self.candidates:
            return ["upstream"]
        return ["upstream", "substitute"]

    def recipe_for(self, kind: str) -> tuple[Recipe, Mapping[str, str]]:
        """Return (recipe, needs) for a kind of source; a substitute may have its own."""
        if kind != "substitute":
            return self.build, self.needs
        return self.substitute.get("build", self.build), self.substitute.get("needs", self.needs)

    def stamp_for(self, kind: str) -> str:
        """Return the stamp of the tree from a kind of source; a mirror has the upstream's files, so the same stamp."""
        return self.stamps["substitute" if kind == "substitute" else "upstream"]

    def file_name(self, pin: Pin) -> str:
        """Return the name of a pin's file (or git objects, or git bundle) in the cache and in a mirror."""
        if pin.get("git"):
            return f"{self.name}-{pin['commit']}"
        return str(pin.get("file") or os.path.basename(urllib.parse.urlsplit(pin["urls"][0]).path))

    def mirror_origin(self, pin: Pin) -> str:
        """Return the path or URL of the pin's file in the mirror, which is a directory or a URL."""
        wanted = self.file_name(pin) + (".bundle" if pin.get("git") else "")
        return self.mirror.rstrip("/") + "/" + (urllib.parse.quote(wanted) if "://" in self.mirror else wanted)
