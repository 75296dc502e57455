#!/usr/bin/python
"""Ansible module: describe a component that consists of programs from the host's packages."""

from __future__ import annotations

DOCUMENTATION = r"""
module: component
short_description: Describe a component that consists of programs from the host's packages
description:
  - Looks for the commands and files, writes the component's descriptor, and returns what is missing.
options:
  name: {description: "The component.", type: str, required: true}
  prefix: {description: "The lab's prefix.", type: path, required: true}
  user: {description: "The descriptor's owner.", type: str, required: true}
  request: {description: "A hash of the other options, by which a later run sees whether they have changed.",
            type: str, required: true}
  licence: {description: "SPDX identifier.", type: str, required: true}
  packages: {description: "The packages that the programs come from.", type: list, elements: str, default: []}
  commands: {description: "Programs that must exist.", type: list, elements: str, default: []}
  files: {description: "For each logical name, the paths at which its file or directory may be.", type: dict,
          default: {}}
  version_argv: {description: "A command; the first number in its output is the version.", type: list, elements: str,
                 required: true}
  require: {description: "Fail when something is missing.", type: bool, default: false}
  deferred: {description: "Why the packages can't be installed now. If something is missing, the module describes the
             component as deferred for this reason.", type: str, default: ''}
  deferral: {description: "A hash of everything that a deferral depends on; the descriptor records it with a deferral.",
             type: str, default: ''}
  retry_after: {description: "Seconds after a deferral during which later runs don't try again.", type: int, default: 0}
author: rumplab
"""

EXAMPLES = r"""
- name: Describe QEMU
  rumplab.lab.component:
    name: qemu
    prefix: /opt/rumplab
    user: alice
    request: "1"
    licence: GPL-2.0-only
    commands: [qemu-system-x86_64]
    version_argv: [qemu-system-x86_64, --version]
"""

RETURN = r"""
missing: {description: "The commands and logical names that were not found.", type: list, returned: success}
"""

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import error_text, fingerprints, moment, program, read_json, write_json


def locate(commands: list[str], files: Mapping[str, list[str]]) -> tuple[dict[str, str], list[str]]:
    """Return (paths by logical name, names without a path)."""
    found = {command: program(command) for command in commands}
    for name, places in files.items():
        found[name] = next((place for place in places if os.path.exists(place)), None)
    return {key: value for key, value in found.items() if value}, [key for key, value in found.items() if not value]


def version_of(argv: list[str], paths: Mapping[str, str]) -> str:
    """Return the first dotted number that the version command prints; ValueError when it prints none."""
    run = subprocess.run(
        [paths.get(argv[0], argv[0]), *argv[1:]],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=30,
        check=False,
    )
    match = re.search(r"\d+(?:\.\d+)+", run.stdout)
    if not match:
        raise ValueError(f"{' '.join(argv)} prints no version: {run.stdout.strip()[:200]}")
    return match.group()


def described(params: Mapping[str, Any], paths: dict[str, str], version: str | None) -> dict[str, Any]:
    """Return the descriptor without its times."""
    identity = json.dumps([params["name"], version, paths], sort_keys=True)
    deferred = params["deferred"]
    return {
        "schema": 1,
        "name": params["name"],
        "state": "deferred" if deferred else "installed",
        "version": version,
        "wanted": version,
        "stamp": hashlib.sha256(identity.encode()).hexdigest(),
        "source": None if deferred else "packages",
        "origin": ", ".join(params["packages"]),
        "licence": params["licence"],
        "tree": None,
        "paths": paths,
        "request": params["request"],
        "fingerprints": fingerprints(paths),
        "reason": deferred or None,
    }


def deferral(params: Mapping[str, Any], missing: list[str], now: float) -> dict[str, Any]:
    """Return the descriptor's `deferral`; a later run tries again after `until`, or when a path in `awaited` exists."""
    places = [place for name in missing for place in params["files"].get(name, [name])]
    return {
        "request": params["deferral"],
        "awaited": places,
        "tried": moment(now),
        "until": moment(now + params["retry_after"]),
    }


def former(path: str) -> dict[str, Any]:
    """Return the existing descriptor, or {} when it is missing or damaged, so that it is written again."""
    try:
        found = read_json(path, {})
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "prefix": {"type": "path", "required": True},
            "user": {"type": "str", "required": True},
            "request": {"type": "str", "required": True},
            "licence": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "default": []},
            "commands": {"type": "list", "elements": "str", "default": []},
            "files": {"type": "dict", "default": {}},
            "version_argv": {"type": "list", "elements": "str", "required": True},
            "require": {"type": "bool", "default": False},
            "deferred": {"type": "str", "default": ""},
            "deferral": {"type": "str", "default": ""},
            "retry_after": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    paths, missing = locate(params["commands"], params["files"])
    if missing and params["require"]:
        module.fail_json(
            msg=f"{params['name']}: {', '.join(params['packages'])} are installed, but these are missing: "
            f"{', '.join(missing)}; reinstall the packages"
        )
    if missing and not params["deferred"]:
        module.exit_json(changed=module.check_mode, missing=missing)
    if not missing:
        params["deferred"] = ""
    try:
        version = None if missing else version_of(params["version_argv"], paths)
        wanted = described(params, {} if missing else paths, version)
        path = os.path.join(params["prefix"], "etc", "components.d", f"{params['name']}.json")
        before = former(path)
        passing = ("installed", "deferral")
        changed = {key: value for key, value in before.items() if key not in passing} != wanted
        if (changed or missing) and not module.check_mode:
            times = (
                {"installed": None, "deferral": deferral(params, missing, time.time())}
                if missing
                else {"installed": moment(time.time())}
            )
            write_json(path, {**wanted, **times}, params["user"])
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        module.fail_json(msg=f"{params['name']}: {error_text(error)}")
    module.exit_json(changed=changed, missing=missing)


if __name__ == "__main__":
    main()
