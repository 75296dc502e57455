"""rumprun's configuration, for the verbs that accept one. The YAML parser is loaded only when it is needed."""

from __future__ import annotations

from pathlib import Path

from rumplab.errors import NotProvisioned
from rumplab.lab.config import Lab

# The schemas; rumprun_schema has a function for each. The first one is the default.
SCHEMAS = ("new", "old")


def make(path: Path, kind: str | None, lab: Lab, option: str) -> bytes:
    """The YAML file `path`, which the user gave with `option`, as JSON for rumprun in schema `kind` (None: the
    default). NotProvisioned when PyYAML isn't installed."""
    try:
        from rumplab.image import rumprun_config
    except ImportError as error:
        raise NotProvisioned(
            f"the runtime tool has no PyYAML, which {option} needs; provision it: {lab.provision} --tags lab"
        ) from error
    return rumprun_config.configuration(path, kind or SCHEMAS[0])
