#!/usr/bin/python
"""Ansible module: finish what a package manager that was killed had begun."""

from __future__ import annotations

DOCUMENTATION = r"""
module: finished_packages
short_description: Finish what a killed package manager had begun
description:
  - After dpkg was killed, apt installs and removes nothing until C(dpkg --configure -a) has run. This runs it where it
    is called for. Other package managers recover by themselves.
options:
  manager: {description: "The host's package manager, as in the fact pkg_mgr.", type: str, required: true}
  take_back: {description: "Packages that are going to be removed, and go at once if they can't be finished.",
              type: list, elements: str, default: []}
author: rumplab
"""

EXAMPLES = r"""
- name: Finish what a killed run began
  rumplab.lab.finished_packages:
    manager: apt
"""

RETURN = r"""
taken_back: {description: "What was removed half done.", type: list, returned: success}
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import told
from ..module_utils.host.packages import finish, half_done, take_back


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "manager": {"type": "str", "required": True},
            "take_back": {"type": "list", "elements": "str", "default": []},
        },
        supports_check_mode=True,
    )
    manager, names = module.params["manager"], module.params["take_back"]
    try:
        if module.check_mode:
            module.exit_json(changed=bool(half_done(manager)), taken_back=[])
        finished = finish(manager)
        gone = take_back(manager, names)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"{manager}: {told(error)}")
    module.exit_json(changed=finished or bool(gone), taken_back=gone)


if __name__ == "__main__":
    main()
