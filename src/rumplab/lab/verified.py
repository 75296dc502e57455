"""Records in ``<prefix>/var/verified.json`` which state of the lab last passed ``rumplab smoke``.

The state is the SHA-256 of lines ``NAME STAMP``, one for each installed component, sorted by name. So the record no
longer applies after a component was installed, changed or removed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from datetime import datetime, timezone
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.lab.config import SCHEMA, Component, Lab, read_object


def state_of(components: Iterable[Component]) -> str:
    """Returns the state of `components`: 64 hexadecimal digits."""
    installed = (component for component in components if component.state == "installed")
    lines = sorted(f"{component.name} {component.stamp}\n" for component in installed)
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def record_path(lab: Lab) -> Path:
    """Returns the path of the record."""
    return lab.prefix / "var" / "verified.json"


def is_verified(lab: Lab, components: Iterable[Component]) -> bool:
    """Returns whether `components` are in the state that last passed. RumplabError if the record is damaged."""
    path = record_path(lab)
    if not path.exists():
        return False
    return read_object(path, "rumplab smoke --record").get("state") == state_of(components)


def record(lab: Lab) -> None:
    """Records that the present state has passed. Replaces the file in one step. RumplabError if it can't be
    written."""
    path = record_path(lab)
    data = {
        "schema": SCHEMA,
        "state": state_of(lab.components()),
        "verified": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise RumplabError(f"cannot write {path}: {error.strerror}; run this as {lab.user}") from error
