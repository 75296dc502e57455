"""A toolchain for tests of `rumplab build`: the host's compiler with a cross compiler's name, and a bake that copies.

The name is that of a compiler for this host's system, so that the built programs run here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.labfixture import SECONDS, LabPrefix, host_tool

GCC = "x86_64-linux-gnu-gcc"
RUMPRUN_GCC = "x86_64-rumprun-netbsd-gcc"
CONFIGURATIONS = """\
version 20160209
conf _private
\tcreate "not for users"
fnoc
conf hw_generic
\tcreate "everything"
fnoc
conf hw_virtio
\tcreate "some"
fnoc
"""
# Each call adds a line to the log: the tool's name and its arguments.
WRAPPER = """\
#!/bin/sh
printf '%s' "${{0##*/}}" >> {log}
printf ' %s' "$@" >> {log}
echo >> {log}
{action}
"""


@dataclass(frozen=True)
class Toolchain:
    """The components rump_toolchain and go_builder of `lab`, whose programs are scripts in `directory`."""

    lab: LabPrefix
    directory: Path

    @property
    def log(self) -> Path:
        return self.directory / "log"

    def script(self, name: str, action: str) -> str:
        """Write the program `name`, which runs `action`, a piece of shell; return its path."""
        path = self.directory / "bin" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # A new file, because a running script must not change.
        path.unlink(missing_ok=True)
        path.write_text(WRAPPER.format(log=self.log, action=action), encoding="utf-8")
        path.chmod(0o755)
        return str(path)

    def provide(self, gcc: str = GCC, compile_action: str | None = None, bake: str = 'cp "$3" "$2"') -> None:
        """Write the descriptor of component rump_toolchain, and its programs."""
        configuration = self.directory / "etc" / "rumprun-bake.conf"
        configuration.parent.mkdir(parents=True, exist_ok=True)
        configuration.write_text(CONFIGURATIONS, encoding="utf-8")
        action = f'exec {host_tool("gcc")} "$@"' if compile_action is None else compile_action
        paths = {
            "rumprun-gcc": self.script(gcc, action),
            "rumprun-bake": self.script("rumprun-bake", bake),
            "bake-conf": str(configuration),
        }
        self.lab.component("rump_toolchain", paths, source="upstream")

    def provide_go(self, action: str, goroot: Path) -> None:
        """Write the descriptor of component go_builder, whose `go` runs `action`."""
        self.lab.component("go_builder", {"go": self.script("go", action), "goroot": str(goroot)})

    def calls(self) -> list[str]:
        """Return the calls since the last call of this method, one line each."""
        lines = self.log.read_text(encoding="utf-8").splitlines() if self.log.exists() else []
        self.log.unlink(missing_ok=True)
        return lines

    def build(
        self, *arguments: str | Path, where: Path | None = None, settings: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Run ``rumplab build ARGUMENTS`` in `where`, with its own cache and these environment variables."""
        return subprocess.run(
            self.lab.argv("build", *arguments),
            env=self.environment(settings),
            cwd=where,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=10 * SECONDS,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start ``rumplab build ARGUMENTS``, and don't wait."""
        return subprocess.Popen(
            self.lab.argv("build", *arguments),
            env=self.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def environment(self, settings: Mapping[str, str] | None = None) -> dict[str, str]:
        own = {"XDG_CACHE_HOME": str(self.cache), "GOPATH": str(self.directory / "gopath"), "LC_ALL": "C"}
        return {**self.lab.environment, **own, **(settings or {})}

    @property
    def cache(self) -> Path:
        return self.directory / "cache"

    def left(self) -> list[str]:
        """Return the work directories that builds have left."""
        return [str(path) for path in self.cache.rglob("work")]


def make_toolchain(lab: LabPrefix, directory: Path) -> Toolchain:
    """Make a toolchain for C programs; tests that need Go call `provide_go`."""
    toolchain = Toolchain(lab, directory)
    toolchain.provide()
    return toolchain


def real_go() -> tuple[str, Path]:
    """Return the host's Go and its GOROOT. Skip the test if Go isn't installed, or the host isn't x86-64."""
    go = host_tool("go")
    if os.uname().machine != "x86_64":
        pytest.skip("the tests' toolchain needs an x86-64 host")
    asked = subprocess.run([go, "env", "-json", "GOROOT"], capture_output=True, text=True, timeout=SECONDS, check=True)
    goroot = Path(json.loads(asked.stdout)["GOROOT"])
    return str(goroot / "bin" / "go"), goroot


def write(directory: Path, files: dict[str, str]) -> Path:
    """Write `files`, contents by path, below `directory`; return `directory`."""
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return directory


def output_of(program: Path, *arguments: str, **environment: str) -> str:
    """Run the built program on this host, and return its standard output."""
    done = subprocess.run(
        [str(program), *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )
    return done.stdout


def fake_goroot(directory: Path, release: str = "go1.5.1") -> Path:
    """Make a GOROOT with a VERSION and the standard packages fmt and os, which are empty."""
    shutil.rmtree(directory, ignore_errors=True)
    return write(directory, {"VERSION": release, "src/fmt/fmt.go": "package fmt\n", "src/os/os.go": "package os\n"})
