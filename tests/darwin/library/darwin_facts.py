#!/usr/bin/python
"""Ansible module: return the facts that Ansible's collectors find when uname(2) reports Darwin."""

from __future__ import annotations

DOCUMENTATION = r"""
module: darwin_facts
short_description: Facts of a Mac, gathered on another system
description:
  - Replaces the result of uname(2), and gathers the facts that role lab needs with Ansible's collectors for macOS.
    They call C(/usr/bin/sw_vers) for the version, and look for C(brew) in Homebrew's directories. The tests put
    replacements of both programs there.
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
# Set before the imports below, because the module platform caches the result of uname.
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
