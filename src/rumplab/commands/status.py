"""``rumplab status``: what is provisioned, from where, and whether that has been verified."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import dataclass
from typing import Any

from rumplab import output
from rumplab.container import builder_images
from rumplab.container.builder_images import Described
from rumplab.errors import RumplabError
from rumplab.lab import config, verified
from rumplab.lab.config import DAMAGED, Component, Lab

EPILOG = """\
SOURCE is where a component came from: upstream, mirror, substitute (the distribution's package in place of upstream),
packages (the host's own) or bundle (this repository). STATE 'deferred' is no failure: the source can't be reached now;
a line below the table says why, and what to run later. 'verified' says whether 'rumplab smoke' has passed with exactly
these components. The exit status is 1 if a record of the lab is lost or damaged.

examples:
  rumplab status
  rumplab status --json
"""
STAMP_SHOWN = 12


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON")


def row(component: Component) -> list[str]:
    """The cells of one component; '-' where there is nothing to say."""
    version = component.version or "-"
    if component.wanted and component.wanted != version:
        version = f"{version} (wanted {component.wanted})"
    return [
        component.name,
        version,
        component.source or "-",
        component.state,
        component.stamp[:STAMP_SHOWN] or "-",
    ]


def notes(components: list[Component]) -> list[str]:
    """One line for each component that is deferred, substituted or damaged: why, and what to do."""
    return [
        f"{component.name}: {component.reason}; {remedy(component)}" for component in components if component.reason
    ]


def remedy(component: Component) -> str:
    """What completes a component that isn't what was wanted."""
    if component.state == DAMAGED:
        return f"to write it again: {component.remedy}"
    if component.deferral:
        return f"to try again: {component.remedy} (tried {since(component.deferral)})"
    if component.state == "installed":
        return f"to try for it again: {component.remedy} -e rumplab_retry=true"
    return f"to try again: {component.remedy}"


def since(deferral: dict[str, str]) -> str:
    """When it was tried, and from when on a run that names no tags tries it again."""
    return f"at {local(deferral['tried'])}; a run of everything tries again from {local(deferral['until'])}"


def local(moment: str) -> str:
    """A descriptor's time by this host's clock; as it stands if it isn't one."""
    try:
        there = datetime.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return moment
    return there.astimezone().strftime("%Y-%m-%d %H:%M")


def image_lines(described: list[Described]) -> list[str]:
    """The builder images, where there are any, and what completes those that aren't what was wanted."""
    if not described:
        return []
    rows = [[one.image, one.state, (one.stamp or "")[:STAMP_SHOWN] or "-"] for one in described]
    notes = [
        ": ".join(filter(None, (one.image, one.reason))) + f"; to make it: {one.remedy}"
        for one in described
        if one.state not in ("installed", "unknown")
    ]
    return [*output.table(["IMAGE", "STATE", "STAMP"], rows).splitlines(), *notes]


@dataclass(frozen=True)
class Report:
    """The lab as its records have it. `damaged` says what can't be read besides descriptors, and what to do."""

    lab: Lab
    components: list[Component]
    images: list[Described]
    passed: bool
    damaged: tuple[str, ...]

    @property
    def whole(self) -> bool:
        """Whether every record could be read."""
        return not self.damaged and all(component.state != DAMAGED for component in self.components)


def report(lab: Lab) -> Report:
    """What there is to say; a record that can't be read hides no other."""
    components = lab.components()
    described: list[Described] = []
    passed, damaged = False, []
    try:
        passed = verified.is_verified(lab, components)
    except RumplabError as error:
        damaged.append(str(error))
    try:
        described = builder_images.present(lab)
    except RumplabError as error:
        damaged.append(str(error))
    return Report(lab, components, described, passed, tuple(damaged))


def as_lines(found: Report) -> list[str]:
    """The report for people."""
    table = output.table(["COMPONENT", "VERSION", "SOURCE", "STATE", "STAMP"], map(row, found.components))
    state = "yes" if found.passed else "no; to verify: rumplab smoke --record"
    return [
        *table.splitlines(),
        *notes(found.components),
        *image_lines(found.images),
        *found.damaged,
        f"verified: {state}",
    ]


def as_data(found: Report) -> dict[str, Any]:
    """The report for --json; `lines` is what people are shown."""
    return {
        "lines": as_lines(found),
        "prefix": str(found.lab.prefix),
        "version": found.lab.version,
        "user": found.lab.user,
        "verified": found.passed,
        "damaged": list(found.damaged),
        "components": [
            {
                "name": component.name,
                "version": component.version,
                "wanted": component.wanted,
                "source": component.source,
                "state": component.state,
                "stamp": component.stamp,
                "reason": component.reason,
                "tried": component.deferral.get("tried"),
                "next_try": component.deferral.get("until"),
                "paths": component.paths,
            }
            for component in found.components
        ],
        "images": [
            {"name": one.image, "state": one.state, "stamp": one.stamp, "reason": one.reason} for one in found.images
        ],
    }


def run(args: argparse.Namespace) -> int:
    found = report(config.load())
    print(output.as_json(as_data(found)) if args.json else "\n".join(as_lines(found)))
    return 0 if found.whole else 1
