"""The recipes of role go_builder on the miniature gorump: the settings of make.bash, and moving a tree."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream import make_gorump
from fixtures.upstream.support import OTHER, STAMP, opener, provide, request
from upstream.anchors import edits_of, variable_of

pytestmark = pytest.mark.skipif(shutil.which("go") is None, reason="no go")
HELLO = """package main

func main() {
	println("hello from Go")
}
"""
CALLER = """package main

import "C"

//export gomaincaller
func gomaincaller() { main() }
"""
STUB = "void gomaincaller(void); int main(void) { gomaincaller(); return 0; }\n"


def plain(name: str, **settings: Any) -> Any:
    return variable_of("go_builder", name, settings)


def wanted(prefix: Path, upstream: Path, pins: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the role's requests: the bootstrap compiler, and the tree that is built with it."""
    archive = {"urls": [], "sha256": pins["sha256"]}
    repository = {"git": str(upstream / "git/gorump.git"), "commit": pins["commit"], "submodules": False}
    paths = plain("__go_builder_paths")
    bootstrap = request(
        prefix,
        {**archive, "urls": [f"https://nowhere.invalid/{make_gorump.ARCHIVE}"]},
        name="go_bootstrap",
        build=plain("__go_builder_bootstrap_build"),
        paths=paths,
        candidates=["mirror"],
        mirror=str(upstream / "files"),
        stamps={"upstream": OTHER},
    )
    builder = request(
        prefix,
        repository,
        name="go_builder",
        edits=edits_of("go_builder"),
        build=plain("__go_builder_build"),
        paths=paths,
        needs={"go_bootstrap": OTHER},
        candidates=["upstream"],
        build_timeout=120.0,
        stamps={"upstream": STAMP},
    )
    return [bootstrap, builder]


@pytest.fixture(scope="module")
def prefix(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prefix with both trees. Its path has a blank, which make.bash must not get."""
    upstream = tmp_path_factory.mktemp("upstream") / "here"
    pins = make_gorump.make(upstream)
    made = tmp_path_factory.mktemp("a lab")
    for one in wanted(made, upstream, pins):
        answer = provide(one, opener)
        assert answer.get("state") == "installed", answer
    return made


def test_make_bash_gets_the_settings_that_upstream_documents(prefix: Path) -> None:
    record = (prefix / "go_builder/make.record").read_text().splitlines()
    settings = dict(line.split("=", 1) for line in record if "=" in line)
    bootstrap = settings.pop("GOROOT_BOOTSTRAP")
    assert settings == {
        "CGO_ENABLED": "0",
        "GOARCH": "amd64",
        "GOOS": "rumprun",
        "GOROOT_FINAL": "/rumplab-go",
    }
    assert " " not in bootstrap and bootstrap.endswith("/needs/go_bootstrap")
    assert record[0] == "arguments: "
    assert record[-1] == f"bootstrap: {make_gorump.VERSION}"


@pytest.mark.parametrize(
    ("where", "settings", "message"),
    [
        ("src", {"GOOS": "linux"}, "THIS SETUP IS ONLY FOR BUILDING CROSS-TOOLCHAINS FOR HOST"),
        ("src", {"GOROOT_BOOTSTRAP": "/nonexistent"}, "ERROR: Cannot find /nonexistent/bin/go"),
        ("src", {"GOROOT_BOOTSTRAP": "@tree@"}, "must not be set to $GOROOT"),
        (".", {}, "in its own directory"),
    ],
)
def test_the_miniature_make_bash_refuses_what_upstreams_refuses(
    tmp_path: Path, where: str, settings: dict[str, str], message: str
) -> None:
    make_gorump.write_trees(tmp_path / "gorump")
    tree = tmp_path / "gorump/go1.5"
    (tree / "bin/go").chmod(0o755)
    told = {"GOOS": "rumprun", "GOARCH": "amd64", "GOROOT_BOOTSTRAP": "/nonexistent", **settings}
    if message.startswith("THIS"):
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin/go").symlink_to(shutil.which("go") or "go")
        told["GOROOT_BOOTSTRAP"] = str(tmp_path)
    environment = {"PATH": os.environ["PATH"], **{name: one.replace("@tree@", str(tree)) for name, one in told.items()}}
    argv = ["bash", str(tree / "src/make.bash")]
    done = subprocess.run(argv, cwd=tree / where, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1 and message in done.stdout + done.stderr


def test_no_binary_that_upstream_committed_is_used_or_installed(prefix: Path) -> None:
    assert "left of others" not in (prefix / "go_builder/make.record").read_text()
    assert sorted(path.name for path in (prefix / "go_builder/pkg").iterdir()) == ["tool"]
    assert (prefix / "go_builder/bin/go").read_bytes()[:4] == b"\x7fELF"


def test_the_installed_tree_is_the_edited_go_tree(prefix: Path) -> None:
    assert (prefix / "go_builder/VERSION").read_text() == "go1.5.1-miniature\n"
    assert "l < len(p)" in (prefix / "go_builder/src/runtime/string1.go").read_text()


def go(root: Path, program: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    """Run a tree's go in the program's directory, as `rumplab build` does, with the tree's path in GOROOT."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(program),
        "CC": "gcc",
        "CGO_ENABLED": "1",
        "GOROOT": str(root),
        **more,
    }
    argv = [str(root / "bin/go"), *arguments]
    return subprocess.run(argv, cwd=program, env=environment, capture_output=True, text=True, timeout=300)


