#!/usr/bin/python
"""Ansible module: fetch, build and install one pinned artefact."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Fetch, build and install one pinned artefact
description:
  - Fetches, verifies, unpacks, edits, builds and installs a source below a prefix, as an unprivileged user. The module
    holds the artefact's lock from start to end. Role C(artifact) documents the options and sets them.
options:
  name: {description: "The artefact's name.", type: str, required: true}
  version: {description: "The wanted version.", type: str, required: true}
  licence: {description: "SPDX identifier.", type: str, required: true}
  prefix: {description: "The lab's prefix.", type: path, required: true}
  user: {description: "The account that fetches, builds and owns the tree.", type: str, required: true}
  source: {description: "The pin.", type: dict, required: true}
  substitute: {description: "The declared substitute; empty for none.", type: dict, default: {}}
  edits: {description: "Source edits.", type: list, elements: dict, default: []}
  build: {description: "The recipe.", type: dict, default: {}}
  files: {description: "Files to add to the tree.", type: list, elements: dict, default: []}
  paths: {description: "Paths in the tree, by logical name.", type: dict, default: {}}
  needs: {description: "Stamps of other artefacts that the recipe uses, by name. A substitute may have its own C(build)
          and C(needs).", type: dict, default: {}}
  stamps: {description: "The stamps of the tree from upstream and of the tree from the substitute.", type: dict,
           required: true}
  host: {description: "Requirements on the host: C(system), C(machine), C(glibc); C(instead) tells the user of any
         other host what to do.", type: dict, default: {}}
  space: {description: "MiB that must be free before a build starts. The source may unpack to at most this size.",
          type: int, default: 16}
  mirror: {description: "A directory or URL that holds the same files.", type: str, default: ''}
  candidates: {description: "The kinds of source to try, in order.", type: list, elements: str, required: true}
  strict: {description: "Fail instead of using a substitute or deferring.", type: bool, default: false}
  retry: {description: "Try the upstream again although a substitute is installed.", type: bool, default: false}
  retry_after: {description: "Seconds after a deferral during which later runs don't try again.", type: int, default: 0}
  request: {description: "A hash of everything that a deferral depends on; the descriptor records it with a deferral.",
            type: str, default: ''}
  built_cache: {description: "A directory of built trees.", type: str, default: ''}
  blocked: {description: "The reason why the host can't build now (it lacks build dependencies), or empty.",
            type: str, default: ''}
  only: {description: "C(source) fetches the source into the cache and stops. The role installs build dependencies only
         after this has succeeded.", type: str, default: '', choices: ['', source]}
  generations: {description: "The number of trees to keep.", type: int, default: 2}
  jobs: {description: "The number of jobs that a build may run; 0 is the number of cores.", type: int, default: 0}
  credentials: {description: "A file in netrc(5) format with the passwords of servers.", type: str, default: ''}
  lock_wait: {description: "Seconds to wait for another run.", type: float, default: 1800}
  fetch_timeout: {description: "Seconds without a byte after which a server counts as unreachable.",
                  type: float, default: 30}
  build_timeout: {description: "Seconds after which the module ends a build.", type: float, default: 7200}
author: rumplab
"""

EXAMPLES = r"""
- name: Provide the debugger
  rumplab.lab.artifact:
    name: gdb
    version: "13.2"
"""

RETURN = r"""
state: {description: "C(installed) or C(deferred); with O(only), also C(fetched), or C(lacking) when the host lacks a
        program that fetching needs.", type: str, returned: success}
tree: {description: "The tree in use.", type: str, returned: when installed}
reason: {description: "Why the artefact is deferred, or why a substitute is installed.", type: str, returned: always}
"""

from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.urls import open_url

from ..module_utils.artifact import credentials
from ..module_utils.artifact.errors import Broken
from ..module_utils.artifact.pipeline import provide
from ..module_utils.artifact.privilege import as_user
from ..module_utils.artifact.request import Request

OPTIONS: dict[str, dict[str, Any]] = {
    "name": {"type": "str", "required": True},
    "version": {"type": "str", "required": True},
    "licence": {"type": "str", "required": True},
    "prefix": {"type": "path", "required": True},
    "user": {"type": "str", "required": True},
    "source": {"type": "dict", "required": True},
    "substitute": {"type": "dict", "default": {}},
    "edits": {"type": "list", "elements": "dict", "default": []},
    "build": {"type": "dict", "default": {}},
    "files": {"type": "list", "elements": "dict", "default": []},
    "paths": {"type": "dict", "default": {}},
    "needs": {"type": "dict", "default": {}},
    "stamps": {"type": "dict", "required": True},
    "host": {"type": "dict", "default": {}},
    "space": {"type": "int", "default": 16},
    "mirror": {"type": "str", "default": ""},
    "candidates": {"type": "list", "elements": "str", "required": True},
    "strict": {"type": "bool", "default": False},
    "retry": {"type": "bool", "default": False},
    "retry_after": {"type": "int", "default": 0},
    "request": {"type": "str", "default": ""},
    "built_cache": {"type": "str", "default": ""},
    "blocked": {"type": "str", "default": ""},
    "only": {"type": "str", "default": "", "choices": ["", "source"]},
    "generations": {"type": "int", "default": 2},
    "jobs": {"type": "int", "default": 0},
    "credentials": {"type": "str", "default": ""},
    "lock_wait": {"type": "float", "default": 1800},
    "fetch_timeout": {"type": "float", "default": 30},
    "build_timeout": {"type": "float", "default": 7200},
}


def open_with_ansible(url: str, timeout: float) -> Any:
    """Open a URL as Ansible does: use the host's proxies, netrc and certificates, and follow redirects.

    It doesn't decompress: a server may declare a .tar.gz as gzip-encoded, and the pinned hash is that of the .tar.gz.
    """
    clean, pair = credentials.split(url)
    # unredirected_headers: a redirect to another server must not send that server this one's password.
    more = (
        {"headers": {"Authorization": credentials.header(pair)}, "unredirected_headers": ["Authorization"]}
        if pair
        else {}
    )
    return open_url(clean, timeout=timeout, follow_redirects="safe", http_agent="rumplab", decompress=False, **more)


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec=OPTIONS, supports_check_mode=True)
    if module.check_mode:
        module.exit_json(changed=True, state="unknown", tree=None, reason=None)
    request = Request.of(module.params)
    try:
        # Before the change of user: upstreams' code runs as the lab user, which must not read the passwords.
        credentials.load(module.params["credentials"])
    except Broken as error:
        module.fail_json(msg=f"{request.name}: {error}")
    answer = as_user(module.params["user"], lambda: provide(request, open_with_ansible))
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
