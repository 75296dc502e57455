"""From a pin to an installed tree: the steps, in order.

A request is what the module takes (docs/artifact.md has the table). The steps are: already in the store? else from
the cache of built trees? else candidate after candidate until a source is there; edit; build; install; switch.
"""

from __future__ import annotations

import base64
import errno
import glob
import os
import re
import shutil
import stat
import time
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import apt, built, edits, fetch, git, host, package, relocate
from .build import require_space, run_recipe
from .credentials import hide
from .errors import DAMAGED, Broken, Unreachable
from .lock import Lock
from .members import declared
from .plain import read_json
from .store import PROVENANCE, USES, Store, remove_tree, write_json
from .unpack import unpack, unpack_over

Request = Mapping[str, Any]
Answer = dict[str, Any]
# Without a hyphen, so that no artefact's trees can be taken for another's.
NAME = re.compile(r"[a-z][a-z0-9_]*")
# Which candidate what is cached of a commit, or a cached file, came from, and where that was.
ORIGIN = ("rumplab.json",)


def _note_of_origin(path: str) -> str:
    """Return the path of the note about what stands in the cache at `path`."""
    if os.path.isdir(path):
        return os.path.join(path, *ORIGIN)
    return os.path.join(os.path.dirname(path), f".{os.path.basename(path)}.json")


class Source:
    """A pristine source: its directory, what it is, and where it came from.

    `tree` is the tree that was made of it before; then nothing was fetched, and there is no directory.
    """

    def __init__(self, directory: str, kind: str, version: str, origin: str, tree: str = "") -> None:
        self.directory, self.kind, self.version, self.origin = directory, kind, version, origin
        self.tree = tree


def file_name(pin: Mapping[str, Any], name: str) -> str:
    """Return the name under which cache and mirror hold a pin's file (or checkout, or git bundle)."""
    if pin.get("git"):
        return f"{name}-{pin['commit']}"
    return str(pin.get("file") or os.path.basename(urllib.parse.urlsplit(pin["urls"][0]).path))


def _pieces(request: Request) -> Sequence[Mapping[str, Any]]:
    """Return the pins that make up the source: its parts, or the one that it is."""
    parts: Sequence[Mapping[str, Any]] = request["source"].get("parts") or []
    if not all(part.get("urls") for part in parts):
        raise Broken("each of a source's parts is a file: it has urls and a hash")
    return parts or [request["source"]]


def mirror_origin(mirror: str, pin: Mapping[str, Any], name: str) -> str:
    """Return where the mirror, a directory or URL, holds the pin's file."""
    wanted = file_name(pin, name) + (".bundle" if pin.get("git") else "")
    return mirror.rstrip("/") + "/" + (urllib.parse.quote(wanted) if "://" in mirror else wanted)


def _fetch_bundles(request: Request, path: str, opener: fetch.Opener) -> None:
    """Check a commit out of the mirror's git bundles, its submodules' included, at `path`."""
    fetched = path + ".bundles.part"

    def bundle(commit: str) -> str:
        origin = mirror_origin(request["mirror"], {**request["source"], "commit": commit}, request["name"])
        if "://" not in origin:
            if not os.path.isfile(origin):
                raise Unreachable(f"{origin}: no such file in the mirror")
            return origin
        # git reads bundles from files only. What is in one needs no hash: the commit id is one.
        local = os.path.join(fetched, f"{commit}.bundle")
        fetch.download(origin, local, opener, request["fetch_timeout"])
        return local

    shutil.rmtree(fetched, ignore_errors=True)
    os.makedirs(fetched)
    try:
        git.fetch_commit(bundle(request["source"]["commit"]), request["source"], path, bundle)
    finally:
        shutil.rmtree(fetched, ignore_errors=True)


def _fetch(
    request: Request, store: Store, pin: Mapping[str, Any], kind: str, origin: str, opener: fetch.Opener
) -> str:
    path = os.path.join(store.cache, file_name(pin, request["name"]))
    if pin.get("git"):
        if kind == "mirror":
            _fetch_bundles(request, path, opener)
        else:
            git.fetch_commit(origin, pin, path)
    elif origin.startswith(apt.SCHEME) or "://" in origin:
        fetch.fetch_url(origin, pin, path, opener, request["fetch_timeout"])
    else:
        fetch.fetch_copy(origin, pin, path)
    write_json(_note_of_origin(path), {"kind": kind, "origin": origin.removeprefix(apt.SCHEME)})
    return path


