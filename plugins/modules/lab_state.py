#!/usr/bin/python
"""Ansible module: return the state of a lab, everything that a run needs to know before its first change."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_state
short_description: Return the state of a lab in one call
description:
  - A module call takes a fifth of a second. One call for the whole lab is faster than one for each part, which a run
    with nothing to do would otherwise make.
options:
  prefix: {description: "The lab's prefix.", type: path, required: true}
  link: {description: "A link on the host; the module returns its target.", type: path, required: true}
  inputs: {description: "The hash of a whole run's inputs (lookup C(lab_inputs)), or empty.", type: str, default: ''}
  settle: {description: "The value of C(state) when a whole run began. If C(state) still has this value at the end of
           the run, the module records the inputs and the state.", type: str, default: ''}
  user: {description: "The owner of that record.", type: str, default: ''}
author: rumplab
"""

EXAMPLES = r"""
- name: Look at the lab
  rumplab.lab.lab_state:
    prefix: /opt/rumplab
    link: /usr/local/bin/rumplab
"""

RETURN = r"""
prefix: {description: "The prefix.", type: str, returned: always}
description: {description: "SHA-1 of etc/rumplab.json, or empty.", type: str, returned: always}
recorded: {description: "Whether the manifest and its copy exist, can be read, and are the same.", type: bool,
           returned: always}
user: {description: "The lab user that etc/rumplab.json names, or empty.", type: str, returned: always}
link: {description: "The target of the link, or empty.", type: str, returned: always}
trees: {description: "SHA-1 of NAME/.complete, by name, of the trees in use. A tree is left out if its newer version is
        deferred, if a killed run has left unfinished work on it, or if the size or time of a described file differs.",
        type: dict, returned: always}
settled: {description: "Whether an earlier whole run with these inputs and this state ended well and changed nothing.",
          type: bool, returned: always}
inputs: {description: "The option C(inputs).", type: str, returned: always}
state: {description: "A hash of the other values, the descriptors and the manifest.", type: str, returned: always}
deferred: {description: "The C(request) of each deferral that isn't due yet, by component.", type: dict,
           returned: always}
network: {description: "A hash of the host's default routes, name servers and proxies.", type: str, returned: always}
components: {description: "The C(request) of each component from the host's packages, by component, if its programs are
             still those that were described.", type: dict, returned: always}
"""

import hashlib
import json
import os
import time
from collections.abc import Mapping
from typing import Any

from ansible.module_utils.basic import AnsibleModule

from ..module_utils.host.files import (
    account_of,
    fingerprints,
    moment,
    program,
    read_json,
    write_json,
)
from ..module_utils.host.plain import DAMAGED, plain

PROXIES = ("http_proxy", "https_proxy", "no_proxy", "all_proxy")


def checksum(path: str) -> str:
    """Return the SHA-1 of a file's content, in hex, or "" if there is no such file."""
    try:
        with open(path, "rb", opener=plain) as stream:
            return hashlib.sha1(stream.read()).hexdigest()
    except OSError:
        return ""


def recorded_user(path: str) -> str:
    """Return the lab user that etc/rumplab.json names, or "" if it can't be read or names no account."""
    try:
        with open(path, encoding="utf-8", opener=plain) as stream:
            user = str(json.load(stream)["user"])
        # A damaged description may name no account.
        return user if account_of(user) else ""
    except (OSError, *DAMAGED):
        return ""


def names(path: str) -> list[str]:
    """Return the sorted names in a directory, [] if there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def descriptors(directory: str) -> dict[str, dict[str, Any]]:
    """Return the descriptors by component, without those that can't be read; the run writes these again."""
    found = {}
    for name in names(directory):
        try:
            with open(os.path.join(directory, name), encoding="utf-8", opener=plain) as stream:
                described = json.load(stream)
            found[str(described["name"])] = described
        except (OSError, *DAMAGED):
            continue
    return found


def is_intact(described: dict[str, Any]) -> bool:
    """Return whether a component from the host's packages is installed, with the programs that were described."""
    try:
        return described["state"] == "installed" and fingerprints(described["paths"]) == described["fingerprints"]
    except (OSError, *DAMAGED):
        return False


def is_outdated(described: dict[str, Any]) -> bool:
    """Return whether an older tree is in use because the wanted one is deferred."""
    return str(described.get("reason")).startswith("deferred:")


def is_left_alone(described: dict[str, Any], now: str) -> bool:
    """Return whether a component's deferral isn't due yet.

    It is due after `until`, when a path or program in `awaited` exists, and when the clock was set back before `tried`.
    """
    try:
        deferral = described["deferral"]
        come = [place for place in deferral.get("awaited", []) if os.path.exists(place) or program(place)]
        return bool(deferral["request"]) and deferral["tried"] <= now < deferral["until"] and not come
    except (OSError, *DAMAGED):
        return False


