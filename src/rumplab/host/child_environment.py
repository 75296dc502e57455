"""What of the caller's environment each kind of program sees that this tool starts.

A caller's environment holds what was meant for other programs: a library to be preloaded, Python's or Go's home,
another QEMU's settings, a language. What isn't listed here doesn't reach the program, and so can't change what it
makes. Each start of a program names its kind, one of SEEN; tests/unit/host/test_child_environment.py holds that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

# A name, or with a star what it begins with.
EVERYBODY = ("HOME", "LOGNAME", "PATH", "TERM", "TMPDIR", "TZ", "USER")
SCREEN = ("COLORTERM", "DBUS_SESSION_BUS_ADDRESS", "DISPLAY", "TERMINFO*", "WAYLAND_DISPLAY", "XAUTHORITY", "XDG_*")
LANGUAGE = ("LANG", "LANGUAGE", "LC_*")
# What go and gcc heed, and the recipe of a build doesn't make itself. `rumplab build` counts it among its inputs.
COMPILERS = (
    *("CGO_CPPFLAGS", "CGO_CXXFLAGS", "CGO_FFLAGS", "CGO_LDFLAGS"),
    *("CPATH", "C_INCLUDE_PATH", "LIBRARY_PATH", "COMPILER_PATH", "GCC_EXEC_PREFIX", "READELF"),
)

# A program whose words this tool reads; the compilers of a build; the machine; the debugger, whose pipes run this tool;
# docker's command; this very tool, which passes on no more than is listed here.
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
    """The environment of a program of `kind`, made of `given`, by default this process's own."""
    given = os.environ if given is None else given
    listed = (*EVERYBODY, *SEEN[kind])
    names = {name for name in listed if not name.endswith("*")}
    beginnings = tuple(name[:-1] for name in listed if name.endswith("*"))
    seen = {name: value for name, value in given.items() if name in names or name.startswith(beginnings)}
    if not serves(seen.get("TMPDIR", "/")):
        del seen["TMPDIR"]
    return {**seen, **language(kind, given)}


def serves(directory: str) -> bool:
    """Whether programs that run somewhere else than here can have their temporary files in `directory`."""
    return os.path.isabs(directory) and os.path.isdir(directory)


def language(kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """The settings that have a program of `kind` speak English, which this tool reads; GDB speaks to the user alone. Of
    the caller's language only the characters stay, where people see what is said."""
    if kind in (GDB, ITSELF):
        return {}
    if kind == TOOL:
        return {"LC_ALL": "C"}
    characters = next((given[name] for name in ("LC_ALL", "LC_CTYPE", "LANG") if given.get(name)), "C")
    return {"LC_CTYPE": characters, "LC_MESSAGES": "C"}
