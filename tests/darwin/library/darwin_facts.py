#!/usr/bin/python
"""Ansible module: the facts that Ansible's own collectors find where the kernel calls itself Darwin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: darwin_facts
short_description: Facts of a Mac, gathered on another system
description:
  - Replaces the answer of uname(2) and gathers the few facts that role lab needs with Ansible's collectors for macOS.
    They ask C(/usr/bin/sw_vers) for the version and look for C(brew) in Homebrew's places, where stand-ins must be.
options: {}
author: rumplab
"""

EXAMPLES = r"""
- name: Gather
  darwin_facts:
"""

RETURN = r"""
ansible_facts: {description: "The facts.", type: dict, returned: success}
"""

import os

APPLE_SILICON = os.uname_result(
    ("Darwin", "mac", "23.6.0", "Darwin Kernel Version 23.6.0: root:xnu-10063~3/RELEASE_ARM64_T6000", "arm64")
)
# Before anything is imported that asks the module platform, which remembers the answer.
os.uname = lambda: APPLE_SILICON

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.facts import ansible_collector, default_collectors
from ansible.module_utils.facts.namespace import PrefixFactNamespace

SUBSET = ["distribution", "env", "pkg_mgr", "platform", "python", "user"]


def main() -> None:
    """Run the module."""
    module = AnsibleModule(argument_spec={}, supports_check_mode=True)
    collector = ansible_collector.get_ansible_collector(
        all_collector_classes=default_collectors.collectors,
        namespace=PrefixFactNamespace(namespace_name="ansible", prefix="ansible_"),
        gather_subset=["!all", "!min", *SUBSET],
    )
    module.exit_json(changed=False, ansible_facts=collector.collect(module=module))


if __name__ == "__main__":
    main()
