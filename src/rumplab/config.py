"""Reads the seam between provisioning and this tool.

The format of ``etc/rumplab.json`` and ``etc/components.d/NAME.json`` is defined in docs/architecture.md.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumplab.errors import NotProvisioned, RumplabError

SCHEMA = 1
DEFAULT_CONFIG = "/opt/rumplab/etc/rumplab.json"
DEFAULT_PROVISION = "./provision"


@dataclass(frozen=True)
class Component:
    """One component's descriptor. ``paths`` maps a logical name to an absolute path."""

    name: str
    state: str
    version: str | None
    wanted: str | None
    stamp: str
    source: str | None
    reason: str | None
    paths: dict[str, str]
    provision: str = field(default=DEFAULT_PROVISION, repr=False)
    # When what couldn't be reached was tried, and until when that is remembered; empty where nothing is waited for.
    deferral: dict[str, str] = field(default_factory=dict)

    @property
    def remedy(self) -> str:
        """The command that provisions this component."""
        return f"{self.provision} --tags {tag(self.name)}"

    def path(self, logical: str) -> str:
        """The absolute path of `logical`. NotProvisioned when it is unnamed or no longer there."""
        try:
            path = self.paths[logical]
        except KeyError:
            raise NotProvisioned(
                f"component {self.name} has no path for {logical}; provision it again: {self.remedy}"
            ) from None
        if not os.path.exists(path):
            raise NotProvisioned(f"{path} of component {self.name} is missing; restore it: {self.remedy}")
        return path


@dataclass(frozen=True)
class Lab:
    """A provisioned lab, as ``etc/rumplab.json`` describes it."""

    prefix: Path
    user: str
    group: str
    version: str
    provision: str

    @property
    def components_dir(self) -> Path:
        return self.prefix / "etc" / "components.d"

    def component(self, name: str) -> Component:
        """The installed component `name`. NotProvisioned when it is absent or deferred."""
        remedy = f"{self.provision} --tags {tag(name)}"
        path = self.components_dir / f"{name}.json"
        if not path.is_file():
            raise NotProvisioned(f"{name} is not provisioned; run: {remedy}")
        component = self._read(path)
        if component.state != "installed":
            why = component.reason or "no reason recorded"
            raise NotProvisioned(f"{name} is {component.state} ({why}); complete it: {remedy}")
        return component

    def components(self) -> list[Component]:
        """Every component that has a descriptor, deferred ones too, by name."""
        return [self._read(path) for path in sorted(self.components_dir.glob("*.json"))]

    def _read(self, path: Path) -> Component:
        remedy = f"{self.provision} --tags {tag(path.stem)}"
        data = read_object(path, remedy)
        paths = data.get("paths", {})
        if not isinstance(paths, dict) or not all(isinstance(value, str) for value in paths.values()):
            raise RumplabError(f"{path}: 'paths' must be an object of strings; write it again: {remedy}")
        return Component(
            name=text(data, "name", path, remedy),
            state=text(data, "state", path, remedy),
            version=maybe(data, "version", path, remedy),
            wanted=maybe(data, "wanted", path, remedy),
            stamp=maybe(data, "stamp", path, remedy) or "",
            source=maybe(data, "source", path, remedy),
            reason=maybe(data, "reason", path, remedy),
            paths=paths,
            provision=self.provision,
            deferral=deferral(data.get("deferral")),
        )


def deferral(found: Any) -> dict[str, str]:
    """The times of a descriptor's deferral; nothing where it has none, as those of older labs."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("tried", "until")):
        return {}
    return {key: found[key] for key in ("tried", "until")}


def tag(component: str) -> str:
    """What ``./provision --tags`` calls the role that provides `component`: the same, but for the parts of a NetBSD
    release, of which there are several for each machine."""
    if not component.startswith("netbsd_"):
        return component
    return "ipkdb" if component.endswith("_ipkdb") else "netbsd_guest"


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """The JSON object of schema 1 in `path`; RumplabError names the file and `remedy` if it isn't one."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    except UnicodeDecodeError as error:
        raise RumplabError(f"{path} is not UTF-8 ({error.reason}); write it again: {remedy}") from error
    except json.JSONDecodeError as error:
        raise RumplabError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg});"
            f" write it again: {remedy}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RumplabError(f"{path} holds what no tool wrote ({error}); write it again: {remedy}") from error
    if not isinstance(data, dict):
        raise RumplabError(f"{path} does not hold a JSON object; write it again: {remedy}")
    if data.get("schema") != SCHEMA:
        raise RumplabError(
            f"{path} has schema {data.get('schema')!r}, this tool reads {SCHEMA}; write it again: {remedy}"
        )
    return data


def text(data: dict[str, Any], key: str, path: Path, remedy: str) -> str:
    """The non-empty string under `key`; RumplabError otherwise."""
    value = data.get(key)
    if not isinstance(value, str) or not value:
        raise RumplabError(f"{path}: '{key}' must be a non-empty string; write it again: {remedy}")
    return value


def maybe(data: dict[str, Any], key: str, path: Path, remedy: str) -> str | None:
    """The string under `key`, None where there is none; RumplabError for anything else."""
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise RumplabError(f"{path}: '{key}' must be a string; write it again: {remedy}")
    return value


def config_path() -> Path:
    """Where the lab's configuration is expected."""
    return Path(os.environ.get("RUMPLAB_CONFIG") or DEFAULT_CONFIG)


def load() -> Lab:
    """The lab of this host. NotProvisioned when there is none; RumplabError when its file is damaged."""
    path = config_path()
    if not path.exists():
        raise NotProvisioned(
            f"no lab here: {path} does not exist; provision one with {DEFAULT_PROVISION}"
            " (or point RUMPLAB_CONFIG at another lab's rumplab.json)"
        )
    data = read_object(path, DEFAULT_PROVISION)
    return Lab(
        prefix=Path(text(data, "prefix", path, DEFAULT_PROVISION)),
        user=text(data, "user", path, DEFAULT_PROVISION),
        group=maybe(data, "group", path, DEFAULT_PROVISION) or "",
        version=text(data, "version", path, DEFAULT_PROVISION),
        provision=maybe(data, "provision", path, DEFAULT_PROVISION) or DEFAULT_PROVISION,
    )
