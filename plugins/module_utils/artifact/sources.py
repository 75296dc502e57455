"""Turn a pin into a pristine source: fetch it into the cache, candidate after candidate, and unpack it."""

from __future__ import annotations

import base64
import glob
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..host.plain import DAMAGED, read_json
from . import apt, fetch, git, package, trees
from .errors import Broken, Unreachable
from .request import Pin, Request
from .store import Store, remove_tree, write_json
from .unpack import unpack, unpack_over

# The note, inside a cached commit's directory, that says from which candidate and origin it came.
ORIGIN = ("rumplab.json",)


@dataclass(frozen=True)
class Source:
    """A pristine source: its directory, kind of candidate, version and origin.

    `tree` is a tree that was built from it before; then nothing was fetched, and `directory` is empty.
    """

    directory: str
    kind: str
    version: str
    origin: str
    tree: str = ""


def _note_of_origin(path: str) -> str:
    """Return the path of the note about the file or commit in the cache at `path`."""
    if os.path.isdir(path):
        return os.path.join(path, *ORIGIN)
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.json")


def _fetch_bundles(request: Request, path: str, opener: fetch.Opener) -> None:
    """Fetch a commit and its submodules from the mirror's git bundles into `path`."""
    fetched = path + ".bundles.part"

    def bundle(commit: str) -> str:
        origin = request.mirror_origin({**request.source, "commit": commit})
        if "://" not in origin:
            if not os.path.isfile(origin):
                raise Unreachable(f"{origin}: no such file in the mirror")
            return origin
        # git reads a bundle only from a file. The bundle needs no hash of its own: the commit id is one.
        local = os.path.join(fetched, f"{commit}.bundle")
        fetch.download(origin, local, opener, request.fetch_timeout)
        return local

    shutil.rmtree(fetched, ignore_errors=True)
    os.makedirs(fetched)
    try:
        git.fetch_commit(bundle(request.source["commit"]), request.source, path, bundle)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _fetched(request: Request, store: Store, pin: Pin, kind: str, origin: str, opener: fetch.Opener) -> str:
    """Fetch a pin's file or commit from one candidate into the cache; return its path there."""
    path = os.path.join(store.cache, request.file_name(pin))
    if pin.get("git"):
        if kind == "mirror":
            _fetch_bundles(request, path, opener)
        else:
            git.fetch_commit(origin, pin, path)
    elif origin.startswith(apt.SCHEME) or "://" in origin:
        fetch.fetch_url(origin, pin, path, opener, request.fetch_timeout)
    else:
        fetch.fetch_copy(origin, pin, path)
    write_json(_note_of_origin(path), {"kind": kind, "origin": origin.removeprefix(apt.SCHEME)})
    return path


def cached(request: Request, store: Store, pin: Pin) -> str | None:
    """Return the path of the pin's file or commit in the cache, or None if it is missing or incomplete."""
    path = os.path.join(store.cache, request.file_name(pin))
    if pin.get("git"):
        return path if git.is_whole(path, pin["commit"], bool(pin.get("submodules"))) else None
    return path if fetch.is_cached(path, pin) else None


def came_from(path: str) -> tuple[str, str]:
    """Return (kind, origin) of the file or commit in the cache at `path`."""
    try:
        said = read_json(_note_of_origin(path))
        return str(said["kind"]), str(said["origin"])
    except (OSError, *DAMAGED):
        return "upstream", path


def _origins(request: Request, pin: Pin) -> Iterator[tuple[str, str]]:
    """Yield (kind, origin) of each candidate for the pin, in the order of `request.candidates`."""
    mirror = request.mirror
    for kind in request.candidates:
        if kind == "upstream":
            for url in [pin["git"]] if pin.get("git") else pin["urls"]:
                wanted = url[len(apt.SCHEME) :] if url.startswith(apt.SCHEME) else ""
                yield from ((kind, origin) for origin in (apt.origins(wanted) if wanted else [url]))
        elif kind == "mirror" and mirror:
            yield kind, request.mirror_origin(pin)
        elif kind == "substitute" and request.substitute and not request.strict and pin is request.source:
            yield kind, request.substitute["apt_source"]


def _unpack_bundle(request: Request, work: str) -> Source:
    archive = os.path.join(work, "bundle.tar")
    with open(archive, "wb") as stream:
        stream.write(base64.b64decode(request.source["data"]))
    # The unpacked directory itself is the source, even if it has a single entry.
    directory = os.path.join(work, "source")
    unpack(archive, directory)
    return Source(directory, "bundle", request.version, request.source["bundle"])


