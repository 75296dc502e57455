"""Turn a `Request` into an installed tree.

The steps, in order: look for the tree in the store; look in the cache of built trees; fetch the source, candidate after
candidate (`sources`); edit, build and install it (`trees`); switch the link to the tree.
"""

from __future__ import annotations

import errno
import os
import time
from typing import Any

from ..host.files import fingerprints, moment
from . import built, fetch, git, relocate, sources, trees
from .build import require_space
from .credentials import hide
from .errors import Broken, Unreachable
from .lock import Lock
from .members import declared
from .request import Request
from .sources import Source
from .store import PROVENANCE, USES, Store, remove_tree, write_json

Answer = dict[str, Any]


def _descriptor(request: Request, **more: Any) -> Answer:
    empty = dict.fromkeys(("version", "source", "origin", "tree", "reason", "installed"))
    return {
        "schema": 1,
        "name": request.name,
        "wanted": request.version,
        "licence": request.licence,
        "paths": {},
        **empty,
        **more,
    }


def _provenance(request: Request, source: Source, lacking: str) -> Answer:
    why = f"can't be built ({lacking})" if lacking else "can't be reached"
    instead = f"{request.name} {request.version} {why}; {source.origin} serves instead"
    return {
        "version": source.version,
        "source": source.kind,
        "origin": source.origin,
        "reason": instead if source.kind == "substitute" else None,
        "installed": moment(time.time()),
    }


def _use(request: Request, store: Store, tree: str) -> Answer:
    """Write the tree's descriptor, switch the link to it, and remove trees older than the kept generations."""
    name = request.name
    provenance = store.provenance_of(tree)
    # normpath, because the path "." names the tree itself.
    paths = {key: os.path.normpath(os.path.join(store.prefix, name, path)) for key, path in request.paths.items()}
    stamp = store.stamp_of(tree)
    inside = {key: os.path.join(tree, path) for key, path in request.paths.items()}
    # Later runs compare these. Only files: a directory's time doesn't change when a file below it does.
    marks = fingerprints({key: path for key, path in inside.items() if os.path.isfile(path)})
    descriptor = _descriptor(
        request, state="installed", stamp=stamp, tree=tree, paths=paths, fingerprints=marks, **provenance
    )
    described = store.describe(name, descriptor)
    switched = store.switch(name, tree)
    removed = store.prune(name, request.generations)
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


def _deferral(request: Request) -> Answer:
    """Return the descriptor's `deferral`: a later run with the same request doesn't try again before `until`."""
    now = time.time()
    return {"request": request.request, "tried": moment(now), "until": moment(now + request.retry_after)}


def _defer(request: Request, store: Store, reason: str) -> Answer:
    name = request.name
    reason = hide("; ".join([*store.damage(), reason]))
    if request.strict:
        raise Broken(
            f"{name} {request.version} can't be provided, and rumplab_strict allows neither a substitute nor a "
            f"deferral: {reason}"
        )
    current = store.current(name)
    installed = store.descriptor(name)
    if current and store.stamp_of(current) and installed and installed.get("state") == "installed":
        # An older tree stays in use, with the reason why the wanted one is deferred.
        descriptor = {**installed, "wanted": request.version, "reason": f"deferred: {reason}"}
    else:
        descriptor = _descriptor(request, state="deferred", stamp=request.stamps["upstream"], reason=reason)
    descriptor["deferral"] = _deferral(request)
    changed = store.describe(name, descriptor)
    # The message about an unreachable server may differ from try to try; that alone doesn't count as a change.
    if installed and installed.get("reason"):
        passing = {key: descriptor[key] for key in ("reason", "deferral")}
        changed = {**installed, **passing} != descriptor
    return {"changed": changed, "state": "deferred", "reason": reason, "tree": None}


