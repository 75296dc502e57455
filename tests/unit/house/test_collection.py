"""The collection rumplab.lab: the files in its archive, the plugins that its roles call, and its version."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support import collection
from support.collection import GALAXY, NAME, PROGRAMS, ROOT

from rumplab import __version__

# Patterns of a call by `{}` of a module, a filter and a lookup.
MODULE = r"^ *(?:- )?{}:(?: [&*]\w+)?$"
FILTER = r"(?:\|\s*|map\('){}\b"
LOOKUP = r"(?:query|lookup)\('{}'"
INTERPRETER = f"ansible_python_interpreter={sys.executable}"
# Uses a module with helpers, a filter, a lookup and a role's settings, all from the installed collection.
PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  roles: [rumplab.lab.settings]
  tasks:
    - rumplab.lab.host_paths:
        paths: []
      check_mode: true
      register: looked
    - ansible.builtin.debug:
        msg: >-
          {{ {'gdb': rumplab_pins.gdb is mapping,
              'stamp': {} | rumplab.lab.artifact_stamp({'commit': 'x'}),
              'bundle': query('rumplab.lab.source_bundle', playbook_dir, data=false)[0].sha256} | to_json }}
"""


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collection.install(tmp_path_factory.mktemp("collection"))


def role_texts() -> Iterator[tuple[str, str]]:
    for path in sorted((ROOT / "roles").rglob("*.yml")):
        yield str(path.relative_to(ROOT)), path.read_text("utf-8")


def names(kind: str) -> set[str]:
    """Return the names of the collection's modules, lookups or filters. A file may define several filters."""
    files = (ROOT / "plugins" / kind).glob("*.py")
    if kind != "filter":
        return {path.stem for path in files}
    modules = [importlib.import_module(f"plugins.filter.{path.stem}") for path in files]
    return {name for module in modules for name in module.FilterModule().filters()}


@pytest.mark.parametrize(("kind", "pattern"), [("modules", MODULE), ("filter", FILTER), ("lookup", LOOKUP)])
def test_roles_call_every_plugin_by_its_full_name(kind: str, pattern: str) -> None:
    """By a short name, the role of an installed collection finds no plugin, or another one."""
    known = names(kind)
    called = {
        name
        for _, text in role_texts()
        for name in re.findall(pattern.format(rf"{re.escape(NAME)}\.(\w+)"), text, re.MULTILINE)
    }
    assert called == known
    short = re.compile(pattern.format(f"(?:{'|'.join(sorted(known))})"), re.MULTILINE)
    assert not [(path, found[0]) for path, text in role_texts() if (found := short.search(text))]


def test_the_archive_holds_the_files_of_roles_and_none_that_only_a_checkout_needs(installed: Path) -> None:
    place = collection.place(installed)
    wanted = {part for _, text in role_texts() for part in re.findall(r"role_path[ ~'}]*/\.\./\.\./([\w./-]+)", text)}
    assert {"src", "examples", "plugins"} <= wanted
    assert not [part for part in wanted if part[0] != "." and not (place / part).exists()]
    assert (place / "roles/settings/defaults/main/pins.yml").is_file()
    found = {path.name for path in place.iterdir()}
    assert found >= {"MANIFEST.json", "README.md", "CHANGELOG.md", "docs", "meta", "playbooks", "plugins", "roles"}
    assert not found & {"tests", "molecule", "bench", "build", "collections", "provision", "test", "ansible.cfg"}
    assert not [path for path in place.rglob("*") if path.name.startswith(".") or path.suffix == ".pyc"]


def test_a_playbook_anywhere_uses_the_installed_collection(installed: Path, tmp_path: Path) -> None:
    playbook = tmp_path / "mine.yml"
    playbook.write_text(PLAYBOOK, "utf-8")
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(PROGRAMS / "ansible-playbook"), "-vvv", "-i", "localhost,", "-e", INTERPRETER, str(playbook)],
        cwd=tmp_path,
        env={**kept, "ANSIBLE_COLLECTIONS_PATH": str(installed), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"Using module file {collection.place(installed)}/plugins/modules/host_paths.py" in done.stdout
    said = re.search(r'"msg": ({.*}|"{.*}")$', done.stdout, re.MULTILINE)
    assert said, done.stdout
    told = json.loads(said[1])
    told = json.loads(told) if isinstance(told, str) else told
    assert told["gdb"] is True
    assert all(re.fullmatch("[0-9a-f]{64}", told[key]) for key in ("stamp", "bundle"))


def test_version_and_dependencies_are_those_of_the_tool_and_of_requirements_yml() -> None:
    described = yaml.safe_load(GALAXY.read_text("utf-8"))
    asked = yaml.safe_load((ROOT / "requirements.yml").read_text("utf-8"))["collections"]
    assert described["version"] == __version__
    assert described["dependencies"] == {each["name"]: each["version"] for each in asked}


def test_the_ansible_that_it_requires_is_the_oldest_that_the_lock_brings() -> None:
    required = yaml.safe_load((ROOT / "meta/runtime.yml").read_text("utf-8"))["requires_ansible"]
    versions = re.findall(r"^ansible-core==(\d+)\.(\d+)", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    oldest = min((int(major), int(minor)) for major, minor in versions)
    assert required == f">={oldest[0]}.{oldest[1]}.0"
