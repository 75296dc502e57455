"""The recipe of role rump_toolchain: the compiler, its options, and the check of the built libraries."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.upstream import make_rumprun
from fixtures.upstream.support import ROOT, opener, provide
from fixtures.upstream.toolchain import ROLE, pin, toolchain, variable

PINS = yaml.safe_load((ROOT / "inventory/group_vars/all/pins.yml").read_text())["rumplab_pins"]["rump_toolchain"]
MPT = "librumpdev_pci_scsi.a mpt mpt_pci_ca"
needs_compiler = pytest.mark.skipif(
    not all(map(shutil.which, ("bmake", "gcc", "git", "nm", "objcopy"))), reason="no bmake or no compiler"
)


def fake_compiler(directory: Path, version: str, pie: bool) -> None:
    """Write stand-ins for gcc and g++ of this version. -fcf-protection exists since GCC 8."""
    for name in ("gcc", "g++"):
        path = directory / f"{name}-x"
        configured = "--enable-default-pie" if pie else "--disable-nothing"
        knows = int(version.split(".")[0]) >= 8
        cases = f"-dumpversion) echo {version} ;;\n-v) echo '{configured}' >&2 ;;\n"
        cases += f"-fcf-protection=none) exit {0 if knows else 1} ;;"
        path.write_text(f"#!/bin/sh\ncase $1 in\n{cases}\nesac\n")
        path.chmod(0o755)


def prepare(
    directory: Path, version: str, which: str = "known", pie: bool = False
) -> tuple[subprocess.CompletedProcess[str], str]:
    """Run the recipe's first script; return the process and the compiler options that it chose."""
    programs, source, tree = (directory / name for name in ("programs", "source", "tree"))
    for made in (programs, source, tree):
        made.mkdir()
    fake_compiler(programs, version, pie)
    build = variable("__rump_toolchain_build", rump_toolchain_compiler="gcc-x", rump_toolchain_any_compiler=True)
    known = build["commands"][0]["argv"][-1]
    script = variable("__rump_toolchain_prepare")
    argv = ["sh", "-c", script, "prepare", str(tree), "gcc-x", "g++-x", which, known]
    environment = {"PATH": f"{programs}:{os.environ['PATH']}", "TMPDIR": str(directory), "HOME": str(directory)}
    done = subprocess.run(argv, cwd=source, env=environment, capture_output=True, text=True, timeout=60, check=False)
    options = directory / "options"
    return done, options.read_text().strip() if options.exists() else ""


@pytest.mark.parametrize(
    ("version", "options"),
    [
        ("5.4.0", ""),
        ("6", "-F CPPFLAGS=-Wno-shift-negative-value"),
        ("9", "-F CPPFLAGS=-Wimplicit-fallthrough=0 -F CPPFLAGS=-Wno-error"),
    ],
)
def test_the_options_are_those_of_the_compilers_version(tmp_path: Path, version: str, options: str) -> None:
    done, chosen = prepare(tmp_path, version)
    assert done.returncode == 0, done.stderr
    assert chosen == options


