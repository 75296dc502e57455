#!/usr/bin/python
"""Ansible module: add to the manifest, the record of what was created outside the prefix."""

from __future__ import annotations

DOCUMENTATION = r"""
module: manifest
short_description: Record what rumplab creates on a host outside its prefix
description:
  - Adds entries to C(var/manifest.json) and its copy in C(etc). Uninstalling removes what the manifest lists, and
    nothing else.
  - Root acts on the manifest, so root must have written it. The module ignores a manifest or a copy that another user
    owns, and fails if it can use neither. If one of the two is lost or damaged, it writes both again.
options:
  path: {description: "The manifest.", type: path, required: true}
  user: {description: "The lab user.", type: str, required: true}
  entries: {description: "The new entries, each with C(kind) and C(name).", type: list, elements: dict, default: []}
  packages: {description: "C(remember) lists the installed packages and accounts before C(wanted) is installed, unless
             all of it is; C(settle) compares with that list and adds what is new; C(abandoned) does the same for the
             lists of runs that were killed.", type: str, choices: [remember, settle, abandoned]}
  wanted: {description: "The packages that the caller is going to install.", type: list, elements: str, default: []}
  list: {description: "The name that C(remember) returned.", type: str}
  manager: {description: "The package manager, as in the fact pkg_mgr.", type: str}
author: rumplab
"""

EXAMPLES = r"""
- name: Record the launcher
  rumplab.lab.manifest:
    path: /opt/rumplab/var/manifest.json
    user: alice
    entries: [{kind: path, name: /usr/local/bin/rumplab}]
"""

RETURN = r"""
added: {description: "The new entries.", type: list, returned: success}
listed: {description: "All entries.", type: list, returned: success}
list: {description: "The name of the list that C(remember) wrote; empty if C(wanted) is installed.", type: str,
       returned: success}
missing: {description: "The packages of C(wanted) that aren't installed.", type: list, returned: success}
"""

import subprocess

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text
from ..module_utils.host.packages import missing
from ..module_utils.host.record import (
    entries_of,
    record,
    remember_packages,
    settle_abandoned,
    settle_packages,
)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "entries": {"type": "list", "elements": "dict", "default": []},
            "packages": {"type": "str", "choices": ["remember", "settle", "abandoned"]},
            "wanted": {"type": "list", "elements": "str", "default": []},
            "list": {"type": "str"},
            "manager": {"type": "str"},
        },
        supports_check_mode=True,
        required_if=[("packages", "remember", ["manager"]), ("packages", "settle", ["list"])],
    )
    path, user, packages = module.params["path"], module.params["user"], module.params["packages"]
    manager, wanted = module.params["manager"], module.params["wanted"]
    added, listed, name, lacking = [], [], "", []
    try:
        if packages == "remember" and not module.check_mode:
            added += settle_abandoned(path, user)
            lacking = missing(manager, wanted)
            name = remember_packages(path, manager, wanted, user) if lacking else ""
        if packages == "settle" and not module.check_mode:
            added += settle_packages(path, module.params["list"], user)
        if packages == "abandoned" and not module.check_mode:
            added += settle_abandoned(path, user, older_than=0)
        added += record(path, module.params["entries"], user, check=module.check_mode)
        listed = entries_of(path)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"manifest: {error_text(error)}")
    module.exit_json(changed=bool(added), added=added, listed=listed, list=name, missing=lacking)


if __name__ == "__main__":
    main()