def _cached(request: Request, store: Store, pin: Mapping[str, Any]) -> str | None:
    path = os.path.join(store.cache, file_name(pin, request["name"]))
    if pin.get("git"):
        return path if git.is_whole(path, pin["commit"], bool(pin.get("submodules"))) else None
    return path if fetch.is_cached(path, pin) else None


def _came_from(path: str) -> tuple[str, str]:
    """Return (kind, origin) of what stands in the cache at `path`."""
    try:
        said = read_json(_note_of_origin(path))
        return str(said["kind"]), str(said["origin"])
    except (OSError, *DAMAGED):
        return "upstream", path


def _origins(request: Request, pin: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield (kind, origin) of each candidate for the pin, in the order that the lab's policy gives."""
    mirror = request["mirror"]
    for kind in request["candidates"]:
        if kind == "upstream":
            for url in [pin["git"]] if pin.get("git") else pin["urls"]:
                wanted = url[len(apt.SCHEME) :] if url.startswith(apt.SCHEME) else ""
                yield from ((kind, origin) for origin in (apt.origins(wanted) if wanted else [url]))
        elif kind == "mirror" and mirror:
            yield kind, mirror_origin(mirror, pin, request["name"])
        elif kind == "substitute" and request["substitute"] and not request["strict"] and pin is request["source"]:
            yield kind, request["substitute"]["apt_source"]


def _unpack_bundle(request: Request, work: str) -> Source:
    archive = os.path.join(work, "bundle.tar")
    with open(archive, "wb") as stream:
        stream.write(base64.b64decode(request["source"]["data"]))
    # A bundle's entries are the source, also where there is only one.
    directory = os.path.join(work, "source")
    unpack(archive, directory)
    return Source(directory, "bundle", request["version"], request["source"]["bundle"])


def _member(path: str, pattern: str, directory: str) -> str:
    """Unpack the archive at `path` into `directory` and return the one file in it that the pattern names."""
    unpack_over(path, directory)
    found = glob.glob(os.path.join(glob.escape(directory), pattern))
    if len(found) != 1:
        raise Broken(f"{os.path.basename(path)}: {pattern} names {len(found)} files in it, expected one")
    return found[0]


def _open(work: str, path: str, member: str = "") -> str:
    """Make a pristine source of a checkout, an archive, or the archive that is the `member` of one."""
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
    return "; ".join(reasons) or "no candidate is allowed: see rumplab_candidates and rumplab_mirror"


def _obtain_part(
    request: Request, store: Store, part: Mapping[str, Any], opener: fetch.Opener
) -> tuple[str, str, str]:
    """Return the path of a part's file in the cache, the kind of candidate that gave it, and where it came from."""
    cached = _cached(request, store, part)
    if cached:
        return (cached, *_came_from(cached))
    reasons = []
    for kind, origin in _origins(request, part):
        try:
            path = _fetch(request, store, part, kind, origin, opener)
            return (path, *_came_from(path))
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable(_none_reached(reasons))


def _place_part(request: Request, part: Mapping[str, Any], path: str, directory: str) -> None:
    """Put a part where the pin says: unpacked over the parts before it, or as the file that it is."""
    place = os.path.normpath(os.path.join(directory, part.get("into") or "."))
    if os.path.commonpath([directory, place]) != directory:
        raise Broken(f"a part of the source is to go outside of it: {part['into']}")
    if part.get("unpack", True):
        unpack_over(path, place)
    else:
        os.makedirs(place, exist_ok=True)
        shutil.copyfile(path, os.path.join(place, file_name(part, request["name"])))


def _assemble(request: Request, store: Store, work: str, opener: fetch.Opener) -> Source:
    """Return a source of several files. None is unpacked before all are at hand."""
    directory = os.path.join(work, "source")
    parts = _pieces(request)
    obtained = [_obtain_part(request, store, part, opener) for part in parts]
    for part, (path, _, _) in zip(parts, obtained):
        _place_part(request, part, path, directory)
    kind = "mirror" if any(kind == "mirror" for _, kind, _ in obtained) else "upstream"
    return Source(directory, kind, request["version"], ", ".join(origin for _, _, origin in obtained))


def _obtain_substitute(request: Request, store: Store, work: str, reasons: Sequence[str] = ()) -> Source:
    """Return the declared substitute's source; Unreachable says, after `reasons`, why it can't be had."""
    tree = store.find(request["name"], request["stamps"]["substitute"])
    tree = tree or _from_built_cache(request, store, work, "substitute")
    if tree:
        said = store.provenance_of(tree)
        return Source("", "substitute", said["version"], said["origin"], tree)
    try:
        tarball, version, where = package.fetch_apt_source(request["substitute"], os.path.join(work, "package"))
    except Unreachable as error:
        raise Unreachable(_none_reached([*reasons, str(error)])) from error
    source = Source(_open(work, tarball), "substitute", version, where)
    shutil.rmtree(os.path.join(work, "package"))
    return source


def obtain(request: Request, store: Store, work: str, opener: fetch.Opener, lacking: str = "") -> Source:
    """Return the source out of the first candidate that can be had; Unreachable says what each one answered.

    `lacking` says which tree the recipe for the upstream's source lacks: only a substitute will do then.
    """
    pin = request["source"]
    if lacking:
        return _obtain_substitute(request, store, work, [lacking])
    if pin.get("data") is not None:
        return _unpack_bundle(request, work)
    if pin.get("parts"):
        return _assemble(request, store, work, opener)
    reasons = []
    cached = _cached(request, store, pin)
    if cached:
        kind, origin = _came_from(cached)
        return Source(_open(work, cached, pin.get("member", "")), kind, request["version"], origin)
    for kind, origin in _origins(request, pin):
        try:
            if kind == "substitute":
                return _obtain_substitute(request, store, work)
            path = _fetch(request, store, pin, kind, origin, opener)
            return Source(_open(work, path, pin.get("member", "")), kind, request["version"], _came_from(path)[1])
        except Unreachable as error:
            reasons.append(str(error))
    raise Unreachable(_none_reached(reasons))


def install_files(request: Request, tree: str) -> None:
    """Write the request's own files into the tree."""
    for entry in request["files"]:
        path = os.path.join(tree, entry["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(entry["content"])
        os.chmod(path, int(str(entry.get("mode", "0644")), 8))


def check_paths(request: Request, tree: str) -> None:
    """Raise Broken unless all that the descriptor will name stands in the tree."""
    missing = [path for path in request["paths"].values() if not os.path.exists(os.path.join(tree, path))]
    if missing:
        raise Broken(f"the build ended well, but left no {', '.join(missing)} in the tree")


def missing_need(needs: Mapping[str, str], store: Store) -> str:
    """Return which of the artefacts that a recipe uses can't be had, and why, or empty."""
    for name, stamp in needs.items():
        if store.find(name, stamp) is None:
            reason = (store.descriptor(name) or {}).get("reason") or "it isn't in the store"
            return f"it is built with {name}, which can't be had: {reason}"
    return ""


def why_not(request: Request, store: Store) -> tuple[str, str]:
    """Return why nothing can be built today, or empty; and why the upstream's source can't, where a substitute can."""
    blocked = host.mismatch(request["host"])
    lacking = missing_need(request["needs"], store)
    if lacking and "substitute" not in _kinds(request):
        blocked = blocked or lacking
    return blocked or str(request["blocked"]), lacking


def recipe_for(request: Request, kind: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    """Return the recipe and the needs of a kind of source: a substitute may have its own."""
    own: Mapping[str, Any] = request["substitute"] if kind == "substitute" else {}
    return own.get("build", request["build"]), own.get("needs", request["needs"])


def link_needs(needs: Mapping[str, str], store: Store, work: str) -> dict[str, str]:
    """Make links to the trees that the recipe uses, by paths without blanks, and return those by name."""
    os.makedirs(os.path.join(work, "needs"))
    places = {name: os.path.join(work, "needs", name) for name in needs}
    for name, place in places.items():
        os.symlink(str(store.find(name, needs[name])), place)
    return places


def make_tree(request: Request, store: Store, work: str, source: Source) -> tuple[str, list[str]]:
    """Edit and build the source; return the finished tree, still in the work directory, and the trees it refers to."""
    edits.apply_edits(source.directory, request["edits"])
    recipe, needs = recipe_for(request, source.kind)
    places = {name: os.path.join(work, name) for name in ("build", "dest", "tmp")}
    for directory in places.values():
        os.makedirs(directory)
    needed = link_needs(needs, store, work)
    places.update(needed)
    places["source"] = source.directory
    places["jobs"] = str(request["jobs"] or os.cpu_count() or 1)
    log = os.path.join(store.logs, f"{request['name']}.log")
    run_recipe(recipe, places, store.cache, log, request["build_timeout"])
    tree = os.path.join(places["dest"], recipe.get("root") or "")
    if not os.path.isdir(tree):
        raise Broken(f"the build ended well, but left no directory {recipe.get('root')} in its destination", log)
    install_files(request, tree)
    check_paths(request, tree)
    if not recipe.get("relocate"):
        return tree, []
    kept, used = relocate.detach(tree, needed.values())
    with open(log, "a", encoding="utf-8") as stream:
        stream.writelines(f"relocate: the path stays in {name}, which isn't text\n" for name in kept)
    return tree, used


def _descriptor(request: Request, **more: Any) -> Answer:
    empty = dict.fromkeys(("version", "source", "origin", "tree", "reason", "installed"))
    return {
        "schema": 1,
        "name": request["name"],
        "wanted": request["version"],
        "licence": request["licence"],
        "paths": {},
        **empty,
        **more,
    }


def _provenance(request: Request, source: Source, lacking: str) -> Answer:
    why = f"can't be built ({lacking})" if lacking else "can't be reached"
    instead = f"{request['name']} {request['version']} {why}; {source.origin} serves instead"
    return {
        "version": source.version,
        "source": source.kind,
        "origin": source.origin,
        "reason": instead if source.kind == "substitute" else None,
        "installed": _moment(time.time()),
    }


def fingerprints(paths: Mapping[str, str]) -> dict[str, str]:
    """Return size and time of change, by logical name, of those that are files: no-op runs look there."""
    found = {}
    for name, path in paths.items():
        status = os.stat(path)
        if stat.S_ISREG(status.st_mode):
            found[name] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def _use(request: Request, store: Store, tree: str) -> Answer:
    """Describe the tree, make it the one in use, and prune what is older than the previous one."""
    name = request["name"]
    provenance = store.provenance_of(tree)
    # A path may be the tree itself, ".".
    paths = {key: os.path.normpath(os.path.join(store.prefix, name, path)) for key, path in request["paths"].items()}
    stamp = store.stamp_of(tree)
    marks = fingerprints({key: os.path.join(tree, path) for key, path in request["paths"].items()})
    descriptor = _descriptor(
        request, state="installed", stamp=stamp, tree=tree, paths=paths, fingerprints=marks, **provenance
    )
    described = store.describe(name, descriptor)
    switched = store.switch(name, tree)
    removed = store.prune(name, request["generations"])
    return {
        "changed": described or switched or bool(removed),
        "state": "installed",
        "tree": tree,
        "version": provenance["version"],
        "source": provenance["source"],
        "reason": provenance["reason"],
        "switched": switched,
        "removed": removed,
    }


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _deferral(request: Request) -> Answer:
    """Return what a later run needs in order to tell whether to ask again: what was asked for, when, and until when."""
    now = time.time()
    return {"request": request["request"], "tried": _moment(now), "until": _moment(now + request["retry_after"])}


def _defer(request: Request, store: Store, reason: str) -> Answer:
    name = request["name"]
    reason = hide("; ".join([*store.losses(), reason]))
    if request["strict"]:
        raise Broken(
            f"{name} {request['version']} can't be had, and rumplab_strict allows neither a substitute nor a "
            f"deferral: {reason}"
        )
    current = store.current(name)
    installed = store.descriptor(name)
    if current and store.stamp_of(current) and installed and installed.get("state") == "installed":
        # An older tree is better than none: it stays in use, and says what it waits for.
        descriptor = {**installed, "wanted": request["version"], "reason": f"deferred: {reason}"}
    else:
        descriptor = _descriptor(request, state="deferred", stamp=request["stamps"]["upstream"], reason=reason)
    descriptor["deferral"] = _deferral(request)
    changed = store.describe(name, descriptor)
    # From one try to the next a host out of reach is so in other words: that by itself is no change.
    if installed and installed.get("reason"):
        passing = {key: descriptor[key] for key in ("reason", "deferral")}
        changed = {**installed, **passing} != descriptor
    return {"changed": changed, "state": "deferred", "reason": reason, "tree": None}


def _kinds(request: Request) -> list[str]:
    """Return the kinds of stamp that will do, the preferred first."""
    if request["strict"] or not request["substitute"] or "substitute" not in request["candidates"]:
        return ["upstream"]
    return ["upstream", "substitute"]


def _from_built_cache(request: Request, store: Store, work: str, kind: str) -> str | None:
    stamp = request["stamps"][kind]
    made = os.path.join(work, "built")
    if not built.restore(request["built_cache"], request["name"], stamp, made):
        return None
    check_paths(request, made)
    if not all(os.path.isdir(os.path.join(store.trees, other)) for other in store.uses_of(made)):
        # It doesn't work without them: the way on says which is missing, and why.
        remove_tree(made)
        return None
    tree = store.tree(request["name"], store.provenance_of(made)["version"], stamp)
    store.adopt(made, tree, stamp)
    return tree


def _build(request: Request, store: Store, work: str, opener: fetch.Opener) -> Answer:
    name = request["name"]
    if request["build"].get("relocate"):
        relocate.require_plain(store.prefix)
    require_space(work, request["space"])
    tree = _from_built_cache(request, store, work, "upstream")
    if tree:
        return _use(request, store, tree)
    blocked, lacking = why_not(request, store)
    if blocked:
        return _defer(request, store, blocked)
    try:
        source = obtain(request, store, work, opener, lacking)
    except Unreachable as error:
        return _defer(request, store, str(error))
    tree = source.tree
    if not tree:
        stamp = request["stamps"]["substitute" if source.kind == "substitute" else "upstream"]
        made, used = make_tree(request, store, work, source)
        write_json(os.path.join(made, PROVENANCE), _provenance(request, source, lacking))
        if used:
            write_json(os.path.join(made, USES), {"trees": used})
        built.keep(request["built_cache"], name, stamp, made)
        tree = store.tree(name, source.version, stamp)
        store.adopt(made, tree, stamp)
    return _use(request, store, tree)


def _source_at_hand(request: Request, store: Store, opener: fetch.Opener) -> Answer:
    """Bring the source to the cache, and say whether a build may begin: `fetched`, `deferred`, or `lacking` its tools.

    Asked before build dependencies are installed, which a source out of reach would have no use for.
    """
    if built.has(request["built_cache"], request["name"], request["stamps"]["upstream"]):
        return {"changed": False, "state": "fetched"}
    blocked, lacking = why_not(request, store)
    if blocked:
        return _defer(request, store, blocked)
    if lacking:
        # The substitute is fetched when it is built.
        return {"changed": False, "state": "fetched"}
    missing = [pin for pin in _pieces(request) if not _cached(request, store, pin)]
    if not missing:
        return {"changed": False, "state": "fetched"}
    if request["source"].get("git") and not git.installed():
        return {"changed": False, "state": "lacking"}
    require_space(store.cache, request["space"])
    for pin in missing:
        reasons = []
        for kind, origin in _origins(request, pin):
            try:
                if kind != "substitute":
                    _fetch(request, store, pin, kind, origin, opener)
                break
            except Unreachable as error:
                reasons.append(str(error))
        else:
            return _defer(request, store, _none_reached(reasons))
    return {"changed": True, "state": "fetched"}


def _provide_locked(request: Request, store: Store, opener: fetch.Opener) -> Answer:
    name = request["name"]
    kinds = _kinds(request)
    for kind in kinds if not request["retry"] else kinds[:1]:
        tree = store.find(name, request["stamps"][kind])
        if tree and store.examine(tree, request["paths"]):
            # A run that was killed at its end left its work.
            store.clean(name)
            return _use(request, store, tree)
    if request["only"] == "source":
        return _source_at_hand(request, store, opener)
    work = os.path.join(store.work, name)
    remove_tree(work)
    os.makedirs(work)
    try:
        return _build(request, store, work, opener)
    finally:
        store.clean(name)


def provide(request: Request, opener: fetch.Opener) -> Answer:
    """Do what the request asks for; the answer is a module's result, a failure included."""
    store = Store(request["prefix"])
    try:
        if not NAME.fullmatch(request["name"]):
            raise Broken("a name is lower-case letters, digits and _: a tree's name ends in -VERSION-STAMP")
        store.ready()
        lock = os.path.join(store.locks, f"{request['name']}.lock")
        purpose = f"providing {request['name']}"
        with Lock(lock, request["lock_wait"], purpose) as held, declared(request["space"]):
            answer = _provide_locked(request, store, opener)
        return {**answer, "waited": round(held.waited, 1)}
    except Broken as error:
        return {"failed": True, "msg": hide(f"{request['name']}: {error}"), "log": error.log}
    except OSError as error:
        place = error.filename or request["prefix"]
        remedies = {
            errno.ENOSPC: "no space left on the device: make room there, or choose another rumplab_prefix",
            errno.EROFS: "the file system is read-only: choose another rumplab_prefix, or mount it writable",
            errno.EACCES: "permission denied: the prefix must belong to the lab user",
        }
        remedy = remedies.get(error.errno or 0, error.strerror or str(error))
        return {"failed": True, "msg": f"{request['name']}: {place}: {remedy}"}
