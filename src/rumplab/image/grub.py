"""GRUB's menu, and how a text gets from the command line of `rumplab stage` to the unikernel unchanged.

Two things stand between. GRUB's script language, of which single quotes switch everything off. And GRUB's
`multiboot` command, which joins its words with spaces to the unikernel's command line, but puts a backslash
before every quote and backslash in them, and double quotes round a word with a space. No quoting in the menu
prevents that, and JSON can't be written without quotes. A Multiboot module arrives as it is; rumprun takes
its configuration from the first module if there is one, else from the command line.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from rumplab.errors import RumplabError

PROGRAM = "/boot/program.bin"

# What GRUB's core needs to find the rest of it, in the file system. The core is compressed, slowly, whenever
# an image is made: with all modules in it, that would take longer than everything else together.
CORE_MODULES = ("biosdisk", "part_msdos", "ext2")
TERMINAL_MODULES = ("serial", "terminal")
COMMAND_MODULES = (*TERMINAL_MODULES, "multiboot")
# The device is left out: it is the disk that the firmware booted, whichever number that has.
PREFIX = "(,msdos1)/boot/grub"

# rumprun keeps its command line in 4096 bytes, with the program's name and a NUL.
COMMAND_LINE_LIMIT = 4096 - len(PROGRAM) - len(" ") - 1

ESCAPED_BY_GRUB = frozenset("\\'\"")


@dataclass(frozen=True)
class Menu:
    """The file grub.cfg, the modules of its commands, and where in the image the program stands that it boots."""

    text: str
    commands: tuple[str, ...] = COMMAND_MODULES
    program: str = PROGRAM


def modules_in_file_system(dependencies: str, commands: Iterable[str] = COMMAND_MODULES) -> list[str]:
    """The modules, sorted, that a menu with the modules `commands` needs beyond the core. `dependencies` is the
    content of GRUB's file moddep.lst: lines of `MODULE: MODULE…`. RumplabError when it doesn't know a module."""
    needs = {name: rest.split() for name, _, rest in (line.partition(":") for line in dependencies.splitlines())}

    def closure(names: Iterable[str]) -> set[str]:
        found: set[str] = set()
        open_ends = list(names)
        while open_ends:
            name = open_ends.pop()
            if name in found:
                continue
            if name not in needs:
                raise RumplabError(f"GRUB's moddep.lst has no module {name}; reinstall GRUB's modules")
            found.add(name)
            open_ends += needs[name]
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
    """The words that GRUB joins with single spaces to `text`; an empty word stands for a further space."""
    return text.split(" ") if text else []


def menu(arguments: str, module: str | None) -> str:
    """The file grub.cfg. `arguments` must survive the command line; `module` is a path in the image.

    GRUB leaves the file's name out of the command line, so it is given again as the first word, which is
    where programs expect it.
    """
    words = [quote(word) for word in [PROGRAM, *command_line_words(arguments)]]
    lines = [f"\tmultiboot {PROGRAM} {' '.join(words)}"]
    if module:
        lines.append(f"\tmodule {module} {quote(module)}")
    return _entry("program.bin", lines, COMMAND_MODULES)


def _entry(title: str, lines: Iterable[str], modules: Iterable[str]) -> str:
    """A menu of one entry, which boots at once, with its terminal on the first serial port too."""
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
    """A menu that boots a NetBSD kernel as its own boot loader would, console on the first serial port.

    `root` names the root device as NetBSD does (``wd1a``); with `debugger` the kernel waits in its debugger.
    """
    # The kernel stands where a NetBSD system has it: libkvm looks for it by the name that GRUB passes on.
    words = ["knetbsd", "/netbsd", "--serial=com0,115200"]
    words += [f"--root={quote(root)}"] if root else []
    words += ["--kdb"] if debugger else []
    modules = (*TERMINAL_MODULES, "bsd")
    return Menu(_entry("netbsd", ["\t" + " ".join(words)], modules), modules, "/netbsd")
