"""Fetching one pinned commit with git, its submodules included."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from typing import Any

from .command import run_quiet
from .errors import Broken, Unreachable

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
        "GIT_HTTP_LOW_SPEED_LIMIT": "1000",
        "GIT_HTTP_LOW_SPEED_TIME": "30",
    }


def _git(directory: str, *arguments: str, timeout: float = 600) -> str:
    result = run_quiet(["git", *arguments], cwd=directory, environment=environment(), timeout=timeout)
    if result.returncode:
        said = result.stderr.strip().splitlines()
        raise Unreachable(f"git {arguments[0]}: {said[-1] if said else 'failed'}")
    return result.stdout.strip()


def is_checkout(directory: str, commit: str) -> bool:
    """True when `directory` holds a clean checkout of `commit`, submodules included."""
    if not os.path.isdir(os.path.join(directory, ".git")):
        return False
    try:
        head = _git(directory, "rev-parse", "HEAD")
        return head == commit and not _git(directory, "status", "--porcelain")
    except Unreachable:
        return False


def _checkout(directory: str, origin: str, refspec: str, pin: Mapping[str, Any]) -> None:
    commit = pin["commit"]
    _git(directory, "init", "--quiet")
    # Submodules may be named relative to where their parent came from.
    _git(directory, "remote", "add", "origin", origin)
    try:
        _git(directory, "fetch", "--quiet", "--depth", "1", origin, refspec)
    except Unreachable as error:
        if NO_SUCH_COMMIT.search(str(error)):
            raise Broken(f"{origin} has no commit {commit}: {error}") from error
        raise Unreachable(f"{origin}: {error}") from error
    try:
        _git(directory, "checkout", "--quiet", "--detach", commit)
    except Unreachable as error:
        raise Broken(f"{origin} has no commit {commit}: {error}") from error
    if pin.get("submodules"):
        # The parent's commit names each submodule's commit, so these are pinned as well.
        try:
            _git(directory, "submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1", timeout=1800)
        except Unreachable as error:
            if NO_SUCH_COMMIT.search(str(error)):
                raise Broken(f"{origin}: a submodule's commit is missing upstream: {error}") from error
            raise Unreachable(f"{origin}: {error}") from error


def fetch_commit(origin: str, pin: Mapping[str, Any], path: str) -> None:
    """Bring a clean checkout of `pin['commit']` from the repository or bundle `origin` to the directory `path`."""
    commit = str(pin.get("commit") or "")
    if not COMMIT.fullmatch(commit):
        raise Broken(f"nothing unpinned is fetched: '{commit}' is not a full commit id (40 hex digits)")
    if shutil.which("git") is None:
        raise Broken("git isn't installed, and the pin names a git repository: install git")
    partial = path + ".part"
    shutil.rmtree(partial, ignore_errors=True)
    os.makedirs(partial)
    try:
        # A bundle offers its refs only, a server any commit.
        refspec = "+refs/*:refs/bundle/*" if os.path.isfile(origin) else commit
        _checkout(partial, origin, refspec, pin)
        shutil.rmtree(path, ignore_errors=True)
        os.rename(partial, path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
