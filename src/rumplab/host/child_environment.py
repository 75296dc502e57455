"""The environment of the programs that this tool starts.

The caller's environment holds variables for other programs: LD_PRELOAD, PYTHONHOME or GOROOT, settings of another
QEMU, a language. A program gets only the variables that are listed here for its kind, so that no other variable changes
its result. Each call that starts a program names the kind, a key of SEEN; tests/unit/host/test_child_environment.py
checks that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# The name of a variable. With a star at the end it is a prefix.
EVERYBODY = ("HOME", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")
SCREEN = ("COLORTERM", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "TERMINFO*", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_*")
LANGUAGE = ("LANG", "LANGUAGE", "LC_*")
# The variables that go and gcc read and that the recipe of a build doesn't set. `rumplab build` hashes them as inputs.
COMPILERS = (
    *("CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_FFLAGS", "CGO_LDFLAGS"),
    *("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "READELF"),
)

# The kinds: a program whose output this tool reads; the compilers of a build; QEMU; GDB, which runs this tool in
# `target remote |`; the docker command; this tool itself, which gets all variables and filters them for its children.
TOOL, BUILD, QEMU, GDB, DOCKER, ITSELF = "tool", "build", "qemu", "gdb", "docker", "itself"
SEEN: dict[str, tuple[str, ...]] = {
    TOOL: (),
    BUILD: COMPILERS,
    QEMU: (*SCREEN, "PIPEWIRE_*", "PULSE_*", "SDL_*"),
    GDB: (
        *(*SCREEN, *LANGUAGE, "COLUMNS", "LINES", "EDITOR", "VISUAL", "INPUTRC", "NO_COLOR", "SHELL"),
        *("DEBUGINFOD_*", "GDBHISTFILE", "GDBHISTSIZE", "HISTSIZE", "RUMPLAB_*"),
    ),
    DOCKER: ("DOCKER_*", "SSH_AUTH_SOCK", "XDG_*"),
    ITSELF: ("*",),
}


def of(kind: str, given: Mapping[str, str] | None = None) -> dict[str, str]:
    """Returns the environment of a program of `kind`: the allowed part of `given` (default: this process's own)."""
    given = os.environ if given is None else given
    listed = (*EVERYBODY, *SEEN[kind])
    names = {name for name in listed if not name.endswith("*")}
    prefixes = tuple(name[:-1] for name in listed if name.endswith("*"))
    seen = {name: value for name, value in given.items() if name in names or name.startswith(prefixes)}
    if not usable(seen.get("TMPDIR", "/")):
        del seen["TMPDIR"]
    return {**seen, **language(kind, given)}


def usable(directory: str) -> bool:
    """Returns whether `directory` works as TMPDIR for a program with another working directory."""
    return os.path.isabs(directory) and os.path.isdir(directory)


def language(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """Returns the locale settings of a program of `kind`. They select English messages, since this tool reads them.

    GDB and this tool get none: GDB's messages are for the user only. A TOOL gets the C locale. Other programs keep the
    caller's character set, since the user sees their messages too.
    """
    if kind in (GDB, ITSELF):
        return {}
    if kind == TOOL:
        return {"LC_ALL": "C"}
    characters = next((given[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if given.get(name)), "C")
    return {"LC_CTYPE": characters, "LC_MESSAGES": "C"}
