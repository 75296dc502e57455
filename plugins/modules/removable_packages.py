#!/usr/bin/python
"""Ansible module: find the packages that can be removed without removing any other package."""

from __future__ import annotations

DOCUMENTATION = r"""
module: removable_packages
short_description: Find the packages that can be removed without removing any other
description:
  - Splits a list of packages into those that can be removed and those that another package on the host needs.
options:
  manager: {description: "The host's package manager, as in the fact pkg_mgr.", type: str, required: true}
  names: {description: "The packages to remove.", type: list, elements: str, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Find the packages that can be removed
  rumplab.lab.removable_packages:
    manager: apt
    names: [qemu-system-x86]
"""

RETURN = r"""
removable: {description: "The packages that can be removed.", type: list, returned: success}
kept: {description: "The packages that others need.", type: list, returned: success}
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text
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
        module.fail_json(msg=f"{manager}: {error_text(error)}")
    module.exit_json(changed=False, removable=going, kept=kept)


if __name__ == "__main__":
    main()
