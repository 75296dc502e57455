"""The lab's builder images: their description in ``etc/images.json`` below the prefix, and their state in the Docker
engine.

docs/roles/images.md defines the content of that file and of an image's labels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from rumplab.container import docker
from rumplab.container.docker import Image
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.lab.config import Lab, optional_text, read_object, text

# Maps a component to the image that can replace it.
FOR_COMPONENT = {
    "rump_stager": "stager",
    "gdb": "gdb",
    "rump_toolchain": "rump-builder",
    "go_builder": "go-builder",
}
MAKE = ".venv/bin/ansible-playbook playbooks/images.yml"


@dataclass(frozen=True)
class Described:
    """An image as the last run of ``playbooks/images.yml`` recorded it."""

    name: str
    image: str
    state: str
    stamp: str | None
    identity: str | None
    reason: str | None

    @property
    def remedy(self) -> str:
        """The command that makes the image."""
        return remedy(self.name)


def remedy(name: str) -> str:
    return f'{MAKE} -e \'{{"images_wanted": ["{name}"]}}\''


def described(lab: Lab) -> list[Described]:
    """The recorded images, sorted by name; empty when no image was ever requested. RumplabError for an invalid file."""
    path = lab.prefix / "etc" / "images.json"
    if not path.exists():
        return []
    images = read_object(path, MAKE).get("images")
    if not isinstance(images, dict) or not all(isinstance(one, dict) for one in images.values()):
        raise RumplabError(f"{path}: 'images' must be an object of objects; write it again: {MAKE}")
    return [
        Described(
            name=name,
            image=text(one, "image", path, MAKE),
            state=text(one, "state", path, MAKE),
            stamp=optional_text(one, "stamp", path, MAKE),
            identity=optional_text(one, "id", path, MAKE),
            reason=optional_text(one, "reason", path, MAKE),
        )
        for name, one in sorted(images.items())
    ]


def present(lab: Lab) -> list[Described]:
    """The recorded images with their current states: the recorded state, or ``missing`` or ``replaced`` in the engine,
    or ``unknown`` when the engine doesn't answer."""
    return [replace(one, state=_state_now(one)) for one in described(lab)]


def _state_now(one: Described) -> str:
    if one.identity is None:
        return one.state
    try:
        found = docker.image(one.image)
    except RumplabError:
        return "unknown"
    if found is None:
        return "missing"
    return one.state if found.identity == one.identity else "replaced"


def find(lab: Lab, component: str) -> Image:
    """The image that replaces `component`. NotProvisioned when the engine doesn't have it; RumplabError when an image
    of that name isn't one of rumplab's."""
    name = FOR_COMPONENT[component]
    known = next((one for one in described(lab) if one.name == name), None)
    image = known.image if known else f"rumplab/{name}:latest"
    found = docker.image(image)
    if found is None:
        why = f" ({known.reason})" if known and known.reason else ""
        raise NotProvisioned(f"there is no image {image}{why}; make it: {remedy(name)}")
    if "rumplab.component" not in found.labels:
        raise RumplabError(f"the image {image} is not one of rumplab's; give it another name, then remove this one")
    return found
