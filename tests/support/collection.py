"""The repository as a collection: built and installed as a user would, but without Galaxy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = ROOT / "galaxy.yml"
NAME = "rumplab.lab"
# Beside the Python that runs the tests.
PROGRAMS = Path(sys.executable).parent


def galaxy(*arguments: str, cwd: Path) -> str:
    """Run ansible-galaxy, which must succeed; its output. It is to know no other place where the collection stands."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    done = subprocess.run(
        [str(PROGRAMS / "ansible-galaxy"), "collection", *arguments],
        cwd=cwd,
        env={**kept, "ANSIBLE_NOCOLOR": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def build(directory: Path) -> Path:
    """Build the collection's archive in a directory."""
    galaxy("build", str(ROOT), "--output-path", str(directory), cwd=directory)
    described = yaml.safe_load(GALAXY.read_text("utf-8"))
    return directory / f"{described['namespace']}-{described['name']}-{described['version']}.tar.gz"


def install(directory: Path) -> Path:
    """Build and install it below a directory; the path for ANSIBLE_COLLECTIONS_PATH."""
    path = directory / "installed"
    # The collections that it depends on came with Ansible.
    said = galaxy(
        "install", str(build(directory)), "--collections-path", str(path), "--no-deps", "--offline", cwd=directory
    )
    assert place(path).is_dir(), said
    return path


def place(path: Path) -> Path:
    """Where the collection stands below such a path."""
    return path.joinpath("ansible_collections", *NAME.split("."))
