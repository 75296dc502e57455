#!/usr/bin/python
"""Ansible module: all that a run asks about a lab before it does anything, in one call."""

from __future__ import annotations

DOCUMENTATION = r"""
module: lab_state
short_description: What stands under a lab's prefix, in one call
description:
  - A module call costs a fifth of a second, and a run with nothing to do would make one for every part of the lab.
options:
  prefix: {description: "The lab's prefix.", type: path, required: true}
  link: {description: "A link on the host whose target is told.", type: path, required: true}
  inputs: {description: "What stands for all that a run of everything is decided by, or empty.", type: str, default: ''}
  settle: {description: "What C(state) was when a run of everything began. If it is the same now that the run has ended
           well, that is recorded for these inputs.", type: str, default: ''}
  user: {description: "Whom that record belongs to.", type: str, default: ''}
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
recorded: {description: "Whether the manifest and its copy are there, can be read, and are the same.", type: bool,
           returned: always}
user: {description: "The lab user by that description, or empty where it names nobody.", type: str, returned: always}
link: {description: "The target of the link, or empty.", type: str, returned: always}
trees: {description: "SHA-1 of NAME/.complete, by name, of every tree in use that waits for no other, of which no killed
        run has left unfinished work, and whose files are those that were described, as far as a glance tells.",
        type: dict, returned: always}
settled: {description: "Whether a run of everything, for these inputs, once found what is found now, ended well and
          changed nothing of it.", type: bool, returned: always}
inputs: {description: "The inputs, as given.", type: str, returned: always}
state: {description: "Stands for all of the rest, and for what the descriptors and the manifest say.", type: str,
        returned: always}
deferred: {description: "What the deferrals were asked for, by component, of those that are to be left alone for a
           while yet.", type: dict, returned: always}
network: {description: "Stands for the host's way out: its default routes, name servers and proxies.", type: str,
          returned: always}
components: {description: "The requests that the host's own programs were described for, by component, where each
             program is still the one that was described.", type: dict, returned: always}
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
    """Return the SHA-1 of a file's content, in hex, or nothing where there is no such file."""
    try:
        with open(path, "rb", opener=plain) as stream:
            return hashlib.sha1(stream.read()).hexdigest()
    except OSError:
        return ""


def recorded_user(path: str) -> str:
    """Return whom a lab's description names, or nothing where there is none to read."""
    try:
        with open(path, encoding="utf-8", opener=plain) as stream:
            user = str(json.load(stream)["user"])
        # A description that was damaged names nobody.
        return user if account_of(user) else ""
    except (OSError, *DAMAGED):
        return ""


def names(path: str) -> list[str]:
    """Return the sorted names in a directory, none where there is no such directory."""
    try:
        return sorted(os.listdir(path))
    except OSError:
        return []


def descriptors(directory: str) -> dict[str, dict[str, Any]]:
    """Return the descriptors by component. One that can't be read is left out, and gets written anew."""
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
    """True when a component of the host's own programs is described, and none of them has changed since."""
    try:
        return described["state"] == "installed" and fingerprints(described["paths"]) == described["fingerprints"]
    except (OSError, *DAMAGED):
        return False


def waits(described: dict[str, Any]) -> bool:
    """True when a tree is in use only because the one that was wanted couldn't be had."""
    return str(described.get("reason")).startswith("deferred:")


def is_left_alone(described: dict[str, Any], now: str) -> bool:
    """True while a component's deferral is remembered: not before it was tried, nor once what it awaits has come."""
    try:
        deferral = described["deferral"]
        come = [place for place in deferral.get("awaited", []) if os.path.exists(place) or program(place)]
        return bool(deferral["request"]) and deferral["tried"] <= now < deferral["until"] and not come
    except (OSError, *DAMAGED):
        return False


def unfinished(prefix: str) -> list[str]:
    """Return what killed runs, or such as are at work, have in hand: names of artefacts, and of half-made trees."""
    work = names(os.path.join(prefix, "work")) + names(f"/var/tmp/rumplab-work-{os.stat(prefix).st_uid}")
    return work + [tree[1:] for tree in names(os.path.join(prefix, "store")) if tree.startswith(".")]


def is_finished(name: str, left: list[str]) -> bool:
    """True when nothing is left of an earlier run at this artefact."""
    return not any(one == name or one.startswith(f"{name}-") for one in left)


def default_routes(routes: str) -> list[str]:
    """Return interface and gateway of each default route, from the text of /proc/net/route."""
    lines = [line.split() for line in routes.splitlines()[1:]]
    return sorted(f"{line[0]} {line[2]}" for line in lines if len(line) > 2 and line[1] == "00000000")


def way_out(routes: str, resolver: str, environment: Mapping[str, str]) -> str:
    """Return what stands for the host's way out: whoever has plugged in a network doesn't wait for a deferral's end."""
    servers = [line.split()[1:] for line in resolver.splitlines() if line.startswith("nameserver")]
    proxies = [environment.get(name) or environment.get(name.upper()) or "" for name in PROXIES]
    text = json.dumps([default_routes(routes), servers, proxies])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def content(path: str) -> str:
    """Return a text file's content, or nothing where there is no such file."""
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def is_sound(described: dict[str, Any]) -> bool:
    """True when a tree is described, is the one that is wanted, and its files are still those that were described."""
    try:
        marks = described["fingerprints"]
        files = {name: described["paths"][name] for name in marks}
        there = all(os.path.exists(path) for path in described["paths"].values())
        return described["state"] == "installed" and not waits(described) and there and fingerprints(files) == marks
    except (OSError, *DAMAGED):
        return False


def is_recorded(prefix: str) -> bool:
    """True when the manifest and its copy are whole and the same."""
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
    """Return what stands under the prefix."""
    described = descriptors(os.path.join(prefix, "etc", "components.d"))
    trees = {name: checksum(os.path.join(prefix, name, ".complete")) for name in names(prefix)}
    left = unfinished(prefix) if trees else []
    now = moment(time.time())
    return {
        "deferred": {name: one["deferral"]["request"] for name, one in described.items() if is_left_alone(one, now)},
        "network": way_out(content("/proc/net/route"), content("/etc/resolv.conf"), os.environ),
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


def state_of(prefix: str, told: Mapping[str, Any]) -> str:
    """Return what stands for that, and for the files of the lab that a run of everything may write."""
    directory = os.path.join(prefix, "etc", "components.d")
    paths = [os.path.join(directory, name) for name in names(directory)]
    paths.append(os.path.join(prefix, "var", "manifest.json"))
    text = json.dumps([told, {path: checksum(path) for path in paths}], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def is_settled(path: str, record: Mapping[str, str]) -> bool:
    """True when a run has left that record."""
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
    told = found(prefix, module.params["link"])
    record = {"inputs": inputs, "state": state_of(prefix, told)}
    path = os.path.join(prefix, "var", "settled.json")
    # What a run of everything began with and left as it was, the next one would leave so too.
    if inputs and module.params["settle"] == record["state"] and not module.check_mode:
        try:
            write_json(path, record, module.params["user"])
        except (OSError, ValueError) as error:
            module.fail_json(msg=f"lab_state: {error}")
    module.exit_json(changed=False, settled=bool(inputs) and is_settled(path, record), **record, **told)


if __name__ == "__main__":
    main()
