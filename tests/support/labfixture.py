"""A lab made of the host's tools, for tests of the runtime tool. tests/unit/conftest.py has the fixtures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[2] / "src"
SECONDS = 60
STAMP = "0123456789ab" * 5 + "0123"


@dataclass(frozen=True)
class LabPrefix:
    """A prefix as provisioning makes it.

    `runtime` is the directory of the user's files. Its path is short, because the path of a socket is limited.
    """

    prefix: Path
    runtime: Path

    @property
    def config(self) -> Path:
        return self.prefix / "etc" / "rumplab.json"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of a shell that uses this lab."""
        return {
            **os.environ,
            "RUMPLAB_CONFIG": str(self.config),
            "PYTHONPATH": str(SOURCE),
            "XDG_STATE_HOME": str(self.runtime),
            "XDG_RUNTIME_DIR": str(self.runtime),
        }

    def write_config(self, **changes: Any) -> None:
        data = {
            "schema": 1,
            "version": "0.1.0",
            "prefix": str(self.prefix),
            "user": "lab",
            "group": "lab",
            "provision": "./provision",
        }
        self.config.write_text(json.dumps({**data, **changes}), encoding="utf-8")

    def descriptor(self, name: str) -> Path:
        return self.prefix / "etc" / "components.d" / f"{name}.json"

    def component(self, name: str, paths: dict[str, str], /, **changes: Any) -> None:
        """Write the descriptor of a component; `changes` replace its keys."""
        data = {
            "schema": 1,
            "name": name,
            "state": "installed",
            "version": "1.0",
            "wanted": "1.0",
            "stamp": STAMP,
            "source": "packages",
            "origin": name,
            "licence": "MIT",
            "tree": None,
            "paths": paths,
            "reason": None,
            "installed": "2026-01-01T00:00:00Z",
        }
        self.descriptor(name).write_text(json.dumps({**data, **changes}), encoding="utf-8")

    def tool(self, *arguments: str | Path, timeout: float = SECONDS) -> subprocess.CompletedProcess[str]:
        """Run ``rumplab ARGUMENTS`` in this lab."""
        return subprocess.run(
            self.argv(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )

    def start(self, *arguments: str | Path) -> subprocess.Popen[str]:
        """Start ``rumplab ARGUMENTS`` in this lab, and don't wait."""
        return subprocess.Popen(
            self.argv(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def gdb(self, *commands: str, timeout: float = SECONDS) -> str:
        """Run the host's GDB with `commands`, which may start ``rumplab`` in this lab; return its output."""
        argv = [host_tool("gdb"), "-nx", "-batch", *(part for one in commands for part in ("-ex", one))]
        done = subprocess.run(
            argv,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        return done.stdout

    def argv(self, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-m", "rumplab", *map(str, arguments)]

    def machines(self) -> list[dict[str, Any]]:
        """Return what ``rumplab ps --json`` lists."""
        result = self.tool("ps", "--json")
        assert result.returncode == 0, result.stderr
        machines: list[dict[str, Any]] = json.loads(result.stdout)
        return machines


def make_lab(prefix: Path, runtime: Path) -> LabPrefix:
    """Make a configured lab without components."""
    (prefix / "etc" / "components.d").mkdir(parents=True)
    (prefix / "var").mkdir()
    for directory in ("var", "etc"):
        (prefix / directory / "manifest.json").write_text('{"entries": []}\n', encoding="utf-8")
    lab = LabPrefix(prefix, runtime)
    lab.write_config()
    return lab


def host_tool(name: str) -> str:
    """Return the path of a program of this host. Skip the test if it isn't installed."""
    path = shutil.which(name)
    if path is None:
        # Imported here, because benchmarks make labs too and run without pytest.
        import pytest

        pytest.skip(f"{name} is not installed")
    return path
