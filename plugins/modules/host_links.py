#!/usr/bin/python
"""Ansible module: make links from the host's directories into the lab; the manifest records each beforehand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_links
short_description: Links from the host's directories into the lab
description:
  - Makes links and the directories they need. Records each in the manifest before making it, so that uninstalling also
    removes the links of a run that was killed.
options:
  directory: {description: "The host's directory.", type: path, required: true}
  target: {description: "The directory the links lead into.", type: path, required: true}
  links: {description: "Path below C(directory) to path below C(target).", type: dict, required: true}
  manifest: {description: "The manifest.", type: path, required: true}
  user: {description: "The manifest's owner.", type: str, required: true}
author: rumplab
"""

EXAMPLES = r"""
- name: Put the tool on PATH
  rumplab.lab.host_links:
    directory: /usr/local
    target: /opt/rumplab/rumplab
    links: {bin/rumplab: bin/rumplab}
    manifest: /opt/rumplab/var/manifest.json
    user: alice
"""

RETURN = r"""
made: {description: "The links and directories that were made.", type: list, returned: success}
"""

import os
from collections.abc import Mapping

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text, make_directory, missing_parents, point
from ..module_utils.host.record import record


def plan(directory: str, target: str, links: Mapping[str, str]) -> tuple[list[tuple[str, str]], list[str]]:
    """Return ([(link, target)] to make or change, [directories to make for them]).

    ValueError when a link's path already exists and isn't a link into a lab.
    """
    wrong, parents = [], []
    for name, inside in links.items():
        link, wanted = os.path.join(directory, name), os.path.join(target, inside)
        if os.path.islink(link) and os.readlink(link) == wanted:
            continue
        if os.path.lexists(link) and not (os.path.islink(link) and "/rumplab/" in os.readlink(link)):
            raise ValueError(f"{link} exists and isn't rumplab's: move it away, or set lab_host_directory")
        wrong.append((link, wanted))
        parents += [parent for parent in missing_parents(link) if parent not in parents]
    return wrong, parents


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "target": {"type": "path", "required": True},
            "links": {"type": "dict", "required": True},
            "manifest": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        wrong, parents = plan(params["directory"], params["target"], params["links"])
        made = parents + [link for link, _ in wrong]
        if made and not module.check_mode:
            record(params["manifest"], [{"kind": "path", "name": path} for path in made], params["user"])
            for parent in parents:
                make_directory(parent)
            for link, wanted in wrong:
                point(link, wanted)
    except (OSError, ValueError) as error:
        module.fail_json(msg=error_text(error))
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
