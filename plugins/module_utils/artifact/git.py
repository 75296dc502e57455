"""Fetch one pinned commit with git, with its submodules, and check it out again for each build.

The cache keeps only git's packs, whose objects are named by the hashes of their contents. It keeps no checkout, which
somebody could change, and no configuration, hooks or refs of a repository.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from typing import Any, Callable

from ..host.plain import DAMAGED, read_json
from . import credentials
from .command import run_quiet
from .durable import write_json
from .errors import Broken, Unreachable

# Finds a commit in a mirror: (commit id) -> path of a bundle, or raises Unreachable.
Bundles = Callable[[str], str]

# The file beside the packs that names the commit and says whether its submodules are included.
PINNED = "pinned.json"
# git fetch keeps the received pack as it is, and starts no garbage collection.
FETCHING = ("-c", "fetch.unpackLimit=1", "-c", "gc.auto=0", "-c", "maintenance.auto=false")
COMMIT = re.compile(r"[0-9a-f]{40}")
LINK = re.compile(r"160000 commit (?P<commit>[0-9a-f]{40,64})\t(?P<path>.+)", re.DOTALL)
# git's messages if the server has the repository but not the commit: the pin is wrong, the network isn't.
NO_SUCH_COMMIT = re.compile(
    r"not our ref|couldn't find remote ref|no such remote ref|unadvertised object|did not contain", re.I
)


def environment() -> dict[str, str]:
    """Return git's environment: no prompt, no user configuration, and a limit of 30 s for a slow connection."""
    kept = {key: value for key, value in os.environ.items() if key.lower().endswith("_proxy") or "SSL" in key}
    return {
        **kept,
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "HOME": "/nonexistent",
        "LC_ALL": "C",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_ATTR_NOSYSTEM": "1",
        # .gitmodules comes from upstream, and some other transports of git run commands.
        "GIT_ALLOW_PROTOCOL": "file:git:http:https:ssh",
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }


