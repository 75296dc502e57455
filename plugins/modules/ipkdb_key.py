#!/usr/bin/python
"""Ansible module: make or check the key that a kernel with IPKDB and its debugger share."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ipkdb_key
short_description: Make or check the key that a kernel with IPKDB and its debugger share
description:
  - Makes the key's file if there is none. Otherwise checks that the key can be compiled into a kernel, and that only
    the file's owner may read it. The module never returns or logs the key.
options:
  path: {description: "The key's file.", type: path, required: true}
  user: {description: "The account that owns it.", type: str, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Make the key
  rumplab.lab.ipkdb_key:
    path: /opt/rumplab/etc/ipkdb.key
    user: rumplab
"""

RETURN = r"""
mark: {description: "A hash that differs between keys and doesn't reveal the key; empty in check mode when there is no
       key yet.", type: str, returned: success}
"""

import contextlib
import hashlib
import os
import pwd
import re
import secrets
import stat
from collections.abc import Iterator

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host import files

OPTIONS = {"path": {"type": "path", "required": True}, "user": {"type": "str", "required": True}}
# These characters need no quoting in config(1) or C. The kernel disables IPKDB if the key is shorter than 16 bytes, and
# replaces a key of more than 64 bytes by its hash.
FIT = re.compile(rb"[A-Za-z0-9._+/=-]{16,64}")
BYTES = 24
MOST = 4096
SALT = b"rumplab: which key of IPKDB"
ROUNDS = 200_000


class Unfit(Exception):
    """The existing file can't be the key; the message has the reason and the remedy."""


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Run the block with the effective user id of `user` if this process is root: that user owns the directory."""
    if os.geteuid() != 0:
        yield
        return
    account, group = pwd.getpwnam(user), os.getegid()
    os.setegid(account.pw_gid)
    os.seteuid(account.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(group)


def mark(key: bytes) -> str:
    """Return a hash that identifies the key. It is slow to compute, so that a weak key can't be guessed quickly."""
    return hashlib.pbkdf2_hmac("sha256", key, SALT, ROUNDS).hex()


def read(path: str) -> tuple[bytes, int]:
    """Return the key in the file, without its final newline, and the file's mode.

    Raises Unfit if the file can't be the key, and FileNotFoundError.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Unfit(f"{path} is not a file of the lab user; remove it, and the next run makes a new key")
        content = stream.read(MOST)
    key = content[:-1] if content.endswith(b"\n") else content
    if not FIT.fullmatch(key):
        raise Unfit(
            f"the key in {path} can't be compiled into a kernel: it must be 16 to 64 letters, digits, and characters "
            "of . _ + / = -; write another key, or remove the file, and the next run makes a new key"
        )
    return key, stat.S_IMODE(status.st_mode)


def make(path: str) -> None:
    """Write a new key atomically, unless another run has made one meanwhile."""
    with files.replacing(path, 0o600, opened=files.open_unchecked, first=True) as stream:
        stream.write(secrets.token_urlsafe(BYTES).encode("ascii") + b"\n")


def ensure(path: str, check: bool) -> tuple[str, bool, str]:
    """Return (the key's mark, whether the file was changed or, with `check`, would be, a warning or "")."""
    made = False
    try:
        key, mode = read(path)
    except FileNotFoundError:
        if check:
            return "", True, ""
        make(path)
        made = True
        key, mode = read(path)
    if not mode & 0o077:
        return mark(key), made, ""
    if not check:
        os.chmod(path, 0o600)
    return mark(key), True, f"others could read {path}; if they may have, remove it, and the next run makes a new key"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    path = module.params["path"]
    try:
        with acting_as(module.params["user"]):
            found, changed, warning = ensure(path, module.check_mode)
    except KeyError:
        if module.check_mode:
            # Check mode: role lab would have made the account.
            module.exit_json(changed=True, mark="")
        module.fail_json(msg=f"there is no account '{module.params['user']}'; set rumplab_user")
    except (Unfit, OSError) as error:
        module.fail_json(msg=str(error) if isinstance(error, Unfit) else f"{path}: {error.strerror}")
    if warning:
        module.warn(warning)
    module.exit_json(changed=changed, mark=found)


if __name__ == "__main__":
    main()
