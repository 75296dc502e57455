#!/usr/bin/python
"""Ansible module: make changes to a host outside the prefix, or undo them; the manifest records each beforehand."""

from __future__ import annotations

DOCUMENTATION = r"""
module: host_entries
short_description: Make changes to a host that can be undone
description:
  - Makes files, lines in files of other packages, groups, memberships and dpkg's permission overrides. Records each in
    the manifest before making it, so that uninstalling also undoes the changes of a run that was killed.
  - With C(state=absent), undoes every change of these kinds that the manifest lists, except groups and files that
    somebody has changed since.
options:
  manifest: {description: "The manifest.", type: path, required: true}
  user: {description: "The manifest's owner.", type: str, required: true}
  state: {description: "C(present) makes the changes, C(absent) undoes them.", type: str, choices: [present, absent],
          default: present}
  changes: {description: "The changes, each with C(kind), C(name) and the keys that its kind needs.", type: list,
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
done: {description: "The changes that were made or undone, as kind and name.", type: list, returned: success}
kept: {description: "Files that were kept because somebody has changed them.", type: list, returned: success}
"""

import subprocess
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host import entries
from ..module_utils.host.files import error_text, make_directory, missing_parents
from ..module_utils.host.record import Entry, entries_of, record


def present(params: Mapping[str, Any], check: bool) -> list[Entry]:
    """Make the changes that aren't made yet; return those."""
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
    """Undo the changes that are still in place; return (undone changes, kept files)."""
    manifest = entries_of(params["manifest"])
    done = []
    for entry in entries.undoable(manifest):
        # Undoing an earlier entry (a whole file) may have undone this one (a line in it).
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
        module.fail_json(msg=error_text(error))
    module.exit_json(changed=bool(done), done=[f"{entry['kind']} {entry['name']}" for entry in done], kept=kept)


if __name__ == "__main__":
    main()