def _build(request: Request, store: Store, work: str, opener: fetch.Opener) -> Answer:
    name = request.name
    if request.build.get("relocate"):
        relocate.require_plain(store.prefix)
    require_space(work, request.space)
    tree = trees.restored(request, store, work, "upstream")
    if tree:
        return _use(request, store, tree)
    blocked, lacking = trees.why_not(request, store)
    if blocked:
        return _defer(request, store, blocked)
    try:
        source = sources.obtain(request, store, work, opener, lacking)
    except Unreachable as error:
        return _defer(request, store, str(error))
    tree = source.tree
    if not tree:
        stamp = request.stamp_for(source.kind)
        made, used = trees.make_tree(request, store, work, source.directory, source.kind)
        write_json(os.path.join(made, PROVENANCE), _provenance(request, source, lacking))
        if used:
            write_json(os.path.join(made, USES), {"trees": used})
        built.keep(request.built_cache, name, stamp, made)
        tree = store.tree(name, source.version, stamp)
        store.adopt(made, tree, stamp)
    return _use(request, store, tree)


def _source_at_hand(request: Request, store: Store, opener: fetch.Opener) -> Answer:
    """Fetch the source into the cache. The state is `fetched`, `deferred`, or `lacking`: fetching needs git.

    The role calls this before it installs build dependencies, which an unreachable source wouldn't need.
    """
    if built.has(request.built_cache, request.name, request.stamps["upstream"]):
        return {"changed": False, "state": "fetched"}
    blocked, lacking = trees.why_not(request, store)
    if blocked:
        return _defer(request, store, blocked)
    if lacking:
        # Only the substitute can be built, and the build fetches it.
        return {"changed": False, "state": "fetched"}
    missing = [pin for pin in request.pieces() if not sources.cached(request, store, pin)]
    if not missing:
        return {"changed": False, "state": "fetched"}
    if request.source.get("git") and not git.installed():
        return {"changed": False, "state": "lacking"}
    require_space(store.cache, request.space)
    try:
        for pin in missing:
            sources.bring(request, store, pin, opener)
    except Unreachable as error:
        return _defer(request, store, str(error))
    return {"changed": True, "state": "fetched"}


def _provide_locked(request: Request, store: Store, opener: fetch.Opener) -> Answer:
    name = request.name
    kinds = request.kinds()
    for kind in kinds if not request.retry else kinds[:1]:
        tree = store.find(name, request.stamps[kind])
        if tree and store.examine(tree, request.paths):
            # A run that was killed after installing the tree left its work directory.
            store.clean(name)
            return _use(request, store, tree)
    if request.only == "source":
        return _source_at_hand(request, store, opener)
    work = os.path.join(store.work, name)
    remove_tree(work)
    os.makedirs(work)
    try:
        return _build(request, store, work, opener)
    finally:
        store.clean(name)


def provide(request: Request, opener: fetch.Opener) -> Answer:
    """Provide the requested tree; return the module's result, also for a failure. Expected errors aren't raised."""
    store = Store(request.prefix)
    try:
        request.check()
        store.ready()
        lock = os.path.join(store.locks, f"{request.name}.lock")
        purpose = f"providing {request.name}"
        with Lock(lock, request.lock_wait, purpose) as held, declared(request.space):
            answer = _provide_locked(request, store, opener)
        return {**answer, "waited": round(held.waited, 1)}
    except Broken as error:
        return {"failed": True, "msg": hide(f"{request.name}: {error}"), "log": error.log}
    except OSError as error:
        place = error.filename or request.prefix
        remedies = {
            errno.ENOSPC: "no space left on the device: make room there, or choose another rumplab_prefix",
            errno.EROFS: "the file system is read-only: choose another rumplab_prefix, or mount it writable",
            errno.EACCES: "permission denied: the prefix must belong to the lab user",
        }
        remedy = remedies.get(error.errno or 0, error.strerror or str(error))
        return {"failed": True, "msg": f"{request.name}: {place}: {remedy}"}
