"""Reads the files that provisioning writes for this tool (the seam).

docs/development/architecture.md defines the format of ``etc/rumplab.json`` and ``etc/components.d/NAME.json``.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import regular

SCHEMA = 1
DEFAULT_CONFIG = "/opt/rumplab/etc/rumplab.json"
DEFAULT_PROVISION = "./provision"
# The state of a component whose descriptor can't be read.
DAMAGED = "damaged"
REMEDY = "; write it again: "


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
    # Of a deferred component: `tried` is when a run last tried its source, `until` when a run tries again (ISO 8601).
    deferral: dict[str, str] = field(default_factory=dict)
    # The component's directory in the store; None for the host's own programs. For these, `fingerprints` maps each name
    # in `paths` to "SIZE MTIME": bytes and nanoseconds.
    tree: str | None = None
    fingerprints: dict[str, str] = field(default_factory=dict)

    @property
    def remedy(self) -> str:
        """The command that provisions this component."""
        return f"{self.provision} --tags {tag(self.name)}"

    def path(self, logical: str) -> str:
        """Returns the absolute path of `logical`. NotProvisioned if the descriptor has none, or nothing is there."""
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
        """Returns the installed component `name`. NotProvisioned if it is absent or deferred; RumplabError if its
        descriptor is damaged."""
        remedy = f"{self.provision} --tags {tag(name)}"
        path = self.components_dir / f"{name}.json"
        if not os.path.lexists(path):
            raise NotProvisioned(f"{name} is not provisioned; run: {remedy}")
        component = self._read(path)
        if component.state != "installed":
            why = component.reason or "no reason recorded"
            raise NotProvisioned(f"{name} is {component.state} ({why}); remove that cause, then run: {remedy}")
        return component

    def components(self) -> list[Component]:
        """Returns all components, deferred ones too, sorted by name. If a descriptor can't be read or is lost, the
        component has the state ``damaged`` and its reason says why; the others are returned all the same."""
        found = {}
        for path in self.components_dir.glob("*.json"):
            try:
                found[path.stem] = self._read(path)
            except RumplabError as error:
                found[path.stem] = self._damaged(path.stem, str(error))
        for name in self._trees() - found.keys():
            found[name] = self._damaged(name, f"{self.components_dir / name}.json is lost")
        return [found[name] for name in sorted(found)]

    def _trees(self) -> set[str]:
        """Returns the names of the trees in use: those of the links in the prefix that lead into the store."""
        try:
            with os.scandir(self.prefix) as entries:
                links = [entry for entry in entries if entry.is_symlink() and not entry.name.startswith(".")]
            return {link.name for link in links if os.readlink(link.path).startswith("store" + os.sep)}
        except OSError:
            return set()

    def _damaged(self, name: str, why: str) -> Component:
        return Component(
            name=name,
            state=DAMAGED,
            version=None,
            wanted=None,
            stamp="",
            source=None,
            reason=why.partition(REMEDY)[0],
            paths={},
            provision=self.provision,
        )

    def _read(self, path: Path) -> Component:
        remedy = f"{self.provision} --tags {tag(path.stem)}"
        data = read_object(path, remedy)
        name = text(data, "name", path, remedy)
        if name != path.stem:
            raise RumplabError(f"{path} describes {name!r}{REMEDY}{remedy}")
        return Component(
            name=name,
            state=text(data, "state", path, remedy),
            version=optional_text(data, "version", path, remedy),
            wanted=optional_text(data, "wanted", path, remedy),
            stamp=optional_text(data, "stamp", path, remedy) or "",
            source=optional_text(data, "source", path, remedy),
            reason=optional_text(data, "reason", path, remedy),
            paths=strings(data, "paths", path, remedy),
            provision=self.provision,
            deferral=deferral(data.get("deferral")),
            tree=optional_text(data, "tree", path, remedy),
            fingerprints=strings(data, "fingerprints", path, remedy),
        )


def deferral(found: Any) -> dict[str, str]:
    """Returns the times of a descriptor's deferral; empty if it has none, as in an older lab."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), str) for key in ("tried", "until")):
        return {}
    return {key: found[key] for key in ("tried", "until")}


