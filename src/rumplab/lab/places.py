"""Where a user's own files about a lab are: outside its prefix, in directories that nobody else can make first.

``$XDG_STATE_HOME/rumplab-LAB/``, or ``~/.local/state/rumplab-LAB/``, comes first, since it is the same in every session
of the user's. What others have made, or could change, is passed over and named.
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

OTHERS = 0o022


def directory(lab: Lab, what: str, fits: Callable[[Path], bool] = lambda _: True, lasting: bool = False) -> Path:
    """The directory of this user's `what` in this lab, made where it isn't there; `fits` may refuse one, and `lasting`
    ones outlive the session. RumplabError names what stands in the way of all."""
    refused: list[str] = []
    tried: list[str] = []
    for base, name in candidates(lab, lasting):
        path = base / name / what
        if not fits(path):
            tried.append(f"{path} is too long for a socket's path")
            continue
        why = made(base, base / name) or made(base / name, path)
        if why is None:
            for one in refused:
                tell(f"{one}; {base / name} is used instead")
            return path
        refused.append(why)
    raise RumplabError(
        f"no place for your {what}: {'; '.join(refused + tried)}; set XDG_STATE_HOME to a short directory of your own"
    )


def candidates(lab: Lab, lasting: bool) -> Iterator[tuple[Path, str]]:
    """(the directory, the name of the lab's own in it), the best first. The first ones last."""
    name = f"rumplab-{mark(lab)}"
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
    # Only here: it takes longer to load than all the rest of a record's work.
    import tempfile

    yield Path(tempfile.gettempdir()), f"rumplab-{os.getuid()}-{mark(lab)}"


def forget(lab: Lab) -> list[Path]:
    """Takes away all that this user has of this lab, and the directories of a home that hold nothing else. Returns what
    it has taken away."""
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
    """Where this user's records were before they had places of their own, if they still are: in the prefix, where
    anybody could make such a directory first."""
    path = lab.prefix / "var" / "machines" / str(os.getuid())
    try:
        return path if unsafe(path) is None else None
    except OSError:
        return None


def home() -> Path | None:
    """The user's home; None for a user whom this system doesn't know."""
    given = os.environ.get("HOME", "")
    # sudo and runuser may leave HOME as it was, another user's.
    with contextlib.suppress(OSError):
        if os.path.isabs(given) and os.stat(given).st_uid == os.getuid():
            return Path(given)
    # Only here: most have a HOME of their own.
    import pwd

    try:
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    except KeyError:
        return None


@functools.cache
def tell(message: str) -> None:
    """Says it once: several places may be wanted of one command."""
    print(f"rumplab: {message}", file=sys.stderr)


def mark(lab: Lab) -> str:
    """What tells directories of this lab outside its prefix from another lab's."""
    return hashlib.sha256(os.fsencode(lab.prefix)).hexdigest()[:8]


def made(base: Path, path: Path) -> str | None:
    """Makes `path`, a directory of this user's alone, in `base`; why it isn't, otherwise."""
    try:
        why = unsafe_base(base)
        if why is not None:
            return why
        if not os.path.lexists(path):
            path.mkdir(mode=0o700)
        return unsafe(path)
    except FileExistsError:
        # Somebody else was quicker: another command of the user's own, or somebody who means it ill.
        return unsafe(path)
    except OSError as error:
        return f"{path} can't be made ({error.strerror})"


def unsafe_base(base: Path) -> str | None:
    """Why others could put what they like in the place of something in `base`, which is made where it is missing."""
    if not base.exists():
        base.mkdir(mode=0o700, parents=True, exist_ok=True)
    info = base.stat()
    sticky = info.st_mode & stat.S_ISVTX
    # Of a directory like /tmp, root's and sticky, each has what they made.
    if not stat.S_ISDIR(info.st_mode) or info.st_uid not in ({os.getuid(), 0} if sticky else {os.getuid()}):
        return f"{base} is not a directory of your own"
    if info.st_mode & OTHERS and not sticky:
        return f"{base} can be written to by others"
    return None


def unsafe(path: Path) -> str | None:
    """Why `path` isn't a directory that this user alone can write to."""
    info = path.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid() or info.st_mode & OTHERS:
        return f"{path} is not a directory of your own; remove it, or ask its owner to"
    return None
