#!/usr/bin/python
"""Ansible module: write a file in the lab, as root if need be, and give it to the lab user."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_file
short_description: Write a file in the lab
description:
  - Writes a file below the prefix atomically and gives it to the lab user. Unlike C(copy), it works on open
    descriptors, since the lab user could replace a name meanwhile.
options:
  path: {description: "The file; its directory must exist.", type: path, required: true}
  content: {description: "The file's content.", type: str, required: true}
  user: {description: "The file's owner.", type: str, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Describe the lab
  rumplab.lab.lab_file:
    path: /opt/rumplab/etc/rumplab.json
    content: "{}"
    user: rumplab
"""

RETURN = r"""
path: {description: "The file.", type: str, returned: always}
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text, owner_for, parent_of, read_text, write_text

MODE = 0o644


def current(path: str) -> str:
    """Return the file's content, or "" if there is no such file, or it isn't a plain file of text."""
    try:
        return read_text(path) or ""
    except (FileNotFoundError, ValueError):
        return ""


def is_right(path: str, content: str, owner: tuple[int, int] | None) -> bool:
    """Return whether the file has this content, this owner and MODE."""
    try:
        with parent_of(path) as (directory, name):
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except OSError:
        return False
    if status.st_mode & 0o7777 != MODE or (owner and status.st_uid != owner[0]):
        return False
    return current(path) == content


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "content": {"type": "str", "required": True},
            "user": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    path, content = module.params["path"], module.params["content"]
    try:
        owner = owner_for(module.params["user"])
        changed = not is_right(path, content, owner)
        diff = {"before": current(path), "after": content, "before_header": path, "after_header": path}
        if changed and not module.check_mode:
            write_text(path, content, MODE, owner)
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"{path}: {error_text(error)}")
    module.exit_json(changed=changed, path=path, diff=diff if changed else {})


if __name__ == "__main__":
    main()
