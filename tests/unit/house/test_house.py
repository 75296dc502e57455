"""Rules for the whole checkout: no path or host name of one machine, and every role and scenario is documented."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from base_images import host_sources
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from run_tests import ROOT, is_shell, lint_parts, molecule_parts, sources


def tracked() -> list[Path]:
    """Return the files that git tracks; in an unpacked archive, all files but built ones."""
    if not (ROOT / ".git").exists():
        return list(sources(ROOT))
    argv = ["git", "-c", "safe.directory=*", "ls-files", "-z"]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=True)
    return [Path(name) for name in done.stdout.split("\0") if name and (ROOT / name).is_file()]


FILES = tracked()
PIN = re.compile(r"^([a-z0-9][a-z0-9._-]*)==([^\s;]+)", re.MULTILINE)
# A path in a home directory, of root or of a user. The pattern doesn't match its own text.
HOMES = re.compile(r"(?<![\w.>}])/(?:root|home/[a-z]\w*|Users/[A-Za-z]\w*)/[\w.]")


def text_of(path: Path) -> str:
    return (ROOT / path).read_text("utf-8", "replace")


def containing(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{path}:{number}: {line.strip()[:100]}"
        for path in FILES
        for number, line in enumerate(text_of(path).splitlines(), 1)
        if pattern.search(line)
    ]


def index_hosts() -> set[str]:
    """Return the hosts from which this machine's pip and apt fetch."""
    code = "from pip._internal.models.index import PyPI; print(PyPI.url)"
    default = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    config = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    urls = [default.stdout.strip(), *re.findall(r"https?://[^\s'\"]+", config.stdout)]
    urls += [source.uri for source in host_sources()]
    return {urlsplit(url).hostname or "" for url in urls} - {"", "localhost", "127.0.0.1"}


def test_no_path_of_this_checkout() -> None:
    assert not containing(re.compile(re.escape(str(ROOT)) + r"\b"))


def test_no_home_directory() -> None:
    assert not containing(HOMES)


def test_no_package_index_is_named() -> None:
    hosts = index_hosts()
    assert hosts
    assert not containing(re.compile("|".join(rf"\b{re.escape(name)}\b" for name in sorted(hosts))))


def test_scripts_are_executable() -> None:
    bare = [
        str(path)
        for path in FILES
        if "fixtures" not in path.parts
        and text_of(path).startswith("#!")
        and is_shell(ROOT / path)
        and not (ROOT / path).stat().st_mode & 0o100
    ]
    assert not bare


def test_every_role_has_a_page() -> None:
    roles = [path.parent.parent.name for path in (ROOT / "roles").glob("*/tasks/main.yml")]
    assert roles
    pages = {path.stem for path in (ROOT / "docs" / "roles").glob("*.md")}
    assert not [role for role in roles if role not in pages]


def test_every_scenario_is_in_the_table() -> None:
    table = set(re.findall(r"^\| `([\w-]+)` \|", text_of(Path("docs/development/testing.md")), re.MULTILINE))
    scenarios = {part.argv[-1] for part in molecule_parts(ROOT, everything=True)}
    assert scenarios
    assert scenarios == table


def test_no_two_scenarios_share_a_container() -> None:
    names: dict[str, str] = {}
    for path in sorted((ROOT / "molecule").glob("*/molecule.yml")):
        for platform in (yaml.safe_load(path.read_text("utf-8")) or {}).get("platforms", []):
            name = platform["name"].replace("${MOLECULE_SCENARIO_NAME}", path.parent.name)
            assert name not in names, f"{path.parent.name} and {names[name]} both have a container {name}"
            names[name] = path.parent.name


def pins(name: str) -> set[tuple[str, str]]:
    """Return (package, version) of each pin. A package may have several versions, for different Pythons."""
    return {(package.replace("_", "-"), version) for package, version in PIN.findall(text_of(Path(name)))}


def test_locks_agree() -> None:
    base = pins("requirements.txt")
    assert base
    shared = {package for package, _ in base}
    assert {pin for pin in pins("requirements-dev.txt") if pin[0] in shared} == base


@pytest.mark.parametrize("name", ["requirements", "requirements-dev"])
def test_lock_holds_what_is_asked_for(name: str) -> None:
    text = text_of(Path(f"{name}.in"))
    asked = re.findall(r"^([\w-]+)(?:\[[\w,]+\])?==([^\s;]+)", text, re.MULTILINE)
    assert asked
    assert {(package.lower(), version) for package, version in asked} <= pins(f"{name}.txt")


def test_one_lock_has_an_ansible_for_every_python_that_provision_takes() -> None:
    """If a package has several versions, the markers select exactly one of them for each Python."""
    script = text_of(Path("tools/venv.sh"))
    oldest, newest = (int(n) for n in re.findall(r"^oldest=(\d+) newest=(\d+)$", script, re.MULTILINE)[0])
    for name in ("requirements.txt", "requirements-dev.txt"):
        lines = [line.rstrip("\\ ") for line in text_of(Path(name)).splitlines() if re.match(r"[a-z0-9]", line)]
        wanted = [Requirement(line) for line in lines]
        # Also for the next Python after the newest supported one, since ./provision tries it with a warning.
        for minor in range(oldest, newest + 2):
            python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.1", "sys_platform": "linux"}
            names = [each.name for each in wanted if each.marker is None or each.marker.evaluate(python)]
            assert sorted(set(names)) == sorted(names), f"a package has two versions for Python 3.{minor} in {name}"
            assert {"ansible", "ansible-core"} <= set(names), f"no Ansible for Python 3.{minor} in {name}"


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_every_pin_has_a_hash_and_no_address(name: str) -> None:
    text = text_of(Path(name))
    entries = re.split(r"\n(?=[a-z0-9])", text.split("\n", 2)[2])
    assert not [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry]
    assert "://" not in text


def test_collections_are_those_of_the_package() -> None:
    import ansible_collections  # of the locked package

    asked = yaml.safe_load(text_of(Path("requirements.yml")))["collections"]
    for collection in asked:
        manifest = Path(next(iter(ansible_collections.__path__)), *collection["name"].split("."), "MANIFEST.json")
        version = json.loads(manifest.read_text("utf-8"))["collection_info"]["version"]
        assert version in SpecifierSet(collection["version"]), collection["name"]


def test_the_hooks_of_a_commit_are_parts_of_the_tests_and_need_nothing_else() -> None:
    repositories = yaml.safe_load(text_of(Path(".pre-commit-config.yaml")))["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    hooks = {hook["id"]: hook for hook in repositories[0]["hooks"]}
    assert {hook["language"] for hook in hooks.values()} == {"system"}
    parts = {part.name: part.argv for part in lint_parts(ROOT)}
    # These two hooks check generated files; in ./test, unit tests check them.
    assert set(hooks) - set(parts) == {"completions", "locks"}
    for name in set(hooks) & set(parts):
        program, *options = hooks[name]["entry"].split()
        assert [str(ROOT / program) if "/" in program else program, *options] == list(parts[name][: len(options) + 1])


def test_no_source_of_an_example_has_the_name_of_a_shared_source() -> None:
    """make would use the shared file, and role examples installs both in one directory for the debugger."""
    shared = {path.name for path in (ROOT / "examples" / "start").glob("*.[chS]")}
    own = [path for path in (ROOT / "examples").glob("*/*.[chS]") if path.parent.name != "start"]
    assert shared and own
    assert not [path.name for path in own if path.name in shared]
