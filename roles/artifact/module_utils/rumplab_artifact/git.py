"""Fetching one pinned commit with git, its submodules included."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any, Callable

from .command import run_quiet
from .errors import Broken, Unreachable

# Where a mirror holds a commit: (commit id) -> path of a bundle, or Unreachable.
Bundles = Callable[[str], str]

COMMIT = re.compile(r"[0-9a-f]{40}")
# What git says when the other side has the repository but not the commit: a wrong pin, not a bad line.
NO_SUCH_COMMIT = re.compile(
    r"not our ref|couldn't find remote ref|no such remote ref|unadvertised object|did not contain", re.I
)


def environment() -> dict[str, str]:
    """Return git's environment: no prompt, no user configuration, and a slow line given up after 30 s."""
    kept = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy") or "SSL" in key}
    return {
        **kept,
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        # What .gitmodules names comes from outside, and some of git's transports run commands.
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }


def _git(directory: str, *arguments: str, timeout: float = 600) -> str:
    result = run_quiet(["git", *arguments], cwd=directory, environment=environment(), timeout=timeout)
    if result.returncode:
        said = result.stderr.strip().splitlines()
        raise Unreachable(f"git {arguments[0]}: {said[-1] if said else 'failed'}")
    return result.stdout.strip()


def installed() -> bool:
    """True when there is a git to fetch with."""
    return shutil.which("git") is not None


def resolve(origin: str, url: str) -> str:
    """Return a submodule's URL, which may be relative (./ or ../) to its parent's `origin`; gitmodules(5)."""
    if not url.startswith(("./", "../")):
        return url
    base, separator = origin.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            # HOST:PATH of ssh has a colon where the path begins.
            place = max(base.rfind("/"), base.rfind(":"))
            base, separator = base[:place], base[place]
        url = url.split("/", 1)[1]
    return f"{base}{separator}{url}"


def submodules(directory: str) -> dict[str, str]:
    """Return the commit of every submodule of the checkout `directory`, by path; the parent's commit names them."""
    tree = _git(directory, "ls-tree", "-r", "-z", "HEAD")
    links = (entry.split("\t", 1) for entry in tree.split("\0") if entry.startswith("160000 "))
    return {path: what.split()[2] for what, path in links}


def _named_urls(directory: str) -> dict[str, str]:
    """Return what .gitmodules says: URL by path."""
    said: dict[str, dict[str, str]] = {}
    for key in ("path", "url"):
        pattern = rf"^submodule\..*\.{key}$"
        found = _git(directory, "config", "-z", "--file", ".gitmodules", "--get-regexp", pattern)
        for entry in filter(None, found.split("\0")):
            name, value = entry.split("\n", 1)
            said.setdefault(name.rsplit(".", 1)[0], {})[key] = value
    return {entry["path"]: entry["url"] for entry in said.values() if len(entry) == 2}


def is_checkout(directory: str, commit: str, recursive: bool = False) -> bool:
    """True when `directory` holds a clean checkout of `commit`; `recursive`: and each submodule one of its own."""
    if not os.path.isdir(os.path.join(directory, ".git")):
        return False
    try:
        if _git(directory, "rev-parse", "HEAD") != commit or _git(directory, "status", "--porcelain"):
            return False
        links = submodules(directory) if recursive else {}
    except Unreachable:
        return False
    return all(is_checkout(os.path.join(directory, path), link, True) for path, link in links.items())


def _checkout(directory: str, origin: str, commit: str) -> None:
    # A bundle offers its refs only, a server any commit.
    refspec = "+refs/*:refs/bundle/*" if os.path.isfile(origin) else commit
    if origin.startswith("-"):
        raise Broken(f"this is no place to fetch from: {origin}")
    _git(directory, "init", "--quiet")
    try:
        _git(directory, "fetch", "--quiet", "--depth", "1", origin, refspec, timeout=1800)
    except Unreachable as error:
        if NO_SUCH_COMMIT.search(str(error)):
            raise Broken(f"{origin} has no commit {commit}: {error}") from error
        raise Unreachable(f"{origin}: {error}") from error
    try:
        _git(directory, "checkout", "--quiet", "--detach", commit)
    except Unreachable as error:
        raise Broken(f"{origin} has no commit {commit}: {error}") from error


def _checkout_submodules(
    directory: str, origin: str, bundles: Bundles | None, urls: Mapping[str, str], above: str = ""
) -> None:
    """Check every submodule out at the commit that its parent names: just that commit, so these are pinned as well."""
    links = submodules(directory)
    named = _named_urls(directory) if links and not bundles else {}
    for path, commit in links.items():
        whole = above + path
        place = os.path.join(directory, path)
        try:
            if bundles:
                where = bundles(commit)
            elif whole in urls:
                where = urls[whole]
            elif path in named:
                where = resolve(origin, named[path])
            else:
                raise Broken(".gitmodules doesn't say where it is")
            os.makedirs(place, exist_ok=True)
            _checkout(place, where, commit)
        except Unreachable as error:
            raise Unreachable(f"submodule {whole}: {error}") from error
        except Broken as error:
            raise Broken(f"submodule {whole}: {error}") from error
        _checkout_submodules(place, where, bundles, urls, f"{whole}/")


def fetch_commit(origin: str, pin: Mapping[str, Any], path: str, bundles: Bundles | None = None) -> None:
    """Bring a clean checkout of `pin['commit']` from the repository or bundle `origin` to the directory `path`.

    With `pin['submodules']` its submodules come along, each at the commit that the parent names: out of `bundles`
    where those are given, else from `pin['submodule_urls']` (by path), else from where .gitmodules says.
    """
    commit = str(pin.get("commit") or "")
    if not COMMIT.fullmatch(commit):
        raise Broken(f"nothing unpinned is fetched: '{commit}' is not a full commit id (40 hex digits)")
    if not installed():
        raise Broken("git isn't installed, and the pin names a git repository: install git")
    partial = path + ".part"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        _checkout(partial, origin, commit)
        if pin.get("submodules"):
            _checkout_submodules(partial, origin, bundles, pin.get("submodule_urls") or {})
        shutil.rmtree(path, ignore_errors=True)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
