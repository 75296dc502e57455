#!/usr/bin/python
"""Ansible module: changes to a host outside the prefix, recorded before they are made, and their undoing."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_entries
short_description: Changes to a host that can be taken back
description:
  - Makes files, lines in files of others, groups, memberships and dpkg's permission overrides, and enters each into the
    manifest first, so that a run which is killed in between leaves nothing that uninstall doesn't know.
  - With C(state=absent), takes back everything of these kinds that the manifest lists, but for groups and for files
    that somebody has changed since.
options:
  manifest: {description: "The manifest.", type: path, required: true}
  user: {description: "Whom the manifest belongs to.", type: str, required: true}
  state: {description: "Make, or take back.", type: str, choices: [present, absent], default: present}
  changes: {description: "What to make, each with C(kind), C(name) and what the kind needs.", type: list,
            elements: dict, default: []}
author: rumplab
"""

EXAMPLES = r"""
- name: Let a group read the rules
  rumplab.lab.host_entries:
    manifest: /opt/rumplab/var/manifest.json
    user: alice
    changes:
      - {kind: line, name: /etc/qemu/bridge.conf, line: allow rumplab0, mode: "0640", group: rumplab}
"""

RETURN = r"""
done: {description: "What was made or taken back, as kind and name.", type: list, returned: success}
kept: {description: "Files that somebody has changed since, which stay.", type: list, returned: success}
"""

import subprocess
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host import entries
from ..module_utils.host.files import make_directory, missing_parents, told
from ..module_utils.host.record import Entry, entries_of, record


def present(params: Mapping[str, Any], check: bool) -> list[Entry]:
    """Make what isn't there yet; return it."""
    done = []
    for change in params["changes"]:
        manifest = entries_of(params["manifest"])
        if entries.is_made(change, manifest):
            continue
        done.append(change)
        if check:
            continue
        parents = missing_parents(change["name"]) if change["kind"] in ("file", "line") else []
        new = [{"kind": "path", "name": parent} for parent in parents] + entries.entries(change, manifest)
        record(params["manifest"], new, params["user"])
        for parent in parents:
            make_directory(parent)
        entries.make(change, manifest)
    return done


def absent(params: Mapping[str, Any], check: bool) -> tuple[list[Entry], list[str]]:
    """Take back what is there still; return (that, what stays)."""
    manifest = entries_of(params["manifest"])
    done = []
    for entry in entries.undoable(manifest):
        # Undoing one may have undone another.
        if entries.is_there(entry, manifest):
            done.append(entry)
            if not check:
                entries.undo(entry)
    return done, entries.kept(manifest)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "manifest": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
            "changes": {"type": "list", "elements": "dict", "default": []},
        },
        supports_check_mode=True,
    )
    kept: list[str] = []
    try:
        if module.params["state"] == "present":
            done = present(module.params, module.check_mode)
        else:
            done, kept = absent(module.params, module.check_mode)
    except (KeyError, OSError, ValueError, subprocess.SubprocessError) as error:
        module.fail_json(msg=told(error))
    module.exit_json(changed=bool(done), done=[f"{entry['kind']} {entry['name']}" for entry in done], kept=kept)


if __name__ == "__main__":
    main()
