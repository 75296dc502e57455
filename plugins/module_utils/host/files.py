"""Files in directories that belong to the lab user, who may exchange any name in them at any moment.

Root works on them all the same. So a directory is opened component by component, no link is followed that somebody
else could have made, and what was opened is read, given away and given its mode by descriptor, never by name again.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pwd
import secrets
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from typing import IO, Any, Callable

from . import locks

DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# A directory on the way need not be readable, where the system knows how to pass through it.
PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# The name of a file that is being written begins with this.
TEMPORARY = ".new-"
# Files of the lab are small; more is somebody's attempt to fill this process' memory.
MOST = 64 << 20
LINKS = 40
REMEDIES = {
    errno.ENOSPC: "; make room there, or choose another rumplab_prefix",
    errno.EDQUOT: "; make room there, or choose another rumplab_prefix",
    errno.EROFS: "; mount it writable, or choose another rumplab_prefix",
}
# Debian keeps some of these out of a user's PATH, Homebrew all of them out of a bare one.
MORE_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin", "/opt/homebrew/sbin", "/usr/local/bin")


def program(name: str) -> str | None:
    """Return where a program of the host's is, or None."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), *MORE_PATH]))


def moment(seconds: float) -> str:
    """Return a time as descriptors have it; later ones sort after earlier ones."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Unfit(ValueError):
    """What stands at a path isn't what can be worked with; the message says why, and what to do."""


def told(error: Exception) -> str:
    """Return an error in words: of the system's, the place and what to do about it."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    remedy = REMEDIES.get(error.errno or 0, "")
    return ": ".join(filter(None, (os.fsdecode(error.filename or ""), error.strerror + remedy)))


def trusted() -> set[int]:
    """Return the user ids whose files this process may act on: root's, its own, and those of who called sudo."""
    found = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        found.add(int(os.environ["SUDO_UID"]))
    return found


def owner_name(uid: int) -> str:
    """Return the account's name, or its number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _link_target(directory: int, name: str, path: str) -> str | None:
    """Return where a link leads, or None for what isn't one; Unfit where somebody else could have put it there."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return None
    around = os.fstat(directory)
    writable = around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX
    for uid in (status.st_uid, around.st_uid):
        if uid not in trusted():
            raise Unfit(f"{path}: '{name}' is a link in the hands of {owner_name(uid)}: remove it")
    if writable:
        raise Unfit(f"{path}: '{name}' is a link in a directory that everybody may write: remove it")
    return os.readlink(name, dir_fd=directory)


def open_directory(path: str) -> int:
    """Open the directory at an absolute path; the caller closes it."""
    rest = [part for part in path.split("/") if part]
    here, links = os.open("/", PASSED), 0
    try:
        while rest:
            name = rest.pop(0)
            try:
                following = os.open(name, PASSED | os.O_NOFOLLOW, dir_fd=here)
            except OSError as error:
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                target, links = _link_target(here, name, path), links + 1
                if target is None or links > LINKS:
                    raise
                rest = [part for part in target.split("/") if part and part != "."] + rest
                following = os.open("/", PASSED) if target.startswith("/") else os.dup(here)
            os.close(here)
            here = following
        return os.open(".", DIRECTORY, dir_fd=here)
    except OSError as error:
        error.filename = path
        raise
    finally:
        os.close(here)


def open_as_it_stands(path: str) -> int:
    """Open a directory, whoever made the links that lead there: for who has no more rights than they."""
    return os.open(path, DIRECTORY)


@contextlib.contextmanager
def parent_of(path: str, opened: Callable[[str], int] = open_directory) -> Iterator[tuple[int, str]]:
    """Give the open directory that a path is in, and the path's last part. Errors in the block name the whole path."""
    directory = opened(os.path.dirname(path))
    try:
        yield directory, os.path.basename(path)
    except OSError as error:
        if error.filename and not os.path.isabs(error.filename):
            raise OSError(error.errno, error.strerror, path) from error
        raise
    finally:
        os.close(directory)


def make_directory(path: str, mode: int = 0o755) -> None:
    """Make a directory of exactly this mode, whatever the umask; its parent is there.

    One that another run has made meanwhile is left to that run.
    """
    with parent_of(path) as (directory, name):
        try:
            os.mkdir(name, 0o700, dir_fd=directory)
        except FileExistsError:
            return
        made = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        try:
            if os.fstat(made).st_uid == os.geteuid():
                os.fchmod(made, mode)
        finally:
            os.close(made)


