"""Make a finished tree from a pristine source, or take it from the cache of built trees."""

from __future__ import annotations

import os
from collections.abc import Mapping

from . import built, edits, host, relocate
from .build import run_recipe
from .errors import Broken
from .request import Request
from .store import Store, remove_tree


def install_files(request: Request, tree: str) -> None:
    """Write the request's own files into the tree."""
    for entry in request.files:
        path = os.path.join(tree, entry["path"])
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as stream:
            stream.write(entry["content"])
        os.chmod(path, int(str(entry.get("mode", "0644")), 8))


def check_paths(request: Request, tree: str) -> None:
    """Raise Broken unless the tree has all paths that the descriptor will name."""
    missing = [path for path in request.paths.values() if not os.path.exists(os.path.join(tree, path))]
    if missing:
        raise Broken(f"the build succeeded, but made no {', '.join(missing)} in the tree")


def missing_need(needs: Mapping[str, str], store: Store) -> str:
    """Return which of the artefacts that a recipe uses is missing in the store, and why, or ""."""
    for name, stamp in needs.items():
        if store.find(name, stamp) is None:
            reason = (store.descriptor(name) or {}).get("reason") or "it isn't in the store"
            return f"it is built with {name}, which isn't installed: {reason}"
    return ""


def why_not(request: Request, store: Store) -> tuple[str, str]:
    """Return (why nothing can be built, or ""; why only the substitute can be built, or "")."""
    blocked = host.mismatch(request.host)
    lacking = missing_need(request.needs, store)
    if lacking and "substitute" not in request.kinds():
        blocked = blocked or lacking
    return blocked or str(request.blocked), lacking


def link_needs(needs: Mapping[str, str], store: Store, work: str) -> dict[str, str]:
    """Link the trees that the recipe uses into `work`, whose path has no blanks; return the links by name."""
    os.makedirs(os.path.join(work, "needs"))
    places = {name: os.path.join(work, "needs", name) for name in needs}
    for name, place in places.items():
        os.symlink(str(store.find(name, needs[name])), place)
    return places


def make_tree(request: Request, store: Store, work: str, source: str, kind: str) -> tuple[str, list[str]]:
    """Edit and build the source; return (the tree, in `work`; the names of the trees to which it refers)."""
    edits.apply_edits(source, request.edits)
    recipe, needs = request.recipe_for(kind)
    places = {name: os.path.join(work, name) for name in ("build", "dest", "tmp")}
    for directory in places.values():
        os.makedirs(directory)
    needed = link_needs(needs, store, work)
    places.update(needed)
    places["source"] = source
    places["jobs"] = str(request.jobs or os.cpu_count() or 1)
    log = os.path.join(store.logs, f"{request.name}.log")
    run_recipe(recipe, places, store.cache, log, request.build_timeout)
    tree = os.path.join(places["dest"], recipe.get("root") or "")
    if not os.path.isdir(tree):
        raise Broken(f"the build succeeded, but made no directory {recipe.get('root')} in its destination", log)
    install_files(request, tree)
    check_paths(request, tree)
    if not recipe.get("relocate"):
        return tree, []
    kept, used = relocate.detach(tree, needed.values())
    with open(log, "a", encoding="utf-8") as stream:
        stream.writelines(f"relocate: {name} is a binary file and keeps the path\n" for name in kept)
    return tree, used


def restored(request: Request, store: Store, work: str, kind: str) -> str | None:
    """Move the tree from the cache of built trees into the store, and return it; None if the cache hasn't got it."""
    stamp = request.stamps[kind]
    made = os.path.join(work, "built")
    if not built.restore(request.built_cache, request.name, stamp, made):
        return None
    check_paths(request, made)
    if not all(os.path.isdir(os.path.join(store.trees, other)) for other in store.uses_of(made)):
        # The tree doesn't work without them. The caller goes on, and reports which is missing and why.
        remove_tree(made)
        return None
    tree = store.tree(request.name, store.provenance_of(made)["version"], stamp)
    store.adopt(made, tree, stamp)
    return tree