def output_of(program: Path, *libraries: str) -> str:
    """Link the archive with a stub, and return what the program prints."""
    (program / "stub.c").write_text(STUB)
    argv = ["gcc", "-o", "program", "stub.c", "program.a", *libraries]
    subprocess.run(argv, cwd=program, timeout=60, check=True)
    done = subprocess.run([str(program / "program")], capture_output=True, text=True, timeout=20, check=True)
    return (done.stdout + done.stderr).strip()


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """The directory of a Go program."""
    made = tmp_path / "program"
    made.mkdir()
    (made / "main.go").write_text(HELLO)
    (made / "caller.go").write_text(CALLER)
    return made


ARCHIVE = ("build", "-buildmode=c-archive", "-o", "program.a", "main.go", "caller.go")


def test_a_tree_that_moved_still_builds(prefix: Path, program: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere" / "go"
    shutil.copytree(prefix / "go_builder", moved, symlinks=True)
    lost = go(moved, program, *ARCHIVE, GOOS="rumprun", GOROOT="")
    assert (lost.returncode, lost.stderr) == (2, "go: cannot find GOROOT directory: /rumplab-go\n")
    done = go(moved, program, *ARCHIVE, GOOS="rumprun")
    assert done.returncode == 0, done.stderr
    assert output_of(program) == "hello from Go"


def test_a_real_go_that_moved_still_builds(program: Path, tmp_path: Path) -> None:
    asked = subprocess.run(["go", "env", "GOROOT"], capture_output=True, text=True, timeout=20, check=True)
    root = asked.stdout.strip()
    moved = tmp_path / "elsewhere" / "go"
    (moved / "bin").mkdir(parents=True)
    shutil.copy(Path(root, "bin/go").resolve(), moved / "bin/go")
    # Link the large directories instead of copying them: Go uses the new path in either case.
    for name in ("pkg", "src"):
        (moved / name).symlink_to(Path(root, name).resolve())
    done = go(moved, program, *ARCHIVE, GO111MODULE="off")
    assert done.returncode == 0, done.stderr
    assert output_of(program, "-lpthread") == "hello from Go"


@pytest.mark.parametrize(
    ("system", "architecture", "supported"),
    [("Linux", "x86_64", True), ("Linux", "aarch64", False), ("Darwin", "x86_64", False), ("Darwin", "arm64", False)],
)
def test_hosts_on_which_its_tools_cannot_run_are_unsupported(system: str, architecture: str, supported: bool) -> None:
    facts = {"ansible_facts": {"system": system, "architecture": architecture}}
    assert plain("__go_builder_supported", **facts) is supported
    assert f"{system} {architecture}" in plain("__go_builder_unsupported", **facts)
