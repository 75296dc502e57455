#!/usr/bin/python
"""Ansible module: finish an installation or removal after the package manager was killed."""

from __future__ import annotations

DOCUMENTATION = r"""
module: finished_packages
short_description: Finish an installation or removal after the package manager was killed
description:
  - After dpkg was killed, apt refuses to install or remove anything until C(dpkg --configure -a) has run. The module
    runs this command when dpkg needs it. Other package managers recover by themselves.
options:
  manager: {description: "The host's package manager, as in the fact pkg_mgr.", type: str, required: true}
  take_back: {description: "Packages to purge at once if dpkg can't finish them; the caller removes them anyway.",
              type: list, elements: str, default: []}
author: rumplab
"""

EXAMPLES = r"""
- name: Finish the installation that was killed
  rumplab.lab.finished_packages:
    manager: apt
"""

RETURN = r"""
taken_back: {description: "The partly installed packages that were purged.", type: list, returned: success}
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text
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
        module.fail_json(msg=f"{manager}: {error_text(error)}")
    module.exit_json(changed=finished or bool(gone), taken_back=gone)


if __name__ == "__main__":
    main()
