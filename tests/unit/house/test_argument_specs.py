"""Every role specifies its options, and its defaults agree with the specification."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[3]
ROLES = sorted(path for path in (ROOT / "roles").iterdir() if (path / "tasks" / "main.yml").is_file())
# The entry that uses the arguments checks them; a run that has nothing to do doesn't reach that entry.
CHECKED_WHERE_USED = {"artifact", "package_component"}
PRIVATE = re.compile(r"(?<!\w)__[a-z]\w*(?<!__)(?!\w)")
INCLUSIONS = ("ansible.builtin.include_role", "ansible.builtin.import_role")
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
def test_a_variables_name_shows_its_role_and_whether_it_is_private(role: Path) -> None:
    public = set(load(role / "defaults" / "main.yml")) | set(options(role))
    private = {name for path in (role / "vars").rglob("*.yml") for name in load(path)}
    assert not [name for name in public if not name.startswith(f"{role.name}_")]
    assert not [name for name in private if not name.startswith(f"__{role.name}_")]


@each_role
def test_no_meta_dependencies(role: Path) -> None:
    assert not load(role / "meta" / "main.yml").get("dependencies")


def test_the_settings_are_specified() -> None:
    """Role settings has no tasks; its options are all variables of inventory/group_vars/all."""
    role = ROOT / "roles" / "settings"
    files = list((role / "defaults" / "main").glob("*.yml"))
    assert set(options(role)) == {name for file in files for name in load(file)}
    assert all(spec["description"] and spec["type"] for spec in options(role).values())


def files_of(root: Path) -> Iterator[tuple[str, Path]]:
    """Yield the role ("" for a playbook) and the path of each file of roles and playbooks."""
    for path in sorted(root.glob("roles/*/**/*")):
        if path.suffix in (".yml", ".j2"):
            yield path.relative_to(root).parts[1], path
    for path in sorted([*root.glob("*.yml"), *root.glob("playbooks/**/*.yml")]):
        if "roles" not in path.relative_to(root).parts:
            yield "", path


def inclusions(node: Any) -> Iterator[tuple[str, str]]:
    """Yield (role, entry) of each task, at any depth, that includes a role with tasks_from."""
    if isinstance(node, dict):
        for name in INCLUSIONS:
            if "tasks_from" in node.get(name, {}):
                yield node[name]["name"], node[name]["tasks_from"]
    for each in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from inclusions(each)


def unspecified(root: Path) -> list[str]:
    """Return the entries that roles or playbooks include by tasks_from and that have no spec."""
    called = {(role, entry) for _, path in files_of(root) if path.suffix == ".yml" for role, entry in includes(path)}
    return [
        f"{role}:{entry}"
        for role, entry in sorted(called)
        if entry not in load(root / "roles" / role / "meta" / "argument_specs.yml").get("argument_specs", {})
    ]


def includes(path: Path) -> Iterator[tuple[str, str]]:
    yield from inclusions(yaml.safe_load(path.read_text("utf-8")))


def foreign_private_variables(root: Path) -> list[str]:
    """Return each use of a role's private variable in a playbook or in another role."""
    roles = sorted((path.name for path in (root / "roles").iterdir()), key=len, reverse=True)
    found = []
    for own, path in files_of(root):
        for name in sorted(set(PRIVATE.findall(path.read_text("utf-8")))):
            # __host_packages_x belongs to host_packages, not to host: the longest name wins.
            owner = next((role for role in roles if name.startswith(f"__{role}_")), own)
            if owner != own:
                found.append(f"{path.relative_to(root)}: {name}")
    return found


def test_every_entry_that_is_included_by_name_has_a_spec() -> None:
    assert not unspecified(ROOT)


def test_every_spec_belongs_to_an_existing_entry() -> None:
    named = [(role, entry) for role in ROLES for entry in entry_points(role)]
    assert not [(role.name, entry) for role, entry in named if not (role / "tasks" / f"{entry}.yml").is_file()]


