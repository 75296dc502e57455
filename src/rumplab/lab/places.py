"""The directories of a user's own files about a lab. They are outside the prefix, where no other user can make them.

The first choice is ``$XDG_STATE_HOME/rumplab-LAB/`` or ``~/.local/state/rumplab-LAB/``, which is the same in all
sessions of the user. A directory that another user made or can write to is not used; a warning names it.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.lab.config import Lab

# The mode bits that let the group and other users write.
OTHERS = 0o022


def directory(lab: Lab, what: str, fits: Callable[[Path], bool] = lambda _: True, lasting: bool = False) -> Path:
    """Returns this user's directory `what` for `lab`, and makes it if it is missing.

    It is the first of `candidates` that is safe and that `fits` accepts. With `lasting`, it is one that the system
    keeps after the session. RumplabError, with all reasons, if none can be used.
    """
    refused: list[str] = []
    tried: list[str] = []
    for base, name in candidates(lab, lasting):
        path = base / name / what
        if not fits(path):
            tried.append(f"{path} is too long for a socket's path")
            continue
        why = make_private(base, base / name) or make_private(base / name, path)
        if why is None:
            for one in refused:
                warn_once(f"{one}; {base / name} is used instead")
            return path
        refused.append(why)
    raise RumplabError(
        f"no place for your {what}: {'; '.join(refused + tried)}; set XDG_STATE_HOME to a short directory of your own"
    )


def candidates(lab: Lab, lasting: bool) -> Iterator[tuple[Path, str]]:
    """Yields (directory, name of the lab's directory in it), the best first. With `lasting`, yields only those that the
    system keeps after the session."""
    name = f"rumplab-{lab_id(lab)}"
    state = os.environ.get("XDG_STATE_HOME", "")
    if os.path.isabs(state):
        yield Path(state), name
    elif (own := home()) is not None:
        yield own / ".local" / "state", name
    if lasting:
        return
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if os.path.isabs(runtime):
        yield Path(runtime), name
    # Imported here because it takes longer to load than all the other work on a record.
    import tempfile

    yield Path(tempfile.gettempdir()), f"rumplab-{os.getuid()}-{lab_id(lab)}"


def remove_all(lab: Lab) -> list[Path]:
    """Removes all of this user's files about `lab`, and ``~/.local/state`` and ``~/.local`` if they are empty then.
    Returns the lab's directories that it removed."""
    removed = []
    for base, name in candidates(lab, lasting=False):
        path = base / name
        with contextlib.suppress(OSError):
            if unsafe(path) is None:
                shutil.rmtree(path)
                removed.append(path)
    own = home()
    with contextlib.suppress(OSError):
        if own is not None and removed:
            (own / ".local" / "state").rmdir()
            (own / ".local").rmdir()
    return removed


def former(lab: Lab) -> Path | None:
    """Returns the directory, in the prefix, where an earlier release kept this user's records; None if there is none.
    There, any user could make the directory first, so this release uses others."""
    path = lab.prefix / "var" / "machines" / str(os.getuid())
    try:
        return path if unsafe(path) is None else None
    except OSError:
        return None


def home() -> Path | None:
    """Returns the user's home directory; None if the system has no account for this user id."""
    given = os.environ.get("HOME", "")
    # sudo and runuser may leave HOME unchanged: then it is another user's.
    with contextlib.suppress(OSError):
        if os.path.isabs(given) and os.stat(given).st_uid == os.getuid():
            return Path(given)
    # Imported here because most users have a HOME of their own.
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


@functools.cache
def warn_once(message: str) -> None:
    """Prints `message` on standard error, once in a process: one command may need several directories."""
    print(f"rumplab: {message}", file=sys.stderr)


def lab_id(lab: Lab) -> str:
    """Returns 8 hexadecimal digits that differ between labs, for directory names outside the prefix."""
    return hashlib.sha256(os.fsencode(lab.prefix)).hexdigest()[:8]


def make_private(base: Path, path: Path) -> str | None:
    """Makes the directory `path` in `base`, for this user only, unless it exists. Returns why it can't be used, or
    None."""
    try:
        why = unsafe_base(base)
        if why is not None:
            return why
        if not os.path.lexists(path):
            path.mkdir(mode=0o700)
        return unsafe(path)
    except FileExistsError:
        # Another process made it first: another command of this user, or an attacker.
        return unsafe(path)
    except OSError as error:
        return f"{path} can't be made ({error.strerror})"


def unsafe_base(base: Path) -> str | None:
    """Makes `base` if it is missing. Returns why another user could replace a file or directory in it, or None."""
    if not base.exists():
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = base.stat()
    sticky = info.st_mode & stat.S_ISVTX
    # A directory of root's with the sticky bit, such as /tmp, is safe: only its owner can replace a file in it.
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in ({os.getuid(), 0} if sticky else {os.getuid()}):
        return f"{base} is not a directory of your own"
    if info.st_mode & OTHERS and not sticky:
        return f"{base} can be written to by others"
    return None


def unsafe(path: Path) -> str | None:
    """Returns why `path` isn't a directory that only this user can write to, or None."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & OTHERS:
        return f"{path} is not a directory of your own; remove it, or ask its owner to"
    return None