def test_each_version_has_its_row(tmp_path: Path) -> None:
    rows = variable("__rump_toolchain_compilers")
    assert [row["gcc"] for row in rows] == variable("__rump_toolchain_known") == ["5", "6", "7", "8", "9"]
    for row in rows:
        words = row["options"].split()
        assert words[::2] == ["-F"] * (len(words) // 2), row
        assert all(word.startswith(("CFLAGS=-W", "CPPFLAGS=-W")) for word in words[1::2]), row


@pytest.mark.parametrize("version", ["4.8", "10.2.1", "12", "55", "90"])
def test_any_other_version_is_refused_with_the_list(tmp_path: Path, version: str) -> None:
    done, chosen = prepare(tmp_path, version)
    assert (done.returncode, chosen) == (1, "")
    assert f"gcc-x is GCC {version}; rumprun is known to build with GCC 5 6 7 8 9" in done.stderr


def test_any_other_version_gets_the_newest_ones_options_if_any_compiler_is_allowed(tmp_path: Path) -> None:
    done, chosen = prepare(tmp_path, "14", which="any")
    assert done.returncode == 0, done.stderr
    assert chosen == variable("__rump_toolchain_compilers")[-1]["options"]


@pytest.mark.parametrize("pie", [True, False])
@pytest.mark.parametrize(("version", "protection"), [("7", ""), ("9", "-fcf-protection=none ")])
def test_the_compilers_defaults_of_pie_and_cf_protection_are_turned_off(
    tmp_path: Path, pie: bool, version: str, protection: str
) -> None:
    done, _ = prepare(tmp_path, version, pie=pie)
    assert done.returncode == 0, done.stderr
    flags = ("-fno-pie -no-pie " if pie else "") + protection
    for name in ("gcc", "g++"):
        wrapper = tmp_path / "tree/libexec/rumplab" / name
        assert wrapper.read_text() == f'#!/bin/sh\nexec {name}-x {flags}"$@"\n'
        assert os.access(wrapper, os.X_OK)


def test_the_source_becomes_a_repository_on_no_branch(tmp_path: Path) -> None:
    prepare(tmp_path, "9")
    argv = ["git", "-c", "safe.directory=*", "rev-parse", "--abbrev-ref", "HEAD"]
    done = subprocess.run(argv, cwd=tmp_path / "source", capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.strip() == "HEAD"


CHOSEN: dict[str, Any] = {
    "cc": "@gcc@/bin/gcc-9",
    "cxx": "@gcc@/bin/g++-9",
    "needs": ["gcc"],
    "packages": ["something"],
    "blocked": "",
}


@pytest.mark.parametrize("family", ["Archlinux", "Debian", "RedHat"])
def test_the_compiler_is_the_one_that_role_gcc_chose(family: str) -> None:
    def of_host(name: str) -> Any:
        return variable(f"__rump_toolchain_{name}", {"os_family": family}, gcc_for_recipe=CHOSEN)

    assert (of_host("cc"), of_host("cxx"), of_host("blocked")) == (CHOSEN["cc"], CHOSEN["cxx"], "")
    assert {"something", "git", "make"} <= set(of_host("packages"))
    assert CHOSEN["cc"] in of_host("build")["commands"][0]["argv"]


def test_without_a_compiler_the_reason_is_given() -> None:
    none = {**CHOSEN, "blocked": "there is none"}
    assert variable("__rump_toolchain_blocked", gcc_for_recipe=none) == "there is none"


@pytest.mark.parametrize(
    ("family", "packages"),
    [("Debian", {"gcc-12", "g++-12"}), ("RedHat", {"gcc", "gcc-c++"}), ("Archlinux", {"gcc"}), ("Darwin", set())],
)
def test_a_compiler_that_was_asked_for_is_installed(family: str, packages: set[str]) -> None:
    facts = {"os_family": family}
    names = ("cc", "cxx", "blocked", "packages")
    found = [variable(f"__rump_toolchain_{name}", facts, rump_toolchain_compiler="gcc-12") for name in names]
    assert found[:3] == ["gcc-12", "g++-12", ""]
    assert packages <= set(found[3])


@pytest.mark.parametrize("facts", [{"architecture": "aarch64"}, {"system": "Darwin", "architecture": "x86_64"}])
def test_on_another_system_the_reason_is_given(facts: dict[str, str]) -> None:
    blocked = variable("__rump_toolchain_blocked", facts, gcc_for_recipe=CHOSEN)
    assert "GCC 5, 6, 7, 8, 9" in blocked and facts["architecture"] in blocked and "container" in blocked


@pytest.mark.parametrize("path", sorted((ROLE / "vars").glob("[A-Z]*.yml")), ids=lambda path: path.stem)
def test_every_system_defines_the_variables_that_the_role_needs(path: Path) -> None:
    names = {f"__rump_toolchain_{name}" for name in ("wish_packages", "fetch_packages", "packages")}
    assert names <= set(yaml.safe_load(path.read_text()))


def test_pins_are_full_commits_with_submodules() -> None:
    for name, row in PINS["versions"].items():
        assert row["commit"].startswith(name) and len(name) == 8 and len(row["commit"]) == 40
        assert row["submodules"] is True
    assert variable("rump_toolchain_source") == PINS["versions"]["16a7c6eb"]


def library(directory: Path, name: str, **members: str) -> None:
    """Make a library from C texts, with the symbol prefix of the rump kernel."""
    objects = []
    for member, text in members.items():
        source, made = directory / f"{member}.c", directory / f"{member}.o"
        source.write_text(text)
        subprocess.run(["gcc", "-w", "-c", "-o", str(made), str(source)], check=True, timeout=30)
        subprocess.run(["objcopy", "--prefix-symbols=rumpns_", str(made)], check=True, timeout=30)
        objects.append(str(made))
    subprocess.run(["ar", "rcs", str(directory / name), *objects], check=True, timeout=30)


def verify(directory: Path, wanted: str) -> subprocess.CompletedProcess[str]:
    """Run the recipe's last script on a tree; the compiler and rumprun-bake are stand-ins that do nothing."""
    (directory / "tmp").mkdir(exist_ok=True)
    (directory / "bin").mkdir(exist_ok=True)
    for tool in ("x86_64-rumprun-netbsd-gcc", "rumprun-bake"):
        (directory / "bin" / tool).write_text("#!/bin/sh\n")
        (directory / "bin" / tool).chmod(0o755)
    argv = ["sh", "-c", variable("__rump_toolchain_verify"), "verify", str(directory), wanted]
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(directory / "tmp"), "LC_ALL": "C"}
    return subprocess.run(argv, env=environment, capture_output=True, text=True, timeout=60, check=False)


@needs_compiler
def test_the_symbols_that_the_libraries_must_define_are_checked(tmp_path: Path) -> None:
    attach = "int mpt_pci_ca; void attach(void) { mpt_init(); panic(); }"
    library(tmp_path, "librumpdev_pci_scsi.a", mpt_pci=attach, mpt="void mpt_init(void) {}")
    assert verify(tmp_path, f"{MPT} mpt_init").returncode == 0
    assert verify(tmp_path, "").returncode == 0
    lacks = verify(tmp_path, f"{MPT} mpt_intr")
    assert lacks.returncode == 1 and "librumpdev_pci_scsi.a doesn't define mpt_intr" in lacks.stderr
    absent = verify(tmp_path, "librumpdev_pci.a ppb ppb_ca\n" + MPT)
    assert absent.returncode == 1 and "no librumpdev_pci.a" in absent.stderr


@needs_compiler
def test_an_undefined_symbol_is_named(tmp_path: Path) -> None:
    library(tmp_path, "librumpdev_pci_scsi.a", mpt_pci="int mpt_pci_ca; void attach(void) { mpt_intr(); panic(); }")
    done = verify(tmp_path, MPT)
    assert done.returncode == 1 and "has no definition of: mpt_intr" in done.stderr


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The pin of the miniature."""
    directory = tmp_path_factory.mktemp("rumprun") / "upstream"
    return pin(directory, make_rumprun.make(directory, ROOT / "examples")["commit"])


def built(directory: Path, source: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Let `change` modify the role's request, build the miniature with it, and return the answer."""
    wanted = toolchain(directory / "prefix", source, ["ppb", "pci_scsi"])
    change(wanted)
    answer: dict[str, Any] = provide(wanted, opener)
    return answer


def edit(wanted: dict[str, Any], name: str) -> dict[str, Any]:
    """Return the request's edit whose name ends in `name`."""
    found: dict[str, Any] = next(edit for edit in wanted["edits"] if edit["name"].endswith(name))
    return found


def absolute_objects(wanted: dict[str, Any]) -> None:
    for command in wanted["build"]["commands"]:
        command["argv"] = [word.replace("./obj", "@build@/obj") for word in command["argv"]]


def no_host_flags(wanted: dict[str, Any]) -> None:
    del wanted["build"]["environment"]["HOST_CFLAGS"]


def flags_in_the_hosts_compiler(wanted: dict[str, Any]) -> None:
    wanted["build"]["environment"]["HOST_CC"] += " -fcommon"


def a_host_without_cc(wanted: dict[str, Any]) -> None:
    # buildrump.sh looks for cc if HOST_CC isn't set.
    wanted["build"]["environment"]["HOST_CC"] = "no-such-cc"


def scsibus_named_again(wanted: dict[str, Any]) -> None:
    edit(wanted, "what attaches where")["create"] += "scsibus*\tat mpt?\n"


def no_pie_option(wanted: dict[str, Any]) -> None:
    prepare = wanted["build"]["commands"][0]["argv"]
    prepare[2] = prepare[2].replace("-fno-pie -no-pie ", "")


pie_by_default = shutil.which("gcc") is not None and "--enable-default-pie" in (
    subprocess.run(["gcc", "-v"], capture_output=True, text=True, timeout=20, check=False).stderr
)


@needs_compiler
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (absolute_objects, r"/source//\S*/build/obj/rumptools/rumpmake: not found"),
        (no_host_flags, "multiple definition of `debug_file'"),
        (flags_in_the_hosts_compiler, r'set \$\{HOST_CC\} to a host targeted cc \(now "gcc\S* -fcommon"\)'),
        (a_host_without_cc, r'set \$\{HOST_CC\} to a host targeted cc \(now "no-such-cc"\)'),
        (scsibus_named_again, "multiple definition of `rumpns_scsibus_cd'"),
        pytest.param(
            no_pie_option,
            "-r and -pie may not be used together",
            marks=pytest.mark.skipif(not pie_by_default, reason="this compiler makes no PIE by default"),
        ),
    ],
)
def test_a_wrong_recipe_fails_with_upstreams_message(
    tmp_path: Path, upstream: dict[str, Any], change: Callable[[dict[str, Any]], None], message: str
) -> None:
    answer = built(tmp_path, upstream, change)
    log = (tmp_path / "prefix/var/log/build/rump_toolchain.log").read_text()
    assert answer["failed"] and re.search(message, log), log[-2000:]
    assert os.listdir(tmp_path / "prefix/store") == []