def authorized(url: str) -> tuple[str, dict[str, str]]:
    """Return (the URL without credentials, environment variables that pass them to git).

    Other users can see git's command line, but not its environment.
    """
    clean, pair = credentials.split(url)
    if pair is None:
        return clean, {}
    setting = {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": f"http.{clean}.extraHeader"}
    return clean, {**setting, "GIT_CONFIG_VALUE_0": f"Authorization: {credentials.header(pair)}"}


def _git(
    directory: str, *arguments: str, timeout: float = 600, more: Mapping[str, str] | None = None, verb: str = ""
) -> str:
    """Run git in a directory and return its output; if it fails, Unreachable has the last line of its error output."""
    result = run_quiet(
        ["git", *arguments], cwd=directory, environment={**environment(), **(more or {})}, timeout=timeout
    )
    if result.returncode:
        said = result.stderr.strip().splitlines()
        raise Unreachable(f"git {verb or arguments[0]}: {said[-1] if said else 'failed'}")
    return result.stdout.strip()


def installed() -> bool:
    """Return whether git is installed."""
    return shutil.which("git") is not None


def resolve(origin: str, url: str) -> str:
    """Return a submodule's URL, which may be relative (./ or ../) to its parent's `origin`; see gitmodules(5).

    Broken if it has more ../ than `origin` has parts.
    """
    if not url.startswith(("./", "../")):
        return url
    base, separator = origin.rstrip("/"), "/"
    while url.startswith(("./", "../")):
        if url.startswith("../"):
            # In ssh's HOST:PATH, a colon separates the path.
            place = max(base.rfind("/"), base.rfind(":"))
            if place < 0:
                raise Broken(f"the submodule's URL {url} has more ../ than {origin} has parts")
            base, separator = base[:place], base[place]
        url = url.split("/", 1)[1]
    return f"{base}{separator}{url}"


def submodules(repository: str, commit: str, more: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the commits of a commit's submodules, by path."""
    return links_in(_git(repository, "ls-tree", "-r", "-z", commit, more=more))


def links_in(tree: str) -> dict[str, str]:
    """Return the submodules' commits, by path, from the output of `git ls-tree -r -z`."""
    links = {}
    for entry in tree.split("\0"):
        if entry.startswith("160000 "):
            link = LINK.fullmatch(entry)
            if link is None:
                raise Broken(f"git lists a submodule in an unknown format: {entry[:200]!r}")
            links[link["path"]] = link["commit"]
    return links


def _named_urls(repository: str, commit: str) -> dict[str, str]:
    """Return the URLs in .gitmodules, by path."""
    patterns = [rf"^submodule\..*\.{key}$" for key in ("path", "url")]
    blob = ("config", "-z", "--blob", f"{commit}:.gitmodules", "--get-regexp")
    return urls_in("\0".join(_git(repository, *blob, pattern) for pattern in patterns))


def urls_in(printed: str) -> dict[str, str]:
    """Return the URLs, by path, from the output of `git config -z --get-regexp` for .gitmodules."""
    said: dict[str, dict[str, str]] = {}
    for entry in filter(None, printed.split("\0")):
        # A key may have no value.
        name, _, value = entry.partition("\n")
        module, _, key = name.rpartition(".")
        said.setdefault(module, {})[key] = value
    return {entry["path"]: entry["url"] for entry in said.values() if entry.get("path") and entry.get("url")}


def _packs_only(path: str) -> bool:
    """Return whether all objects are in packs: no loose objects, no alternates."""
    objects = os.path.join(path, "objects")
    info = os.path.join(objects, "info")
    loose = set(os.listdir(objects)) - {"pack", "info"}
    return not loose and not (os.path.isdir(info) and "alternates" in os.listdir(info))


def is_whole(path: str, commit: str, recursive: bool = False) -> bool:
    """Return whether the cache at `path` has `commit`, unchanged; with `recursive`, its submodules' commits too."""
    try:
        said = read_json(os.path.join(path, PINNED))
        if said["commit"] != commit or (recursive and not said["submodules"]) or not _packs_only(path):
            return False
        packs = os.path.join(path, "objects", "pack")
        indexes = sorted(name for name in os.listdir(packs) if name.endswith(".idx"))
        if indexes:
            # verify-pack computes the hash of each object again.
            _git(packs, "verify-pack", "--", *indexes, timeout=1800)
        with _repository(path) as (repository, more):
            _connected(repository, more, commit, recursive)
    except (OSError, *DAMAGED, Unreachable):
        return False
    return True


def _connected(repository: str, more: Mapping[str, str], commit: str, recursive: bool) -> None:
    for link in submodules(repository, commit, more).values() if recursive else ():
        _connected(repository, more, link, True)
    if not recursive:
        _git(repository, "cat-file", "-e", f"{commit}^{{tree}}", more=more)


@contextlib.contextmanager
def _repository(path: str) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (a new, empty repository that uses the objects in the cache at `path`, git's environment for it)."""
    made = f"{path}.reading-{os.getpid()}"
    shutil.rmtree(made, ignore_errors=True)
    os.makedirs(made)
    try:
        _git(made, "init", "--quiet", "--bare", "--template=")
        yield made, {"GIT_DIR": made, "GIT_ALTERNATE_OBJECT_DIRECTORIES": os.path.join(path, "objects")}
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _write_out(repository: str, more: Mapping[str, str], commit: str, top: str, inside: str, recursive: bool) -> None:
    place = os.path.join(top, inside)
    if os.path.realpath(place) != os.path.normpath(os.path.join(os.path.realpath(top), inside)):
        raise Broken(f"submodule {inside}: a symbolic link in its path leads outside the checkout")
    os.makedirs(place, exist_ok=True)
    more = {**more, "GIT_WORK_TREE": place, "GIT_INDEX_FILE": os.path.join(repository, "index-of-checkout")}
    _git(place, "read-tree", commit, more=more)
    _git(place, "checkout-index", "--all", "--force", "--quiet", more=more, timeout=1800)
    for path, link in submodules(repository, commit, more).items() if recursive else ():
        _write_out(repository, more, link, top, os.path.join(inside, path), recursive)


def check_out(path: str, directory: str) -> None:
    """Write the files of the commit in the cache at `path`, and those of its submodules, into `directory`."""
    said = read_json(os.path.join(path, PINNED))
    try:
        with _repository(path) as (repository, more):
            _write_out(repository, more, said["commit"], directory, "", bool(said["submodules"]))
    except Unreachable as error:
        raise Broken(f"{path} can't be checked out: {error}; remove it, and the next run fetches it again") from error


def _fetch(repository: str, origin: str, commit: str) -> None:
    # git can fetch only refs from a bundle, but any commit from a server.
    refspec = "+refs/*:refs/bundle/*" if os.path.isfile(origin) else commit
    if origin.startswith("-"):
        raise Broken(f"{origin} is no URL or path of a git repository; correct the pin")
    url, more = authorized(origin)
    arguments = ("fetch", "--quiet", "--no-tags", "--depth", "1", url, refspec)
    try:
        _git(repository, *FETCHING, *arguments, timeout=1800, more=more, verb="fetch")
    except Unreachable as error:
        if NO_SUCH_COMMIT.search(str(error)):
            raise Broken(f"{origin} has no commit {commit}: {error}") from error
        raise Unreachable(f"{origin}: {error}") from error
    try:
        _git(repository, "cat-file", "-e", f"{commit}^{{commit}}")
    except Unreachable as error:
        raise Broken(f"{origin} has no commit {commit}: {error}") from error


def _fetch_submodules(
    repository: str, origin: str, commit: str, bundles: Bundles | None, urls: Mapping[str, str], above: str = ""
) -> None:
    """Fetch the submodules' commits. The parent's commit names them, so its pin pins them as well."""
    links = submodules(repository, commit)
    named = _named_urls(repository, commit) if links and not bundles else {}
    for path, link in links.items():
        whole = above + path
        try:
            if bundles:
                where = bundles(link)
            elif whole in urls:
                where = urls[whole]
            elif path in named:
                where = resolve(origin, named[path])
            else:
                raise Broken(".gitmodules has no URL for it")
            _fetch(repository, where, link)
        except Unreachable as error:
            raise Unreachable(f"submodule {whole}: {error}") from error
        except Broken as error:
            raise Broken(f"submodule {whole}: {error}") from error
        _fetch_submodules(repository, where, link, bundles, urls, f"{whole}/")


def fetch_commit(origin: str, pin: Mapping[str, Any], path: str, bundles: Bundles | None = None) -> None:
    """Fetch the objects of `pin['commit']` from the repository or bundle `origin` into the directory `path`.

    With `pin['submodules']`, fetch its submodules too, each at the commit that the parent names: from `bundles` if they
    are given, else from `pin['submodule_urls']` (by path), else from the URL in .gitmodules.
    """
    commit = str(pin.get("commit") or "")
    if not COMMIT.fullmatch(commit):
        raise Broken(f"the pin's commit '{commit}' is not a full commit id (40 hex digits), so nothing is fetched")
    if not installed():
        raise Broken("git isn't installed, and the pin names a git repository: install git")
    partial = path + ".part"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        _git(partial, "init", "--quiet", "--bare", "--template=")
        _fetch(partial, origin, commit)
        if pin.get("submodules"):
            _fetch_submodules(partial, origin, commit, bundles, pin.get("submodule_urls") or {})
        # Keep only the objects. (FETCH_HEAD, among the other files, has the URL with its credentials.)
        for name in os.listdir(partial):
            if name != "objects":
                shutil.rmtree(os.path.join(partial, name), ignore_errors=True)
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(partial, name))
        write_json(os.path.join(partial, PINNED), {"commit": commit, "submodules": bool(pin.get("submodules"))})
        shutil.rmtree(path, ignore_errors=True)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
