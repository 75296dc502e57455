#!/usr/bin/python
"""Ansible module: the key that a kernel with IPKDB and its debugger share."""

from __future__ import annotations

DOCUMENTATION = r"""
module: ipkdb_key
short_description: The key that a kernel with IPKDB and its debugger share
description:
  - Makes the key's file where there is none, and otherwise sees to it that a kernel can have that key and that nobody
    but its owner may read it. The key itself is never told, to Ansible's logs or anybody.
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
mark: {description: "Another string for another key, from which the key can't be told; empty in check mode where there
       is none yet.", type: str, returned: success}
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
# What goes through config(1) and C as it is. The kernel drops IPKDB when its key is shorter than 16 bytes, and hashes
# one of more than 64 before it uses it.
FIT = re.compile(rb"[A-Za-z0-9._+/=-]{16,64}")
BYTES = 24
MOST = 4096
SALT = b"rumplab: which key of IPKDB"
ROUNDS = 200_000


class Unfit(Exception):
    """The file that is there can't be the key; the message says why, and what to do."""


@contextlib.contextmanager
def acting_as(user: str) -> Iterator[None]:
    """Does what follows with the rights of `user`, where this process is root: the directory is that user's own."""
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
    """Return what tells this key from another. A key that somebody has thought of can't be guessed from it quickly."""
    return hashlib.pbkdf2_hmac("sha256", key, SALT, ROUNDS).hex()


def read(path: str) -> tuple[bytes, int]:
    """Return the key in the file, without a newline at its end, and the file's mode. Unfit; FileNotFoundError."""
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(handle, "rb") as stream:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise Unfit(f"{path} is no file of the lab user: remove it, and a new key is made")
        content = stream.read(MOST)
    key = content[:-1] if content.endswith(b"\n") else content
    if not FIT.fullmatch(key):
        raise Unfit(
            f"the key in {path} can't be compiled into a kernel: it is to be 16 to 64 letters, digits, and characters "
            "of . _ + / = -; write such a one, or remove the file, and a new key is made"
        )
    return key, stat.S_IMODE(status.st_mode)


def make(path: str) -> None:
    """Write a new key, whole or not at all, unless another run has made one meanwhile."""
    with files.replacing(path, 0o600, opened=files.open_as_it_stands, first=True) as stream:
        stream.write(secrets.token_urlsafe(BYTES).encode("ascii") + b"\n")


def ensure(path: str, check: bool) -> tuple[str, bool, str]:
    """Return the key's mark, whether the file was changed, or would be with `check`, and a warning, or empty."""
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
    return mark(key), True, f"others could read {path}: remove it if they may have, and a new key is made"


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    path = module.params["path"]
    try:
        with acting_as(module.params["user"]):
            found, changed, warning = ensure(path, module.check_mode)
    except KeyError:
        if module.check_mode:
            # The account that role lab would have made.
            module.exit_json(changed=True, mark="")
        module.fail_json(msg=f"there is no account '{module.params['user']}': set rumplab_user")
    except (Unfit, OSError) as error:
        module.fail_json(msg=str(error) if isinstance(error, Unfit) else f"{path}: {error.strerror}")
    if warning:
        module.warn(warning)
    module.exit_json(changed=changed, mark=found)


if __name__ == "__main__":
    main()
