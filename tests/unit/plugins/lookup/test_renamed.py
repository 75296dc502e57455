"""A variable's old name works for one more release, with a warning that names the new one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugins.lookup import renamed

ROOT = Path(__file__).resolve().parents[4]
CALL = re.compile(r"query\('rumplab\.lab\.renamed',\s*'(\w+)',\s*'(\w+)'")


@pytest.fixture
def warnings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    said: list[str] = []
    monkeypatch.setattr(renamed.display, "warning", said.append)
    return said


def ask(default: Any, **variables: Any) -> Any:
    templar = Templar(loader=DataLoader(), variables=variables)
    (found,) = renamed.LookupModule(loader=DataLoader(), templar=templar).run(["old", "new", default], variables)
    return found


@pytest.mark.parametrize("default", ["x", "", 5, False, [], ["a", "b"], {"a": 1}])
def test_without_the_old_name_the_default_is_used_without_a_warning(default: Any, warnings: list[str]) -> None:
    assert ask(default) == default
    assert not warnings


@pytest.mark.parametrize("value", ["y", "", 6, False, [], ["c"]])
def test_the_old_name_counts_and_the_warning_names_the_new_one(value: Any, warnings: list[str]) -> None:
    assert ask("default", old=value) == value
    assert warnings == ["old is now called new; set new. The old name works for one more release."]


def test_a_template_in_the_old_name_is_filled_in(warnings: list[str]) -> None:
    assert ask("default", old=trust_as_template("{{ other ~ '!' }}"), other="yes") == "yes!"
    assert len(warnings) == 1


def calls() -> list[tuple[Path, str, str]]:
    files = sorted((ROOT / "roles").rglob("*.yml"))
    return [(path, old, new) for path in files for old, new in CALL.findall(path.read_text("utf-8"))]


def test_every_call_is_the_default_of_the_new_name() -> None:
    assert calls()
    for path, _, new in calls():
        assert path.parent.name == "defaults"
        assert f"'{new}'" in yaml.safe_load(path.read_text("utf-8"))[new]


def test_no_old_name_is_used_except_in_these_lookups() -> None:
    old_names = [old for _, old, _ in calls()]
    assert len(old_names) == len(set(old_names))
    used = re.compile(rf"(?<![\w.])({'|'.join(old_names)})(?!\w)")
    parts = ("roles", "playbooks", "inventory", "docs")
    files = [
        path for part in parts for path in (ROOT / part).rglob("*") if path.suffix in (".yml", ".j2", ".py", ".md")
    ]
    found = {
        (path.relative_to(ROOT).as_posix(), old) for path in files for old in used.findall(path.read_text("utf-8"))
    }
    assert found == {(path.relative_to(ROOT).as_posix(), old) for path, old, _ in calls()}


def test_the_changelog_names_every_old_name() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert not [old for _, old, _ in calls() if f"`{old}`" not in text]
