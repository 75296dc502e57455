#!/usr/bin/python
"""Ansible module: which of our packages can go without taking somebody else's along."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removable_packages
short_description: Which packages can be removed without taking others along
description:
  - Of a list of packages, tells those that can go from those that another package on the host has come to need.
options:
  manager: {description: "The host's package manager, as in the fact pkg_mgr.", type: str, required: true}
  names: {description: "Packages that are to be removed.", type: list, elements: str, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: See what can go
  rumplab.lab.removable_packages:
    manager: apt
    names: [qemu-system-x86]
"""

RETURN = r"""
removable: {description: "What can go.", type: list, returned: success}
kept: {description: "What others have come to need.", type: list, returned: success}
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import told
from ..module_utils.host.packages import removable


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "manager": {"type": "str", "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
        },
        supports_check_mode=True,
    )
    manager = module.params["manager"]
    try:
        going, kept = removable(manager, module.params["names"])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"{manager}: {told(error)}")
    module.exit_json(changed=False, removable=going, kept=kept)


if __name__ == "__main__":
    main()