def tag(component: str) -> str:
    """Returns the tag that makes ``./provision`` provide `component`. It is the component's name, except for the parts
    of a NetBSD release: one role provides several of them."""
    if not component.startswith("netbsd_"):
        return component
    return "ipkdb" if component.endswith("_ipkdb") else "netbsd_guest"


def read_object(path: Path, remedy: str) -> dict[str, Any]:
    """Returns the JSON object of schema 1 in the file `path`. RumplabError, with the file and `remedy`, if it holds
    anything else."""
    try:
        with open(path, encoding="utf-8", opener=regular.plain) as stream:
            data = json.load(stream)
    except OSError as error:
        hint = "; check its permissions" if isinstance(error, PermissionError) else f"{REMEDY}{remedy}"
        raise RumplabError(f"cannot read {path}: {error.strerror}{hint}") from error
    except UnicodeDecodeError as error:
        raise RumplabError(f"{path} is not UTF-8 ({error.reason}){REMEDY}{remedy}") from error
    except json.JSONDecodeError as error:
        raise RumplabError(
            f"{path} is not JSON (line {error.lineno}, column {error.colno}: {error.msg}){REMEDY}{remedy}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise RumplabError(f"{path} holds JSON that can't be read ({error}){REMEDY}{remedy}") from error
    if not isinstance(data, dict):
        raise RumplabError(f"{path} does not hold a JSON object{REMEDY}{remedy}")
    if data.get("schema") != SCHEMA:
        raise RumplabError(f"{path} has schema {data.get('schema')!r}, this tool reads {SCHEMA}{REMEDY}{remedy}")
    return data


def is_text(value: Any) -> bool:
    """Returns whether `value` is a string that works as a file name and as a program's argument."""
    try:
        return isinstance(value, str) and b"\0" not in value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False


def text(data: dict[str, Any], key: str, path: Path, remedy: str) -> str:
    """Returns the non-empty string under `key`; RumplabError if there is none."""
    value = data.get(key)
    if not is_text(value) or not value:
        raise RumplabError(f"{path}: '{key}' must be a non-empty string{REMEDY}{remedy}")
    return value


def optional_text(data: dict[str, Any], key: str, path: Path, remedy: str) -> str | None:
    """Returns the string under `key`, or None if there is none; RumplabError for a value of another type."""
    value = data.get(key)
    if value is not None and not is_text(value):
        raise RumplabError(f"{path}: '{key}' must be a string{REMEDY}{remedy}")
    return value


def strings(data: dict[str, Any], key: str, path: Path, remedy: str) -> dict[str, str]:
    """Returns the object of strings under `key`, empty if there is none; RumplabError for a value of another type."""
    value = data.get(key, {})
    if not isinstance(value, dict) or not all(is_text(one) for one in value.values()):
        raise RumplabError(f"{path}: '{key}' must be an object of strings{REMEDY}{remedy}")
    return value


def config_path() -> Path:
    """Returns the path of the lab's configuration file: RUMPLAB_CONFIG, or the default."""
    return Path(os.environ.get("RUMPLAB_CONFIG") or DEFAULT_CONFIG)


def is_of(path: Path, prefix: Path) -> bool:
    """Returns whether `path` is the configuration file of the lab at `prefix`."""
    try:
        return os.path.samefile(path, prefix / "etc" / path.name)
    except (OSError, ValueError):
        return False


def load() -> Lab:
    """Returns this host's lab. NotProvisioned if there is none; RumplabError if its configuration is damaged."""
    path = config_path()
    if not path.exists():
        raise NotProvisioned(
            f"no lab here: {path} does not exist; provision one with {DEFAULT_PROVISION}"
            " (or point RUMPLAB_CONFIG at another lab's rumplab.json)"
        )
    data = read_object(path, DEFAULT_PROVISION)
    prefix = Path(text(data, "prefix", path, DEFAULT_PROVISION))
    if not is_of(path, prefix):
        raise RumplabError(f"{path} describes the lab at {prefix}, but is not in that lab{REMEDY}{DEFAULT_PROVISION}")
    return Lab(
        prefix=prefix,
        user=text(data, "user", path, DEFAULT_PROVISION),
        group=optional_text(data, "group", path, DEFAULT_PROVISION) or "",
        version=text(data, "version", path, DEFAULT_PROVISION),
        provision=optional_text(data, "provision", path, DEFAULT_PROVISION) or DEFAULT_PROVISION,
    )
