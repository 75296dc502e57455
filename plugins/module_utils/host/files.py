"""Read and write files, as root, in directories that belong to the lab user.

The lab user may replace any name there at any moment. So this module opens a directory component by component, follows
no link that another user could have made, and reads, chowns and chmods by descriptor, never by name.
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
# With O_PATH (Linux), the directories above the wanted one needn't be readable.
PASSED = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_CLOEXEC
# The prefix of a temporary file's name.
TEMPORARY = ".new-"
# The largest file to read, in bytes. The lab's files are small; a larger one could exhaust the memory.
MOST = 64 << 20
LINKS = 40
REMEDIES = {
    errno.ENOSPC: "; make room there, or choose another rumplab_prefix",
    errno.EDQUOT: "; make room there, or choose another rumplab_prefix",
    errno.EROFS: "; mount it writable, or choose another rumplab_prefix",
}
# Debian leaves some of these out of a user's PATH; only a login shell has Homebrew's.
MORE_PATH = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/opt/homebrew/bin", "/opt/homebrew/sbin", "/usr/local/bin")


def program(name: str) -> str | None:
    """Return the path of a program on the host, or None."""
    return shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", "/usr/bin:/bin"), *MORE_PATH]))


def moment(seconds: float) -> str:
    """Return a time (seconds since the epoch) in ISO 8601, as descriptors have it; as text, later times sort later."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


class Unfit(ValueError):
    """The file at a path can't be used; the message has the reason and the remedy."""


def error_text(error: Exception) -> str:
    """Return an error's message; for an OSError, the path, the system's message and a remedy."""
    if not isinstance(error, OSError) or not error.strerror:
        return str(error)
    remedy = REMEDIES.get(error.errno or 0, "")
    return ": ".join(filter(None, (os.fsdecode(error.filename or ""), error.strerror + remedy)))


def trusted() -> set[int]:
    """Return the user ids whose files this process may act on: root's, its own, and that of the user of sudo."""
    found = {0, os.geteuid()}
    if os.geteuid() == 0 and os.environ.get("SUDO_UID", "").isdigit():
        found.add(int(os.environ["SUDO_UID"]))
    return found


def owner_name(uid: int) -> str:
    """Return the account's name, or "user UID" if there is no such account."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _link_target(directory: int, name: str, path: str) -> str | None:
    """Return a link's target, or None if the name isn't a link; Unfit if another user could have made the link."""
    status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        return None
    around = os.fstat(directory)
    writable = around.st_mode & stat.S_IWOTH and not around.st_mode & stat.S_ISVTX
    for uid in (status.st_uid, around.st_uid):
        if uid not in trusted():
            raise Unfit(f"{path}: '{name}' is a link that {owner_name(uid)} can change; remove it")
    if writable:
        raise Unfit(f"{path}: '{name}' is a link in a directory that everybody may write; remove it")
    return os.readlink(name, dir_fd=directory)


def open_directory(path: str) -> int:
    """Open the directory at an absolute path; the caller closes it. Unfit at a link that another user could change."""
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


def open_unchecked(path: str) -> int:
    """Open a directory, and follow any link: for a process with no more rights than the user who made the link."""
    return os.open(path, DIRECTORY)


@contextlib.contextmanager
def parent_of(path: str, opened: Callable[[str], int] = open_directory) -> Iterator[tuple[int, str]]:
    """Yield (the open directory that holds the path, the path's last part). Errors in the block name the whole path."""
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
    """Make a directory with exactly this mode, whatever the umask; its parent must exist.

    If another run has made it meanwhile, that run sets its mode.
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
    """Return the content of a file, or None if there is no such file.

    Unfit if it isn't a plain file, or if `owners` are given and none of them owns it.
    """
    try:
        with parent_of(path) as (directory, name):
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENXIO):
            raise Unfit(f"{path} is no plain file; remove it, and run ./provision again") from error
        error.filename = path
        raise
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MOST:
            raise Unfit(
                f"{path} is no plain file, or larger than {MOST >> 20} MiB; remove it, and run ./provision again"
            )
        if owners is not None and status.st_uid not in owners:
            raise Unfit(
                f"{path} belongs to {owner_name(status.st_uid)}, and root would act on its content; check it and run "
                f"'chown root {path}', or remove it"
            )
        with open(handle, "rb", closefd=False) as stream:
            return stream.read().decode("utf-8")
    finally:
        os.close(handle)


def read_json(path: str, otherwise: Any, owners: Collection[int] | None = None) -> Any:
    """Return the content of a JSON file, or `otherwise` if there is no such file. Unfit if it can't be used."""
    try:
        text = read_text(path, owners)
        return otherwise if text is None else json.loads(text)
    except Unfit:
        raise
    except (ValueError, RecursionError) as error:
        raise Unfit(f"{path} is not JSON ({error}); remove it and run ./provision again") from error


def sweep(directory: int, prefix: str = TEMPORARY) -> None:
    """Remove the temporary files of killed runs from an open directory. A live run holds a lock on its file."""
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
    """Return the name and descriptor of a new, locked file that no other user can open."""
    while True:
        name = prefix + secrets.token_hex(8)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=directory)
        if locks.take(handle) and os.fstat(handle).st_nlink:
            return name, handle
        # Another run has removed it between open and lock (see sweep).
        os.close(handle)


