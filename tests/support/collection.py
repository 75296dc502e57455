"""Build and install the repository as a collection, as a user does, but without Galaxy."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
GALAXY = ROOT / "galaxy.yml"
NAME = "rumplab.lab"
# ansible-galaxy is in the directory of the Python that runs the tests.
PROGRAMS = Path(sys.executable).parent


def galaxy(*arguments: str, cwd: Path) -> str:
    """Run ansible-galaxy, which must succeed, and return its output.

    Without ANSIBLE_ variables, it finds no other installation of the collection.
    """
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
    """Build the collection's archive in a directory, and return its path."""
    galaxy("build", str(ROOT), "--output-path", str(directory), cwd=directory)
    described = yaml.safe_load(GALAXY.read_text("utf-8"))
    return directory / f"{described['namespace']}-{described['name']}-{described['version']}.tar.gz"


def install(directory: Path) -> Path:
    """Build the collection and install it below a directory; return the path for ANSIBLE_COLLECTIONS_PATH."""
    path = directory / "installed"
    # Ansible brings the collections that this one depends on.
    said = galaxy(
        "install", str(build(directory)), "--collections-path", str(path), "--no-deps", "--offline", cwd=directory
    )
    assert place(path).is_dir(), said
    return path


def place(path: Path) -> Path:
    """Return the directory of the collection below a path of ANSIBLE_COLLECTIONS_PATH."""
    return path.joinpath("ansible_collections", *NAME.split("."))
