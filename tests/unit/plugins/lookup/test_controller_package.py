"""The lookup that reads a Python package of the controller, to copy it to a host."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from ansible.errors import AnsibleError

from plugins.lookup.controller_package import licence, places, source_files


def test_what_it_finds_can_be_imported(tmp_path: Path) -> None:
    files = {**source_files("yaml", sys.path), **licence("yaml", "PyYAML", sys.path)}
    assert "Permission is hereby granted" in files["yaml/LICENSE"]
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, "utf-8")
    code = "import yaml; print(yaml.safe_load('a: [1]'))"
    # -S: Python finds no other PyYAML.
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.stdout == "{'a': [1]}\n", done.stderr


def test_a_package_that_is_not_there() -> None:
    with pytest.raises(AnsibleError, match="the controller has no Python package no_such_package"):
        source_files("no_such_package", sys.path)
    assert licence("yaml", "no-such-distribution", sys.path) == {}


def test_the_checkouts_own_environment_goes_before_that_of_another_ansible(tmp_path: Path) -> None:
    package = tmp_path / ".venv" / "lib" / "python3.99" / "site-packages" / "yaml"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("locked = True\n", "utf-8")
    assert source_files("yaml", places(tmp_path)) == {"yaml/__init__.py": "locked = True\n"}
    assert "yaml/nodes.py" in source_files("yaml", places(tmp_path / "elsewhere"))
