"""GRUB's menu, and how a text gets from the command line of `rumplab stage` to the unikernel unchanged.

Two parts of GRUB may change the text. In GRUB's script language, single quotes prevent any change. GRUB's `multiboot`
command joins its words with spaces to the unikernel's command line; it adds a backslash before every quote and
backslash, and double quotes around a word with a space. Quoting in the menu can't prevent this, and JSON needs quotes.
A Multiboot module arrives unchanged, and rumprun reads its configuration from the first module, or from the command
line if there is no module.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rumplab.errors import RumplabError

PROGRAM = "/boot/program.bin"

# The modules that GRUB's core needs to find the other ones in the file system. grub-mkimage compresses the core, which
# is slow: with all modules in the core, this would take longer than all other steps together.
CORE_MODULES = ("biosdisk", "part_msdos", "ext2")
TERMINAL_MODULES = ("serial", "terminal")
COMMAND_MODULES = (*TERMINAL_MODULES, "multiboot")
# The prefix has no disk, so that it means the disk that the firmware booted, with whatever number.
PREFIX = "(,msdos1)/boot/grub"

# rumprun stores its command line in 4096 bytes, including the program's name and a NUL.
COMMAND_LINE_LIMIT = 4096 - len(PROGRAM) - len(" ") - 1

ESCAPED_BY_GRUB = frozenset("\\'\"")


@dataclass(frozen=True)
class Menu:
    """The file grub.cfg, the modules for its commands, and the path in the image of the program that it boots."""

    text: str
    commands: tuple[str, ...] = COMMAND_MODULES
    program: str = PROGRAM


def modules_in_file_system(dependencies: str, commands: Iterable[str] = COMMAND_MODULES) -> list[str]:
    """The modules, sorted, that a menu with the modules `commands` needs in addition to the core. `dependencies` is the
    content of GRUB's file moddep.lst: lines of `MODULE: MODULE…`. RumplabError when a module is missing in it."""
    needs = {name: rest.split() for name, _, rest in (line.partition(":") for line in dependencies.splitlines())}

    def closure(names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in found:
                continue
            if name not in needs:
                raise RumplabError(f"GRUB's moddep.lst has no module {name}; reinstall GRUB's modules")
            found.add(name)
            waiting += needs[name]
        return found

    return sorted(closure(["normal", *commands]) - closure(CORE_MODULES))


def survives_command_line(text: str) -> bool:
    """Whether `text` reaches the unikernel unchanged as part of its command line."""
    return (
        not any(character in ESCAPED_BY_GRUB or character < " " or character == "\x7f" for character in text)
        and len(text.encode(errors="surrogateescape")) <= COMMAND_LINE_LIMIT
    )


def quote(word: str) -> str:
    """`word` as one word of GRUB's script language."""
    return "'" + word.replace("'", "'\\''") + "'"


def command_line_words(text: str) -> list[str]:
    """The words that GRUB joins with single spaces to `text`. An empty word makes an additional space."""
    return text.split(" ") if text else []


def menu(arguments: str, module: str | None) -> str:
    """The file grub.cfg. `arguments` must satisfy survives_command_line; `module` is a path in the image.

    GRUB omits the program's name from the command line. Programs expect it as the first word, so the menu repeats it.
    """
    words = [quote(word) for word in [PROGRAM, *command_line_words(arguments)]]
    lines = [f"\tmultiboot {PROGRAM} {' '.join(words)}"]
    if module:
        lines.append(f"\tmodule {module} {quote(module)}")
    return _entry("program.bin", lines, COMMAND_MODULES)


def _entry(title: str, lines: Iterable[str], modules: Iterable[str]) -> str:
    """A menu with one entry that boots at once. The first serial port is an additional terminal."""
    commands = "\n".join(lines)
    loads = "".join(f"insmod {name}\n" for name in modules)
    return f"""\
{loads}serial --unit=0 --speed=115200
terminal_input --append serial
terminal_output --append serial
set timeout=0
menuentry '{title}' {{
{commands}
}}
"""


def netbsd_menu(root: str | None, debugger: bool) -> Menu:
    """A menu that boots a NetBSD kernel with its console on the first serial port.

    `root` is NetBSD's name of the root device (``wd1a``). With `debugger`, the kernel waits in its debugger.
    """
    # The kernel is at /netbsd, as in a NetBSD system: GRUB passes this name on, and libkvm looks for that file.
    words = ["knetbsd", "/netbsd", "--serial=com0,115200"]
    words += [f"--root={quote(root)}"] if root else []
    words += ["--kdb"] if debugger else []
    modules = (*TERMINAL_MODULES, "bsd")
    return Menu(_entry("netbsd", ["\t" + " ".join(words)], modules), modules, "/netbsd")