def read_text(path: str, owners: Collection[int] | None = None) -> str | None:
    """Return the content of a file, or None where there is none.

    Unfit names what is no plain file, or belongs to none of `owners`, where those are given.
    """
    try:
        with parent_of(path) as (directory, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Unfit(f"{path} is no plain file: remove it, and run ./provision again") from error
        error.filename = path
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST:
            raise Unfit(f"{path} is no plain file of the lab's: remove it, and run ./provision again")
        if owners is not None and status.st_uid not in owners:
            raise Unfit(
                f"{path} belongs to {owner_name(status.st_uid)}, and root would act on what is in it: look at it, then "
                f"'chown root {path}', or remove it"
            )
        with open(handle, "rb", closefd=False) as stream:
            return stream.read().decode("utf-8")
    finally:
        os.close(handle)


def read_json(path: str, otherwise: Any, owners: Collection[int] | None = None) -> Any:
    """Return the content of a JSON file, or `otherwise` where there is no such file. ValueError names a bad one."""
    try:
        text = read_text(path, owners)
        return otherwise if text is None else json.loads(text)
    except Unfit:
        raise
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{path} is not JSON ({error}): remove it and run ./provision again") from error


def sweep(directory: int, prefix: str = TEMPORARY) -> None:
    """Remove what killed runs were writing into an open directory: a live one holds a lock on its file."""
    for name in os.listdir(directory):
        if not name.startswith(prefix):
            continue
        with contextlib.suppress(OSError):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
            try:
                if locks.take(handle):
                    os.unlink(name, dir_fd=directory)
            finally:
                os.close(handle)


def _fresh(directory: int, prefix: str) -> tuple[str, int]:
    """Return name and descriptor of a new, locked file that nobody else can open."""
    while True:
        name = prefix + secrets.token_hex(8)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=directory)
        if locks.take(handle) and os.fstat(handle).st_nlink:
            return name, handle
        # Somebody swept it between the two calls.
        os.close(handle)


def _make_way(directory: int, name: str) -> None:
    """Remove a directory that stands where a file is to be, by somebody's accident; OSError where it isn't empty."""
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            os.rmdir(name, dir_fd=directory)


@contextlib.contextmanager
def replacing(
    path: str,
    mode: int = 0o644,
    owner: tuple[int, int] | None = None,
    prefix: str = TEMPORARY,
    opened: Callable[[str], int] = open_directory,
    first: bool = False,
) -> Iterator[IO[bytes]]:
    """Give a stream whose content becomes the file at `path`, whole and on the disk, when the block ends well.

    `owner` is (uid, gid), by default who runs this; `opened` opens the directory. With `first`, a file that is there by
    then stays as it is.
    """
    with parent_of(path, opened) as (directory, name):
        sweep(directory, prefix)
        fresh, handle = _fresh(directory, prefix)
        try:
            with os.fdopen(handle, "wb") as stream:
                yield stream
                stream.flush()
                if owner:
                    os.fchown(handle, *owner)
                # After the change of owner, which takes bits away.
                os.fchmod(handle, mode)
                os.fsync(handle)
                if first:
                    with contextlib.suppress(FileExistsError):
                        os.link(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
                    os.unlink(fresh, dir_fd=directory)
                else:
                    _make_way(directory, name)
                    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh, dir_fd=directory)
            raise
        os.fsync(directory)


def write_text(
    path: str, text: str, mode: int = 0o644, owner: tuple[int, int] | None = None, prefix: str = TEMPORARY
) -> None:
    """Write a file whole or not at all, and onto the disk; `owner` is (uid, gid), by default who runs this."""
    with replacing(path, mode, owner, prefix) as stream:
        stream.write(text.encode("utf-8"))


def write_json(
    path: str,
    content: Any,
    user: str | None = None,
    opened: Callable[[str], int] = open_directory,
    errors: str = "strict",
) -> None:
    """Write JSON that all may read; root gives the file to `user`, where one is named and has an account.

    `errors` says what becomes of bytes that are no UTF-8, as str.encode has it.
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with replacing(path, owner=owner_for(user), opened=opened) as stream:
        stream.write(text.encode("utf-8", errors))


def point(link: str, target: str, opened: Callable[[str], int] = open_directory) -> None:
    """Point a link at `target`, so that there is one at every moment."""
    with parent_of(link, opened) as (directory, name):
        fresh = f".{name}.link"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=directory)
        os.symlink(target, fresh, dir_fd=directory)
        os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def owner_for(user: str | None) -> tuple[int, int] | None:
    """Return (uid, gid) of whom root gives a file of `user` to; None where it stays with who wrote it."""
    account = account_of(user) if user and os.geteuid() == 0 else None
    return (account.pw_uid, account.pw_gid) if account else None


def remove(path: str) -> None:
    """Remove a file or link, where it exists."""
    with contextlib.suppress(FileNotFoundError), parent_of(path) as (directory, name):
        os.unlink(name, dir_fd=directory)


def fingerprints(paths: Mapping[str, str]) -> dict[str, str]:
    """Return size and time of change, by logical name, of files whose replacement is to be noticed."""
    found = {}
    for name, path in paths.items():
        status = os.stat(path)
        found[name] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def account_of(user: str) -> pwd.struct_passwd | None:
    """Return the user's account, or None while it isn't there yet."""
    try:
        return pwd.getpwnam(user)
    except KeyError:
        return None


def missing_parents(path: str) -> list[str]:
    """Return the directories above `path` that don't exist, the topmost first."""
    missing: list[str] = []
    parent = os.path.dirname(path)
    while parent != "/" and not os.path.isdir(parent):
        missing.insert(0, parent)
        parent = os.path.dirname(parent)
    return missing