def test_the_builds_own_tools_are_compiled_by_the_chosen_compiler() -> None:
    build = variable("__rump_toolchain_build", rump_toolchain_compiler="gcc-7")
    assert build["environment"]["HOST_CC"] == "gcc-7"
    assert build["environment"]["HOST_CFLAGS"].split() == ["-O", "-fcommon"]


@needs_compiler
def test_the_unchanged_recipe_builds(tmp_path: Path, upstream: dict[str, Any]) -> None:
    answer = built(tmp_path, upstream, lambda wanted: None)
    assert answer.get("state") == "installed", answer
    log = (tmp_path / "prefix/var/log/build/rump_toolchain.log").read_text()
    assert "verify: librumpdev_pci.a: ppb_ca\n" in log and log.rstrip().endswith("verify: hw_generic bakes")


@needs_compiler
@pytest.mark.parametrize("forgotten", ["mpt_debug.c", "mpt_netbsd.c mpt.c"])
def test_a_build_without_one_of_mpts_sources_fails_in_the_check(
    tmp_path: Path, upstream: dict[str, Any], forgotten: str
) -> None:
    def forget(wanted: dict[str, Any]) -> None:
        makefile = edit(wanted, "the component's Makefile")
        makefile["create"] = makefile["create"].replace(f" {forgotten}", "")

    answer = built(tmp_path, upstream, forget)
    assert answer["failed"] and "verify: librumpdev_pci_scsi.a" in answer["msg"]
    assert os.listdir(tmp_path / "prefix/store") == []
