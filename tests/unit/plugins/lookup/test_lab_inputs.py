"""The hash of a full run's inputs: the checkout, the variables and the facts."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible import context
from ansible.errors import AnsibleError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from plugins.lookup import lab_inputs

ROOT = Path(__file__).resolve().parents[4]
FACTS = {"os_family": "Debian", "user_id": "root", "env": {"SUDO_USER": "alice", "SHLVL": "1"}, "date_time": "now"}
Ask = Callable[..., str]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    tasks, tool, page = "roles/gdb/tasks/main.yml", "src/rumplab/cli/main.py", "docs/roles/lab.md"
    for name in ("site.yml", tasks, "plugins/modules/artifact.py", tool, page):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n", "utf-8")
    return tmp_path


@pytest.fixture
def ask(checkout: Path) -> Ask:
    """Call the lookup, with variables as in an inventory."""

    def answer(*more: Any, facts: dict[str, Any] = FACTS, **variables: Any) -> str:
        texts = {name: trust_as_template(each) if isinstance(each, str) else each for name, each in variables.items()}
        known = {**texts, "ansible_facts": facts}
        lookup = lab_inputs.LookupModule(loader=DataLoader(), templar=Templar(loader=DataLoader(), variables=known))
        (found,) = lookup.run([str(checkout), *more], variables=known)
        assert isinstance(found, str)
        return found

    return answer


def test_the_same_run_has_the_same_inputs(ask: Ask) -> None:
    assert re.fullmatch("[0-9a-f]{64}", ask(rumplab_prefix="/opt/rumplab"))
    assert ask(rumplab_prefix="/opt/rumplab") == ask(rumplab_prefix="/opt/rumplab")


@pytest.mark.parametrize(
    "change",
    [
        lambda root: (root / "site.yml").write_text("other"),
        lambda root: (root / "src" / "rumplab" / "cli" / "main.py").chmod(0o755),
        lambda root: (root / "roles" / "gdb" / "tasks" / "main.yml").rename(root / "roles" / "gdb" / "main.yml"),
        lambda root: (root / "src" / "new").write_text(""),
        lambda root: (root / "plugins" / "modules" / "artifact.py").write_text("other"),
    ],
    ids=["its content", "its mode", "its name", "its being there", "a module's content"],
)
def test_a_change_to_a_roles_file_changes_the_hash_by(ask: Ask, checkout: Path, change: Callable[[Path], Any]) -> None:
    before = ask()
    change(checkout)
    assert ask() != before


def test_what_roles_never_read_is_no_input(ask: Ask, checkout: Path) -> None:
    before = ask()
    (checkout / "docs" / "lab.md").write_text("other")
    (checkout / "src" / "rumplab" / "__pycache__").mkdir()
    (checkout / "src" / "rumplab" / "__pycache__" / "cli.pyc").write_text("other")
    assert ask() == before


def test_variables_of_every_kind_are_inputs(ask: Ask) -> None:
    told = [
        ask(),
        ask(gdb_version="16.3"),
        ask(gdb_version="17.2"),
        ask(ansible_skip_tags=["gdb"]),
        ask(__gdb_build="private ones too"),
        ask([{"path": "yaml/__init__.py", "content": "1"}]),
        ask([{"path": "yaml/__init__.py", "content": "2"}]),
    ]
    assert len(set(told)) == len(told)


def test_the_order_of_tags_is_no_input(ask: Ask) -> None:
    assert ask(ansible_skip_tags=("gdb", "gcc")) == ask(ansible_skip_tags=("gcc", "gdb"))


def test_facts_that_roles_use_are_inputs_and_no_others(ask: Ask) -> None:
    before = ask()
    assert ask(facts={**FACTS, "date_time": "later", "env": {"SUDO_USER": "alice", "SHLVL": "2"}}) == before
    assert ask(facts={**FACTS, "user_id": "bob"}) != before
    assert ask(facts={**FACTS, "env": {"SUDO_USER": "bob"}}) != before


def test_every_fact_that_a_role_uses_is_known_here() -> None:
    texts = [path.read_text("utf-8") for part in ("roles", "playbooks", "inventory") for path in yaml_files(part)]
    used = {name for text in texts for name in re.findall(r"ansible_facts\[['\"](\w+)['\"]\]", text)}
    # The roles read the account (getent) only where the lab's rumplab.json is missing or damaged.
    assert used - {"env", "getent_passwd"} == set(lab_inputs.FACTS)
    of_environment = {name for text in texts for name in re.findall(r"\['env'\]\['(\w+)'\]", text)}
    assert of_environment == {"SUDO_USER"}


def yaml_files(part: str) -> list[Path]:
    return [path for path in sorted((ROOT / part).rglob("*")) if path.suffix in (".yml", ".j2")]


def test_the_value_of_a_template_is_an_input_too(ask: Ask) -> None:
    template = "/opt/{{ ansible_facts['date_time'] }}"
    before = ask(rumplab_prefix=template)
    assert before == ask(rumplab_prefix=template)
    assert before != ask(rumplab_prefix=template, facts={**FACTS, "date_time": "later"})
    assert ask(a=["{{ 1 }}"]) != ask(a=["{{ 2 - 1 }}"])


def test_where_a_template_cannot_be_evaluated_nothing_is_remembered(ask: Ask) -> None:
    assert ask(rumplab_mirror="{{ set_by_a_later_task }}") == ""


def test_the_environment_or_file_that_a_variable_reads_is_an_input(
    ask: Ask, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = []
    for word in ("one", "two"):
        monkeypatch.setenv("MIRROR", word)
        told.append(ask(rumplab_mirror="{{ lookup('env', 'MIRROR') }}"))
        (tmp_path / "mirror").write_text(word)
        told.append(ask(rumplab_mirror=f"{{{{ lookup('file', '{tmp_path}/mirror') }}}}"))
    assert "" not in told and len(set(told)) == 4
    assert ask(rumplab_mirror="{{ lookup('file', '/nonexistent') }}") == ""


def test_a_default_that_asks_for_its_old_name_is_remembered(ask: Ask) -> None:
    # Its value comes from another variable, which is an input itself. Only this collection's lookup has that name.
    assert not lab_inputs.OTHER_LOOKUP.search("{{ query('rumplab.lab.renamed', 'old', 'new', 'x')[0] }}")
    assert ask(old="y") != ask(old="z") != ""


@pytest.mark.parametrize("call", ["lookup('url', 'x')", "query ('password', 'x')", "q('pipe', 'date')", "q(env)"])
def test_where_a_variable_looks_something_up_nothing_is_remembered(ask: Ask, call: str) -> None:
    assert ask(rumplab_mirror=f"{{{{ {call} }}}}") == ""
    assert ask(rumplab_mirror=[{"url": f"{{{{ {call} }}}}"}]) == ""


@pytest.mark.parametrize("name", ["ansible_password", "ansible_become_pass", "ansible_ssh_private_key_passphrase"])
def test_a_password_is_in_no_hash(ask: Ask, name: str) -> None:
    assert ask(**{name: "secret"}) == ask()


@pytest.mark.parametrize("option", [{"step": True}, {"start_at_task": "Recap"}])
def test_a_run_that_leaves_out_tasks_is_not_remembered(
    ask: Ask, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any]
) -> None:
    monkeypatch.setattr(context, "CLIARGS", option)
    assert ask() == ""


def test_a_directory_that_is_no_checkout_is_named(tmp_path: Path) -> None:
    lookup = lab_inputs.LookupModule(loader=DataLoader(), templar=Templar(loader=DataLoader(), variables={}))
    with pytest.raises(AnsibleError, match="is not the root of a checkout"):
        lookup.run([str(tmp_path)], variables={"ansible_facts": {}})