def _remove_empty_directory(directory: int, name: str) -> None:
    """Remove a directory that has the name of the file to write; OSError if it isn't empty."""
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
    """Yield a stream. When the block ends without an error, its content becomes the file at `path`, synced to disk.

    `owner` is (uid, gid), by default those of this process; `opened` opens the directory. With `first`, an existing
    file stays as it is.
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
                # After chown, which clears the set-user-ID and set-group-ID bits.
                os.fchmod(handle, mode)
                os.fsync(handle)
                if first:
                    with contextlib.suppress(FileExistsError):
                        os.link(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
                    os.unlink(fresh, dir_fd=directory)
                else:
                    _remove_empty_directory(directory, name)
                    os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(fresh, dir_fd=directory)
            raise
        os.fsync(directory)


def write_text(
    path: str, text: str, mode: int = 0o644, owner: tuple[int, int] | None = None, prefix: str = TEMPORARY
) -> None:
    """Write a file atomically and sync it; `owner` is (uid, gid), by default those of this process."""
    with replacing(path, mode, owner, prefix) as stream:
        stream.write(text.encode("utf-8"))


def write_json(
    path: str,
    content: Any,
    user: str | None = None,
    opened: Callable[[str], int] = open_directory,
    errors: str = "strict",
) -> None:
    """Write JSON that all users may read; root gives the file to `user` if that account exists.

    `errors` is the error handler of str.encode, for text that can't be encoded in UTF-8.
    """
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with replacing(path, owner=owner_for(user), opened=opened) as stream:
        stream.write(text.encode("utf-8", errors))


def point(link: str, target: str, opened: Callable[[str], int] = open_directory) -> None:
    """Point a link at `target` atomically."""
    with parent_of(link, opened) as (directory, name):
        fresh = f".{name}.link"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(fresh, dir_fd=directory)
        os.symlink(target, fresh, dir_fd=directory)
        os.rename(fresh, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)


def owner_for(user: str | None) -> tuple[int, int] | None:
    """Return (uid, gid) of `user` if this process is root and the account exists, else None: don't chown."""
    account = account_of(user) if user and os.geteuid() == 0 else None
    return (account.pw_uid, account.pw_gid) if account else None


def remove(path: str) -> None:
    """Remove a file or link, if it exists."""
    with contextlib.suppress(FileNotFoundError), parent_of(path) as (directory, name):
        os.unlink(name, dir_fd=directory)


def fingerprints(paths: Mapping[str, str]) -> dict[str, str]:
    """Return size and modification time of each file, by logical name, by which a later run sees a replaced file."""
    found = {}
    for name, path in paths.items():
        status = os.stat(path)
        found[name] = f"{status.st_size} {status.st_mtime_ns}"
    return found


def account_of(user: str) -> pwd.struct_passwd | None:
    """Return the user's account, or None if it doesn't exist."""
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
