#!/usr/bin/python
"""Ansible module: take away links, and directories that were made for them, where nobody else uses them."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_paths
short_description: Take away links into the lab and the directories made for them
description:
  - Removes symbolic links, and directories that are empty by then, in the order given. Anything else stays.
options:
  paths: {description: "What the manifest lists, the last made first.", type: list, elements: path, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Take the launcher away
  rumplab.lab.host_paths:
    paths: [/usr/local/bin/rumplab]
"""

RETURN = r"""
removed: {description: "What is gone.", type: list, returned: success}
kept: {description: "What somebody else uses.", type: list, returned: success}
"""

import os

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import parent_of, told


def sort_out(paths: list[str]) -> tuple[list[str], list[str]]:
    """Return (what can go, what stays) of those paths that exist; a directory goes when all in it goes before it."""
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
        going, kept = sort_out(module.params["paths"])
        if not module.check_mode:
            for path in going:
                with parent_of(path) as (parent, name):
                    if os.path.islink(path):
                        os.unlink(name, dir_fd=parent)
                    else:
                        os.rmdir(name, dir_fd=parent)
    except (OSError, ValueError) as error:
        module.fail_json(msg=told(error))
    module.exit_json(changed=bool(going), removed=going, kept=kept)


if __name__ == "__main__":
    main()
