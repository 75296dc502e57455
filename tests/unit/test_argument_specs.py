"""Every role says what it takes, and its defaults say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks" / "main.yml").is_file())
# Their arguments are checked by the entry that uses them, which a run with nothing to do never comes to.
CHECKED_WHERE_USED = {"artifact", "package_component"}
each_role = pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)


def load(path: Path) -> dict[str, Any]:
    return (yaml.safe_load(path.read_text("utf-8")) or {}) if path.is_file() else {}


def entry_points(role: Path) -> dict[str, Any]:
    specs = load(role / "meta" / "argument_specs.yml")
    assert specs, f"{role.name} has no meta/argument_specs.yml"
    return specs["argument_specs"]


def options(role: Path) -> dict[str, Any]:
    return {name: spec for point in entry_points(role).values() for name, spec in point.get("options", {}).items()}


def test_there_are_roles() -> None:
    assert {"artifact", "lab"} <= {role.name for role in ROLES}


@each_role
def test_the_entry_that_takes_the_options_is_specified(role: Path) -> None:
    entry = entry_points(role)["provide" if role.name in CHECKED_WHERE_USED else "main"]
    assert entry["short_description"].strip()


@each_role
def test_options_are_the_defaults(role: Path) -> None:
    required = {name for name, spec in options(role).items() if spec.get("required")}
    assert set(options(role)) - required == set(load(role / "defaults" / "main.yml")) - required


@each_role
def test_options_are_documented_and_typed(role: Path) -> None:
    bare = [name for name, spec in options(role).items() if not spec.get("description") or not spec.get("type")]
    assert not bare


@each_role
def test_specified_default_is_the_default(role: Path) -> None:
    defaults = load(role / "defaults" / "main.yml")
    told = {name: spec["default"] for name, spec in options(role).items() if "default" in spec}
    assert told == {name: defaults.get(name) for name in told}


@each_role
def test_names_say_whose_and_whether_private(role: Path) -> None:
    public = set(load(role / "defaults" / "main.yml")) | set(options(role))
    private = {name for path in (role / "vars").rglob("*.yml") for name in load(path)}
    assert not [name for name in public if not name.startswith(f"{role.name}_")]
    assert not [name for name in private if not name.startswith(f"__{role.name}_")]


@each_role
def test_no_meta_dependencies(role: Path) -> None:
    assert not load(role / "meta" / "main.yml").get("dependencies")


def test_the_settings_are_specified() -> None:
    """Role settings has no tasks: what it takes is all of inventory/group_vars/all."""
    role = ROOT / "roles" / "settings"
    files = list((role / "defaults" / "main").glob("*.yml"))
    assert set(options(role)) == {name for file in files for name in load(file)}
    assert all(spec["description"] and spec["type"] for spec in options(role).values())
