#!/usr/bin/python
"""Ansible module: a file in the lab, which belongs to the lab user though root may write it."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_file
short_description: A file in the lab
description:
  - Writes a file below the prefix, whole or not at all, and gives it to the lab user. Unlike C(copy), it never works by
    name on what the lab user could exchange meanwhile.
options:
  path: {description: "The file; its directory is there.", type: path, required: true}
  content: {description: "What it is to hold.", type: str, required: true}
  user: {description: "Whom it belongs to.", type: str, required: true}
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

from ..module_utils.host.files import owner_for, parent_of, read_text, told, write_text

MODE = 0o644


def current(path: str) -> str:
    """Return what the file holds; nothing where there is none, or something that isn't a file or isn't text."""
    try:
        return read_text(path) or ""
    except (FileNotFoundError, ValueError):
        return ""


def is_right(path: str, content: str, owner: tuple[int, int] | None) -> bool:
    """Whether the file holds this and belongs to the owner, with the mode that it should have."""
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
        module.fail_json(msg=f"{path}: {told(error)}")
    module.exit_json(changed=changed, path=path, diff=diff if changed else {})


if __name__ == "__main__":
    main()
