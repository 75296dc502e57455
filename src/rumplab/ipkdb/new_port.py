"""``rumplab ipkdb new-port``: writes templates for a port of IPKDB to another card or machine, in NetBSD's layout."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from string import Template

from rumplab.errors import RumplabError, UsageError

TEMPLATES = Path(__file__).parent / "port_templates"
# A name must be valid in C identifiers, file names and configuration files.
NAME = re.compile(r"[a-z][a-z0-9]{0,15}")
CARD = {
    "sys/dev/$bus/if_${xx}_ipkdb.c": "driver.c.in",
    "sys/dev/$bus/if_${xx}_ipkdb.h": "driver.h.in",
    "sys/dev/$bus/files.$xx": "files.in",
    "sys/conf/IPKDB.$xx": "config.in",
}
MACHINE = {
    "sys/arch/$zz/$zz/ipkdb_glue.c": "glue.c.in",
    "sys/arch/$zz/include/ipkdb.h": "machine.h.in",
}


def files(interface: str, bus: str, machine: str | None) -> dict[str, str]:
    """A mapping of each file's path to its content. UsageError for an invalid name."""
    for option, name in (("interface", interface), ("bus", bus), ("machine", machine)):
        if name is not None and not NAME.fullmatch(name):
            raise UsageError(
                f"--{option} '{name}' is not a valid name; use up to 16 small letters and digits, a letter first"
            )
    words = {"xx": interface, "XX": interface.upper(), "bus": bus, "zz": machine or ""}
    made = {
        fill(path, words): fill(template(name), words)
        for path, name in {**CARD, **(MACHINE if machine else {})}.items()
    }
    what = f"the card {interface}" + (f" and the machine {machine}" if machine else "")
    places = "".join(f"    {path}\n" for path in sorted(made))
    return {**made, "README": fill(template("README.in"), {"what": what, "places": places})}


def template(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def fill(text: str, words: dict[str, str]) -> str:
    return Template(text).substitute(words)


def run(interface: str, bus: str, machine: str | None, output: Path | None) -> int:
    """Writes the files to a new directory and prints their paths; on an error, removes the directory. Returns the exit
    status."""
    made = files(interface, bus, machine)
    target = output or Path(f"ipkdb-{interface}")
    try:
        target.mkdir()
    except FileExistsError:
        raise RumplabError(f"{target} exists; choose another directory with -o") from None
    except OSError as error:
        raise RumplabError(f"cannot make {target}: {error.strerror}; choose another directory with -o") from error
    try:
        for path, text in made.items():
            (target / path).parent.mkdir(parents=True, exist_ok=True)
            (target / path).write_text(text, encoding="utf-8")
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    print("\n".join(f"{target}/{path}" for path in sorted(made)))
    return 0
