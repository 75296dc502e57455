#!/usr/bin/python
"""Ansible module: remove links into the lab, and the directories made for them unless they hold other files."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_paths
short_description: Remove links into the lab and the directories made for them
description:
  - Removes symbolic links, and directories that are empty by then, in the given order. Keeps everything else.
options:
  paths: {description: "The paths from the manifest, the newest first.", type: list, elements: path, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Remove the launcher
  rumplab.lab.host_paths:
    paths: [/usr/local/bin/rumplab]
"""

RETURN = r"""
removed: {description: "The paths that were removed.", type: list, returned: success}
kept: {description: "The paths that were kept because they hold something else.", type: list, returned: success}
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text, parent_of


def removable(paths: list[str]) -> tuple[list[str], list[str]]:
    """Return (paths to remove, paths to keep), without those that don't exist.

    A directory is to be removed when everything in it stands before it among the paths to remove.
    """
    going: list[str] = []
    kept: list[str] = []
    for path in paths:
        if os.path.islink(path):
            going.append(path)
        elif os.path.isdir(path):
            left = {os.path.join(path, name) for name in os.listdir(path)} - set(going)
            (kept if left else going).append(path)
        elif os.path.lexists(path):
            kept.append(path)
    return going, kept


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={"paths": {"type": "list", "elements": "path", "required": True}}, supports_check_mode=True
    )
    try:
        going, kept = removable(module.params["paths"])
        if not module.check_mode:
            for path in going:
                with parent_of(path) as (parent, name):
                    if os.path.islink(path):
                        os.unlink(name, dir_fd=parent)
                    else:
                        os.rmdir(name, dir_fd=parent)
    except (OSError, ValueError) as error:
        module.fail_json(msg=error_text(error))
    module.exit_json(changed=bool(going), removed=going, kept=kept)


if __name__ == "__main__":
    main()
