#!/usr/bin/python
"""Ansible module: bring one pinned artefact from its pin to an installed tree."""

from __future__ import annotations

DOCUMENTATION = r"""
module: artifact
short_description: Bring one pinned artefact from its pin to an installed tree
description:
  - Fetches, verifies, unpacks, edits, builds and installs a source below a prefix, as an unprivileged user,
    holding the artefact's lock all the while. Role C(artifact) documents and fills in the options.
options:
  name: {description: "The artefact's name.", type: str, required: true}
  version: {description: "The version that is wanted.", type: str, required: true}
  licence: {description: "SPDX identifier.", type: str, required: true}
  prefix: {description: "The lab's prefix.", type: path, required: true}
  user: {description: "The account that fetches, builds and owns the tree.", type: str, required: true}
  source: {description: "The pin.", type: dict, required: true}
  substitute: {description: "The declared substitute, or empty.", type: dict, default: {}}
  edits: {description: "Source edits.", type: list, elements: dict, default: []}
  build: {description: "The recipe.", type: dict, default: {}}
  files: {description: "Files that are added to the tree.", type: list, elements: dict, default: []}
  paths: {description: "Logical names of paths in the tree.", type: dict, default: {}}
  needs: {description: "Stamps of other artefacts that the recipe uses, by name. A substitute may have its own C(build)
          and C(needs).", type: dict, default: {}}
  stamps: {description: "The stamps of the upstream's tree and of the substitute's.", type: dict, required: true}
  host: {description: "What the host must be: C(system), C(machine), C(glibc); C(instead) says what to do elsewhere.",
         type: dict, default: {}}
  space: {description: "MiB that must be free before a build starts, and to which its source may unpack.",
          type: int, default: 16}
  mirror: {description: "A directory or URL that holds the same files.", type: str, default: ''}
  candidates: {description: "What may be tried, in order.", type: list, elements: str, required: true}
  strict: {description: "Neither a substitute nor a deferral will do.", type: bool, default: false}
  retry: {description: "Try for the upstream again, though a substitute serves.", type: bool, default: false}
  retry_after: {description: "Seconds for which a deferral is remembered.", type: int, default: 0}
  request: {description: "What stands for all that a deferral depends on; recorded with one.", type: str, default: ''}
  built_cache: {description: "A directory of built trees.", type: str, default: ''}
  blocked: {description: "Why nothing can be built today (its build dependencies are out of reach), or empty.",
            type: str, default: ''}
  only: {description: "C(source): bring the source to the cache and stop, so that build dependencies are installed for
         a source that is at hand only.", type: str, default: '', choices: ['', source]}
  generations: {description: "How many trees are kept.", type: int, default: 2}
  jobs: {description: "How many jobs a build may run; 0 is the number of cores.", type: int, default: 0}
  credentials: {description: "A file of the form of netrc(5) with the passwords of servers.", type: str, default: ''}
  lock_wait: {description: "Seconds to wait for another run.", type: float, default: 1800}
  fetch_timeout: {description: "Seconds without a byte after which a server counts as unreachable.",
                  type: float, default: 30}
  build_timeout: {description: "Seconds after which a build is ended.", type: float, default: 7200}
author: rumplab
"""

EXAMPLES = r"""
- name: Provide the debugger
  rumplab.lab.artifact:
    name: gdb
    version: "13.2"
"""

RETURN = r"""
state: {description: "C(installed) or C(deferred); with O(only), also C(fetched), or C(lacking) what fetching takes.",
        type: str, returned: success}
tree: {description: "The tree in use.", type: str, returned: when installed}
reason: {description: "Why it is deferred, or served by a substitute.", type: str, returned: always}
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
    """Open a URL the way Ansible does: proxies, netrc and certificates of the host, redirects followed.

    Not decompressed: a server that calls a .tar.gz gzip-encoded still sends the file that was pinned.
    """
    clean, pair = credentials.split(url)
    # Where a server sends us elsewhere, that place gets no password of this one.
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
        # By whoever runs this: the lab user, as whom upstreams' code runs, need not be able to read the file.
        credentials.load(module.params["credentials"])
    except Broken as error:
        module.fail_json(msg=f"{request.name}: {error}")
    answer = as_user(module.params["user"], lambda: provide(request, open_with_ansible))
    if answer.get("failed"):
        module.fail_json(**answer)
    module.exit_json(**answer)


if __name__ == "__main__":
    main()