def unfinished(prefix: str) -> list[str]:
    """Return the names of the artefacts and partial trees that a killed run left, or that another run works on."""
    work = names(os.path.join(prefix, "work")) + names(f"/var/tmp/rumplab-work-{os.stat(prefix).st_uid}")
    return work + [tree[1:] for tree in names(os.path.join(prefix, "store")) if tree.startswith(".")]


def is_finished(name: str, left: list[str]) -> bool:
    """Return whether no unfinished work on this artefact is in `left`."""
    return not any(one == name or one.startswith(f"{name}-") for one in left)


def default_routes(routes: str) -> list[str]:
    """Return interface and gateway of each default route, from the text of /proc/net/route."""
    lines = [line.split() for line in routes.splitlines()[1:]]
    return sorted(f"{line[0]} {line[2]}" for line in lines if len(line) > 2 and line[1] == "00000000")


def network_hash(routes: str, resolver: str, environment: Mapping[str, str]) -> str:
    """Return a hash of the host's default routes, name servers and proxies.

    A deferral depends on it: a run on another network tries again at once.
    """
    servers = [line.split()[1:] for line in resolver.splitlines() if line.startswith("nameserver")]
    proxies = [environment.get(name) or environment.get(name.upper()) or "" for name in PROXIES]
    text = json.dumps([default_routes(routes), servers, proxies])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content(path: str) -> str:
    """Return a text file's content, or "" if there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def is_sound(described: dict[str, Any]) -> bool:
    """Return whether the wanted tree is installed, with the files that were described."""
    try:
        marks = described["fingerprints"]
        files = {name: described["paths"][name] for name in marks}
        there = all(os.path.exists(path) for path in described["paths"].values())
        whole = there and fingerprints(files) == marks
        return described["state"] == "installed" and not is_outdated(described) and whole
    except (OSError, *DAMAGED):
        return False


def is_recorded(prefix: str) -> bool:
    """Return whether the manifest and its copy can be read and are the same."""
    texts = []
    for directory in ("var", "etc"):
        try:
            path = os.path.join(prefix, directory, "manifest.json")
            with open(path, encoding="utf-8", opener=plain) as stream:
                texts.append(stream.read())
            json.loads(texts[-1])["entries"]
        except (OSError, *DAMAGED):
            return False
    return texts[0] == texts[1]


def found(prefix: str, link: str) -> dict[str, Any]:
    """Return the module's values for the lab at `prefix`."""
    described = descriptors(os.path.join(prefix, "etc", "components.d"))
    trees = {name: checksum(os.path.join(prefix, name, ".complete")) for name in names(prefix)}
    left = unfinished(prefix) if trees else []
    now = moment(time.time())
    return {
        "deferred": {name: one["deferral"]["request"] for name, one in described.items() if is_left_alone(one, now)},
        "network": network_hash(content("/proc/net/route"), content("/etc/resolv.conf"), os.environ),
        "prefix": prefix,
        "description": checksum(os.path.join(prefix, "etc", "rumplab.json")),
        "user": recorded_user(os.path.join(prefix, "etc", "rumplab.json")),
        "recorded": is_recorded(prefix),
        "link": os.readlink(link) if os.path.islink(link) else "",
        "trees": {
            name: stamp
            for name, stamp in trees.items()
            if stamp and is_finished(name, left) and is_sound(described.get(name, {}))
        },
        "components": {
            name: one["request"] for name, one in described.items() if one.get("request") and is_intact(one)
        },
    }


def state_of(prefix: str, values: Mapping[str, Any]) -> str:
    """Return a hash of the module's values, the descriptors and the manifest."""
    directory = os.path.join(prefix, "etc", "components.d")
    paths = [os.path.join(directory, name) for name in names(directory)]
    paths.append(os.path.join(prefix, "var", "manifest.json"))
    text = json.dumps([values, {path: checksum(path) for path in paths}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_settled(path: str, record: Mapping[str, str]) -> bool:
    """Return whether the file at `path` holds this record."""
    try:
        return bool(read_json(path, None) == record)
    except (OSError, *DAMAGED):
        return False


def main() -> None:
    """Run the module."""
    module = AnsibleModule(
        argument_spec={
            "prefix": {"type": "path", "required": True},
            "link": {"type": "path", "required": True},
            "inputs": {"type": "str", "default": ""},
            "settle": {"type": "str", "default": ""},
            "user": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    prefix, inputs = module.params["prefix"], module.params["inputs"]
    values = found(prefix, module.params["link"])
    record = {"inputs": inputs, "state": state_of(prefix, values)}
    path = os.path.join(prefix, "var", "settled.json")
    # This run has left the state as it was: the next run with the same inputs would change nothing either.
    if inputs and module.params["settle"] == record["state"] and not module.check_mode:
        try:
            write_json(path, record, module.params["user"])
        except (OSError, ValueError) as error:
            module.fail_json(msg=f"lab_state: {error}")
    module.exit_json(changed=False, settled=bool(inputs) and is_settled(path, record), **record, **values)


if __name__ == "__main__":
    main()
