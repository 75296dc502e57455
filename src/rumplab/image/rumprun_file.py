"""rumprun's configuration for the verbs that take one, without loading a YAML reader before it is needed."""

from __future__ import annotations

from pathlib import Path

from rumplab.errors import NotProvisioned
from rumplab.lab.config import Lab

# rumprun_schema has a function for each; the first is the default.
SCHEMAS = ("new", "old")


def make(path: Path, kind: str | None, lab: Lab, option: str) -> bytes:
    """rumprun's JSON made of the YAML file `path`, which `option` named, in schema `kind` or the default one.
    NotProvisioned when there is no YAML reader."""
    try:
        from rumplab.image import rumprun_config
    except ImportError as error:
        raise NotProvisioned(
            f"the runtime tool has no PyYAML, which {option} needs; provision it: {lab.provision} --tags lab"
        ) from error
    return rumprun_config.configuration(path, kind or SCHEMAS[0])