def _member(path: str, pattern: str, directory: str) -> str:
    """Unpack the archive at `path` into `directory` and return the one file in it that matches the pattern."""
    unpack_over(path, directory)
    found = glob.glob(os.path.join(glob.escape(directory), pattern))
    if len(found) != 1:
        raise Broken(f"{os.path.basename(path)}: {pattern} matches {len(found)} files in it, expected one")
    return found[0]


def _open(work: str, path: str, member: str = "") -> str:
    """Unpack a cached commit, an archive, or the archive that is the `member` of one; return the source's directory."""
    directory = os.path.join(work, "source")
    if os.path.isdir(path):
        git.check_out(path, directory)
        return directory
    if not member:
        return unpack(path, directory)
    around = os.path.join(work, "around")
    source = unpack(_member(path, member, around), directory)
    remove_tree(around)
    return source


def _none_reached(reasons: Sequence[str]) -> str:
    """Return why no candidate was reached, with one reason for each."""
    return "; ".join(reasons) or "no candidate is allowed; set rumplab_candidates and rumplab_mirror"


def bring(request: Request, store: Store, pin: Pin, opener: fetch.Opener) -> str:
    """Fetch a pin's file or commit from the first reachable candidate into the cache; return its path there.

    The path is empty if that candidate is the substitute, which the build fetches. Unreachable has each one's reason.
    """
    reasons = []
    for kind, origin in _origins(request, pin):
        try:
            return "" if kind == "substitute" else _fetched(request, store, pin, kind, origin, opener)
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable(_none_reached(reasons))


def _obtain_part(request: Request, store: Store, part: Pin, opener: fetch.Opener) -> tuple[str, str, str]:
    """Return (the path of a part's file in the cache, its kind of candidate, its origin)."""
    path = cached(request, store, part) or bring(request, store, part, opener)
    return (path, *came_from(path))


def _place_part(request: Request, part: Pin, path: str, directory: str) -> None:
    """Unpack a part into the pin's directory, over the parts before it, or copy its file there."""
    place = os.path.normpath(os.path.join(directory, part.get("into") or "."))
    if os.path.commonpath([directory, place]) != directory:
        raise Broken(f"a part of the source would go outside it: {part['into']}")
    if part.get("unpack", True):
        unpack_over(path, place)
    else:
        os.makedirs(place, exist_ok=True)
        shutil.copyfile(path, os.path.join(place, request.file_name(part)))


def _assemble(request: Request, store: Store, work: str, opener: fetch.Opener) -> Source:
    """Return a source of several files. All are fetched before the first is unpacked."""
    directory = os.path.join(work, "source")
    parts = request.pieces()
    obtained = [_obtain_part(request, store, part, opener) for part in parts]
    for part, (path, _, _) in zip(parts, obtained):
        _place_part(request, part, path, directory)
    kind = "mirror" if any(kind == "mirror" for _, kind, _ in obtained) else "upstream"
    return Source(directory, kind, request.version, ", ".join(origin for _, _, origin in obtained))


def _obtain_substitute(request: Request, store: Store, work: str, reasons: Sequence[str] = ()) -> Source:
    """Return the declared substitute's source; Unreachable has `reasons` and why the substitute can't be fetched."""
    tree = store.find(request.name, request.stamps["substitute"])
    tree = tree or trees.restored(request, store, work, "substitute")
    if tree:
        said = store.provenance_of(tree)
        return Source("", "substitute", said["version"], said["origin"], tree)
    try:
        tarball, version, where = package.fetch_apt_source(request.substitute, os.path.join(work, "package"))
    except Unreachable as error:
        raise Unreachable(_none_reached([*reasons, str(error)])) from error
    source = Source(_open(work, tarball), "substitute", version, where)
    shutil.rmtree(os.path.join(work, "package"))
    return source


def obtain(request: Request, store: Store, work: str, opener: fetch.Opener, lacking: str = "") -> Source:
    """Return the source from the first reachable candidate; Unreachable has each one's reason.

    `lacking` is the reason why the upstream's source can't be built, or empty; with a reason, only the substitute is
    tried.
    """
    pin = request.source
    if lacking:
        return _obtain_substitute(request, store, work, [lacking])
    if pin.get("data") is not None:
        return _unpack_bundle(request, work)
    if pin.get("parts"):
        return _assemble(request, store, work, opener)
    reasons = []
    held = cached(request, store, pin)
    if held:
        kind, origin = came_from(held)
        return Source(_open(work, held, pin.get("member", "")), kind, request.version, origin)
    for kind, origin in _origins(request, pin):
        try:
            if kind == "substitute":
                return _obtain_substitute(request, store, work)
            path = _fetched(request, store, pin, kind, origin, opener)
            return Source(_open(work, path, pin.get("member", "")), kind, request.version, came_from(path)[1])
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable(_none_reached(reasons))
