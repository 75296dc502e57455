"""The recipe of role gdb: configure's arguments for each pair of GDB and Python, and the files of the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLE = Path(__file__).resolve().parents[3] / "roles/gdb"
VARIABLES: dict[str, Any] = yaml.safe_load((ROLE / "vars/main.yml").read_text())

# The recipe asks python3 for its version and headers. This stand-in gives the answers of the test.
PYTHON = """#!/bin/sh
exec {real} -c '
import sys, sysconfig
sys.version_info = {version}
sysconfig.get_paths = lambda: {{"include": "{include}"}}
exec(sys.argv[2])' "$@"
"""


def configure(directory: Path, gdb: str, python: tuple[int, int] | None, headers: bool = True) -> list[str]:
    """Run the recipe's shell text on a source that has only a version; return configure's arguments."""
    source, programs, include = directory / "source", directory / "bin", directory / "include"
    for made in (source / "gdb", programs, include):
        made.mkdir(parents=True)
    (source / "gdb/version.in").write_text(gdb + "\n")
    (source / "configure").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (source / "configure").chmod(0o755)
    if headers:
        (include / "Python.h").touch()
    if python:
        script = PYTHON.format(real=sys.executable, version=(*python, 4), include=include)
        (programs / "python3").write_text(script)
        (programs / "python3").chmod(0o755)
    (programs / "cat").symlink_to(shutil.which("cat") or "/bin/cat")
    argv = ["/bin/sh", "-c", VARIABLES["__gdb_configure"], "configure", str(source)]
    environment = {"PATH": str(programs)}
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=30, check=True)
    return done.stdout.splitlines()


@pytest.mark.parametrize(
    ("gdb", "python", "fits"),
    [
        ("7.11", (3, 8), False),
        ("7.11.1", (3, 11), False),
        ("9.2", (3, 8), False),
        ("10.1.90.20210103-git", (3, 9), True),
        ("12.1", (3, 11), True),
        ("12.1", (3, 12), False),
        ("13.1", (3, 11), True),
        ("16.3", (3, 13), True),
        ("17.1", (3, 14), True),
    ],
)
def test_python_is_on_where_gdb_and_the_hosts_python_fit(
    gdb: str, python: tuple[int, int], fits: bool, tmp_path: Path
) -> None:
    wanted = str(tmp_path / "bin/python3") if fits else "no"
    assert f"--with-python={wanted}" in configure(tmp_path, gdb, python)


def test_python_is_off_without_its_headers(tmp_path: Path) -> None:
    assert "--with-python=no" in configure(tmp_path, "16.3", (3, 13), headers=False)


def test_python_is_off_without_python(tmp_path: Path) -> None:
    assert "--with-python=no" in configure(tmp_path, "16.3", None)


def test_gdb_is_a_cross_debugger_for_elf_and_netbsd(tmp_path: Path) -> None:
    arguments = configure(tmp_path, "7.11", None)
    assert "--target=x86_64-elf" in arguments
    (targets,) = [word.partition("=")[2].split(",") for word in arguments if word.startswith("--enable-targets=")]
    assert {"i386-elf", "x86_64-netbsd", "i386-netbsdelf"} < set(targets)
    # For QEMU's dumps.
    assert "x86_64-linux-gnu" in targets
    assert "--with-expat" in arguments


def test_the_tree_has_what_the_descriptor_names() -> None:
    files = {entry["path"]: entry["content"] for entry in VARIABLES["__gdb_files"]}
    assert VARIABLES["__gdb_paths"]["gdbinit"] in files
    prefix = "/" + VARIABLES["__gdb_build"]["root"]
    for option in ("--prefix=", "--with-system-gdbinit="):
        assert option + prefix in VARIABLES["__gdb_configure"]


@pytest.mark.skipif(shutil.which("gdb") is None, reason="no gdb")
def test_gdb_takes_the_settings_even_twice(tmp_path: Path) -> None:
    path = tmp_path / "gdbinit"
    path.write_text(VARIABLES["__gdb_files"][0]["content"])
    commands = ["break *1", "break *2", "arch64", "show architecture", "arch32", "show architecture"]
    options = [part for command in [f"source {path}", *commands] for part in ("-ex", command)]
    argv = ["gdb", "-nx", "-batch", "-x", str(path), *options]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.count("hint:") == 1
    assert done.stdout.index("i386:x86-64") < done.stdout.rindex('"i386"')
    assert done.stderr == ""


@pytest.mark.parametrize("path", sorted((ROLE / "vars").glob("[A-Z]*.yml")), ids=lambda path: path.stem)
def test_every_system_defines_the_variables_that_the_role_needs(path: Path) -> None:
    variables = yaml.safe_load(path.read_text())
    assert set(variables) == {"__gdb_packages", "__gdb_substitute"}
    assert variables["__gdb_packages"] == sorted(variables["__gdb_packages"])


def role_variable(name: str, **settings: Any) -> Any:
    """Return a variable of the role, with its templates evaluated."""
    loader = DataLoader()
    variables: dict[str, Any] = {}
    for path in ("defaults/main.yml", "vars/main.yml"):
        variables.update(loader.load_from_file(str(ROLE / path), trusted_as_template=True))
    variables.update(settings)
    return Templar(loader=loader, variables=variables).template(variables[name])


LABS = {"cc": "@gcc@/bin/gcc-9", "cxx": "@gcc@/bin/g++-9", "needs": ["gcc"], "packages": [], "blocked": ""}
NONE = {"cc": "", "cxx": "", "needs": [], "packages": [], "blocked": "there is none"}


@pytest.mark.parametrize(("version", "known"), [("7.11", ["8", "9"]), ("9.2", ["8", "9"]), ("10.1", []), ("18.1", [])])
def test_releases_before_10_are_known_to_build_with_old_compilers_only(version: str, known: list[str]) -> None:
    assert role_variable("gdb_compilers", gdb_version=version) == known


def test_a_release_with_known_compilers_is_built_by_the_chosen_one() -> None:
    environment = role_variable("__gdb_build_by_choice", gcc_for_recipe=LABS)["environment"]
    assert (environment["CC"], environment["CXX"]) == (LABS["cc"], LABS["cxx"])
    assert "-fcommon" in environment["CFLAGS"]


@pytest.mark.parametrize("settings", [{"gdb_version": "13.1", "gcc_for_recipe": LABS}, {"gcc_for_recipe": NONE}])
def test_other_releases_and_hosts_without_a_known_compiler_use_what_configure_finds(settings: dict[str, Any]) -> None:
    assert role_variable("__gdb_build_by_choice", **settings) == role_variable("__gdb_build")


def test_the_distributions_source_does_not_need_the_labs_compiler() -> None:
    own = role_variable("__gdb_substitutes_own", gcc_for_recipe=LABS)
    assert own["needs"] == [] and own["build"] == role_variable("__gdb_build")
    assert "CC" not in own["build"]["environment"]
