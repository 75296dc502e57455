"""A lab made of the host's own tools, for tests of the runtime tool. conftest.py has the fixtures."""

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
    """A prefix as provisioning leaves it. `runtime` is short, for the paths of sockets: it takes what is the user's."""

    prefix: Path
    runtime: Path

    @property
    def config(self) -> Path:
        return self.prefix / "etc" / "rumplab.json"

    @property
    def environment(self) -> dict[str, str]:
        """What a shell with this lab's launcher on its PATH would have."""
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
        """Writes a descriptor; `changes` replace its keys."""
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
        """Runs ``rumplab ARGUMENTS`` in this lab."""
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
        """The same without waiting."""
        return subprocess.Popen(
            self.argv(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def gdb(self, *commands: str, timeout: float = SECONDS) -> str:
        """What the host's GDB prints for `commands`, of which some may start ``rumplab`` in this lab."""
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
        """What ``rumplab ps --json`` says."""
        result = self.tool("ps", "--json")
        assert result.returncode == 0, result.stderr
        machines: list[dict[str, Any]] = json.loads(result.stdout)
        return machines


def make_lab(prefix: Path, runtime: Path) -> LabPrefix:
    """An empty lab: configured, no components."""
    (prefix / "etc" / "components.d").mkdir(parents=True)
    (prefix / "var").mkdir()
    for directory in ("var", "etc"):
        (prefix / directory / "manifest.json").write_text('{"entries": []}\n', encoding="utf-8")
    lab = LabPrefix(prefix, runtime)
    lab.write_config()
    return lab


def host_tool(name: str) -> str:
    """The path of a program of this host; skips the test where it isn't installed."""
    path = shutil.which(name)
    if path is None:
        # Benches make labs too, where there is no pytest.
        import pytest

        pytest.skip(f"{name} is not installed")
    return path
