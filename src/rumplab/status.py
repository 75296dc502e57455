"""``rumplab status``: what is provisioned, from where, and whether that has been verified."""

from __future__ import annotations

import argparse
import datetime
from typing import Any

from rumplab import config, images, output, verified
from rumplab.config import Component, Lab
from rumplab.images import Described

HELP = "show what is provisioned, from which source, what is deferred and why"
EPILOG = """\
'verified' says whether 'rumplab smoke' has passed with exactly these components.

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
    """One line for each component that is deferred or substituted: why, and what to do."""
    return [
        f"{component.name}: {component.reason}; {remedy(component)}" for component in components if component.reason
    ]


def remedy(component: Component) -> str:
    """What completes a component that isn't what was wanted."""
    if component.deferral:
        return f"to complete it: {component.remedy} (tried {since(component.deferral)})"
    if component.state == "installed":
        return f"to try for it again: {component.remedy} -e rumplab_retry=true"
    return f"to complete it: {component.remedy}"


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


def as_lines(components: list[Component], described: list[Described], passed: bool) -> list[str]:
    """The report for people."""
    table = output.table(["COMPONENT", "VERSION", "SOURCE", "STATE", "STAMP"], map(row, components))
    state = "yes" if passed else "no; to verify: rumplab smoke --record"
    return [*table.splitlines(), *notes(components), *image_lines(described), f"verified: {state}"]


def as_data(lab: Lab, components: list[Component], described: list[Described], passed: bool) -> dict[str, Any]:
    """The report for --json; `lines` is what people are shown."""
    return {
        "lines": as_lines(components, described, passed),
        "prefix": str(lab.prefix),
        "version": lab.version,
        "user": lab.user,
        "verified": passed,
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
            for component in components
        ],
        "images": [
            {"name": one.image, "state": one.state, "stamp": one.stamp, "reason": one.reason}
            for one in described
        ],
    }


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    components = lab.components()
    passed = verified.is_verified(lab, components)
    if args.json:
        print(output.as_json(as_data(lab, components, images.present(lab), passed)))
        return 0
    print("\n".join(as_lines(components, images.present(lab), passed)))
    return 0
