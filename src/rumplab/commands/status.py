"""``rumplab status``: shows what is provisioned, from which source, and whether `rumplab smoke` has passed with it."""

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
    """Returns the cells of one component's row; '-' for a missing value."""
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
    """Returns a line with the reason and the remedy for each component that is deferred, substituted or damaged."""
    return [
        f"{component.name}: {component.reason}; {remedy(component)}" for component in components if component.reason
    ]


def remedy(component: Component) -> str:
    """Returns the remedy for a component that is deferred, substituted or damaged."""
    if component.state == DAMAGED:
        return f"to write it again: {component.remedy}"
    if component.deferral:
        return f"to try again: {component.remedy} (tried {since(component.deferral)})"
    if component.state == "installed":
        return f"to try for it again: {component.remedy} -e rumplab_retry=true"
    return f"to try again: {component.remedy}"


def since(deferral: dict[str, str]) -> str:
    """Returns when the component was last tried, and when a run without tags tries it again."""
    return f"at {local(deferral['tried'])}; a run of everything tries again from {local(deferral['until'])}"


def local(moment: str) -> str:
    """Returns a descriptor's time in this host's time zone; `moment` unchanged if it isn't a time."""
    try:
        there = datetime.datetime.strptime(moment, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=datetime.timezone.utc)
    except ValueError:
        return moment
    return there.astimezone().strftime("%Y-%m-%d %H:%M")


def image_lines(described: list[Described]) -> list[str]:
    """Returns the table of the builder images and the remedies for those that aren't installed; empty if there are
    none."""
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
    """The state of the lab, from its records. `passed` says whether this state passed `rumplab smoke`. `damaged` has a
    message for each record, other than a descriptor, that can't be read."""

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
    """Returns the state of `lab`. A record that can't be read doesn't prevent reading the others."""
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
    """Returns the report as lines for people."""
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
    """Returns the report for --json. `lines` is the report for people."""
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
