#!/usr/bin/python
"""Ansible module: make the prefix, and the directories in it that root makes for the lab user."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_directories
short_description: Make the prefix and its first directories
description:
  - Makes directories that root gives to the lab user, with exactly the given modes, whatever the umask. Unlike C(file),
    it works on open descriptors, since the lab user could replace a name meanwhile, and follows no link below the
    prefix.
options:
  prefix: {description: "The lab's prefix.", type: path, required: true}
  user: {description: "The directories' owner.", type: str, required: true}
  directories: {description: "The directories, parents first, each with C(path) below the prefix (empty for the prefix
                itself) and C(mode).", type: list, elements: dict, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Make the prefix
  rumplab.lab.lab_directories:
    prefix: /opt/rumplab
    user: rumplab
    directories:
      - {path: "", mode: "0755"}
      - {path: /etc, mode: "0755"}
"""

RETURN = r"""
made: {description: "The directories that were made, or whose owner or mode was changed.", type: list,
       returned: success}
"""

import os
import stat
from collections.abc import Sequence

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import DIRECTORY, account_of, error_text, make_directory, open_directory


def open_below(prefix: str, inside: str) -> int:
    """Open a directory below the prefix without following a link; the caller closes it. ValueError at a link."""
    here = open_directory(prefix)
    for name in filter(None, inside.split("/")):
        try:
            following = os.open(name, DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
        except NotADirectoryError as error:
            raise ValueError(f"{prefix}{inside} is a link or a file; remove it, and run ./provision again") from error
        finally:
            os.close(here)
        here = following
    return here


def set_owner_and_mode(handle: int, uid: int, mode: int, check: bool) -> bool:
    """Give an open directory to the user, with this mode; True if that changes something."""
    status = os.fstat(handle)
    if status.st_uid == uid and stat.S_IMODE(status.st_mode) == mode:
        return False
    if not check:
        if status.st_uid != uid:
            os.fchown(handle, uid, -1)
        os.fchmod(handle, mode)
    return True


def ensure(prefix: str, directories: Sequence[dict[str, str]], uid: int, check: bool) -> list[str]:
    """Make or correct the directories; return the paths that were changed."""
    made = []
    for entry in directories:
        path, mode = prefix + entry["path"], int(entry["mode"], 8)
        if not os.path.lexists(path):
            made.append(path)
            if check:
                continue
            make_directory(path, mode)
        handle = open_below(prefix, entry["path"])
        try:
            if set_owner_and_mode(handle, uid, mode, check) and path not in made:
                made.append(path)
        finally:
            os.close(handle)
    return made


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "directories": {"type": "list", "elements": "dict", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    account = account_of(params["user"])
    if account is None:
        module.fail_json(msg=f"there is no account '{params['user']}'; set rumplab_user")
        return
    try:
        made = ensure(params["prefix"], params["directories"], account.pw_uid, module.check_mode)
    except (OSError, ValueError) as error:
        module.fail_json(msg=error_text(error))
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