def test_no_role_and_no_playbook_uses_a_private_variable_of_another_role() -> None:
    assert not foreign_private_variables(ROOT)


def callees(role: str) -> set[str]:
    """Return the roles that a role includes, by any entry, in its task files."""
    texts = [path.read_text("utf-8") for own, path in files_of(ROOT) if own == role and path.parent.name == "tasks"]
    return {name for text in texts for name in re.findall(r"_role:\n +name: (\w+)$", text, re.MULTILINE)}


def test_an_image_is_made_anew_for_a_change_of_any_role_that_is_run_for_it() -> None:
    variables = load(ROOT / "roles" / "images" / "vars" / "main.yml")
    run = set(re.findall(r"'(\w+)'", variables["__images_directories"].partition("]")[0]))
    assert {"images", "lab"} <= run
    run |= {role for image in variables["__images_known"].values() for role in image["roles"]}
    assert set().union(*map(callees, run)) <= run


@pytest.fixture
def two_roles(tmp_path: Path) -> Path:
    """Make two correct roles: host_files includes an entry of host by tasks_from."""
    texts = {
        "roles/host/tasks/main.yml": "[{name: A, ansible.builtin.debug: {msg: '{{ __host_words }}'}}]",
        "roles/host/tasks/more.yml": "[]",
        "roles/host/vars/main.yml": "{__host_words: [a]}",
        "roles/host/meta/argument_specs.yml": "{argument_specs: {main: {}, more: {}}}",
        "roles/host_files/tasks/main.yml": """
- name: A block
  block:
    - name: B
      ansible.builtin.include_role: {name: host, tasks_from: more}
      vars: {__host_files_own: "{{ ansible_facts['x'] }}"}
""",
        "playbooks/lab.yml": "[{hosts: all, tasks: [{ansible.builtin.import_role: {name: host, tasks_from: more}}]}]",
    }
    for name, text in texts.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, "utf-8")
    return tmp_path


def test_correct_roles_pass(two_roles: Path) -> None:
    assert (unspecified(two_roles), foreign_private_variables(two_roles)) == ([], [])


@pytest.mark.parametrize(
    ("file", "before", "after", "found"),
    [
        ("roles/host/meta/argument_specs.yml", ", more: {}", "", ["host:more"]),
        ("roles/host_files/tasks/main.yml", "more}", "gone}", ["host:gone"]),
        ("playbooks/lab.yml", "more}", "gone}", ["host:gone"]),
    ],
    ids=["its spec is gone", "a role names another", "a playbook names another"],
)
def test_an_entry_without_a_spec_is_found(
    two_roles: Path, file: str, before: str, after: str, found: list[str]
) -> None:
    text = (two_roles / file).read_text("utf-8")
    assert before in text
    (two_roles / file).write_text(text.replace(before, after), "utf-8")
    assert unspecified(two_roles) == found


@pytest.mark.parametrize(
    ("file", "before", "after", "name"),
    [
        ("roles/host_files/tasks/main.yml", "ansible_facts['x']", "__host_words", "__host_words"),
        ("roles/host_files/tasks/main.yml", "__host_files_own:", "__host_words:", "__host_words"),
        ("roles/host/tasks/main.yml", "__host_words", "__host_files_own", "__host_files_own"),
        ("playbooks/lab.yml", "[{hosts: all,", "[{hosts: all, vars: {__host_words: []},", "__host_words"),
    ],
    ids=["read", "set", "read, of a role with a longer name", "set by a playbook"],
)
def test_a_private_variable_in_another_role_is_found(
    two_roles: Path, file: str, before: str, after: str, name: str
) -> None:
    text = (two_roles / file).read_text("utf-8")
    assert before in text
    (two_roles / file).write_text(text.replace(before, after), "utf-8")
    assert foreign_private_variables(two_roles) == [f"{file}: {name}"]
