"""`rumplab stage`: a Multiboot program becomes a disk image that boots it."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path

from rumplab import config
from rumplab.errors import RumplabError, UsageError
from rumplab.image import grub, layout
from rumplab.image.multiboot import check_program
from rumplab.image.recipe import recipe, shell
from rumplab.image.writer import write_image

HELP = "make a bootable disk image of a unikernel, without root"
EPILOG = """\
The same program, arguments and configuration give the same image, bit for bit. Beside IMAGE stands
IMAGE.rumplab.json, which tells 'rumplab run' and 'rumplab debug' where the program's symbols are.

GRUB would change quotes and backslashes on a command line: a STRING that holds any becomes a Multiboot
module, as FILE.json always does. Write --args=STRING when STRING begins with a dash.

examples:
  rumplab stage hello.bin -o hello.img
  rumplab stage hello.bin -o hello.img --config hello.json    rumprun's JSON configuration
  rumplab stage hello.bin -o hello.img --args 'one two'
  rumplab stage hello.bin -o hello.img --size 1G --force
"""

TOOLS = ("sfdisk", "mke2fs", "debugfs", "grub-mkimage", "grub-modules")
CHUNK = 1024 * 1024
# Far beyond any configuration, and what keeps the check of its JSON within the memory a small host has.
LARGEST_CONFIGURATION = 1024 * 1024


@dataclass(frozen=True)
class Content:
    """What goes into the image beside the program. `module` is a file name and its content."""

    arguments: str
    module: tuple[str, bytes] | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROGRAM", type=Path, help="the unikernel, an ELF file")
    parser.add_argument("-o", "--output", metavar="IMAGE", type=Path, required=True, help="what to write")
    parser.add_argument("--args", metavar="STRING", default=None, help="the unikernel's command line")
    parser.add_argument("--config", metavar="FILE.json", type=Path, help="the unikernel's configuration")
    parser.add_argument("--size", help="MiB, or with suffix M or G (default: what it takes)")
    parser.add_argument("--force", action="store_true", help="overwrite IMAGE")
    parser.add_argument("--json", action="store_true", help="report as JSON, with the image's SHA-256")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as shell, run none")


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    wanted = None if args.size is None else layout.parse_size(args.size)
    program: Path = absolute(args.program)
    output: Path = absolute(args.output)
    program_size = check_program(program)
    check_output(output, program, args.force)
    content = choose_content(args.args, args.config)
    contents = content_sizes(program_size, content)
    size = layout.choose_size(wanted, contents)
    made = recipe(tools(), program, size, content.arguments, content.module)
    if args.dry_run:
        print(shell(made, output), end="")
        return 0

    def describe() -> dict[str, object]:
        return {"program": str(program), "sha256": sha256(program), "args": args.args}

    write_image(made, output, layout.image_size(contents), describe)
    seconds = time.monotonic() - started
    if args.json:
        report = {"image": str(output), "program": str(program), "size": size}
        print(json.dumps({**report, "sha256": sha256(output), "seconds": round(seconds, 3)}))
    else:
        print(f"{output}: {size // layout.MIB} MiB, made in {seconds:.1f} s")
    return 0


def absolute(path: Path) -> Path:
    """`path` as seen from /; links in it stay, since they may be meant to be switched."""
    return Path(os.path.abspath(path))


def tools() -> dict[str, str]:
    """The paths of the programs that build an image. NotProvisioned when one is missing."""
    component = config.load().component("rump_stager")
    return {name: component.path(name) for name in TOOLS}


def content_sizes(program_size: int, content: Content) -> list[int]:
    """The sizes in bytes of the files in the image; the menu is at most a few pages of arguments."""
    module = len(content.module[1]) if content.module else 0
    return [program_size, module, 4 * len(content.arguments) + layout.BLOCK]


def choose_content(arguments: str | None, configuration: Path | None) -> Content:
    """Which way the arguments and the configuration go into the image; see rumplab.image.grub."""
    arguments = arguments or ""
    fits = grub.survives_command_line(arguments)
    if configuration is None:
        if fits:
            return Content(arguments, None)
        return Content("", ("arguments", arguments.encode(errors="surrogateescape")))
    if not fits:
        raise UsageError(
            "with --config, --args can hold no quote, backslash or control character and at most"
            f" {grub.COMMAND_LINE_LIMIT} bytes: GRUB would change it; move it into the configuration"
        )
    return Content(arguments, ("config.json", read_configuration(configuration)))


def read_configuration(path: Path) -> bytes:
    """The content of `path`. RumplabError names line and column where it isn't JSON."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_CONFIGURATION + 1)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}") from error
    if len(content) > LARGEST_CONFIGURATION:
        raise RumplabError(f"{path} is larger than 1 MiB; put data into a disk image of its own")
    try:
        json.loads(content.decode(), parse_constant=refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise RumplabError(f"{path} is not JSON: {place}: {error.msg}") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RumplabError(f"{path} is not JSON: line {line}: not UTF-8 ({error.reason})") from error
    except RecursionError as error:
        raise RumplabError(f"{path} is nested too deeply to be a configuration") from error
    except ValueError as error:
        raise RumplabError(f"{path} is not JSON: {error}") from error
    return content


def refuse_constant(name: str) -> None:
    """JSON has no NaN and no infinity, though Python's reader takes them."""
    raise ValueError(f"{name} is not a JSON value")


def check_output(output: Path, program: Path, force: bool) -> None:
    """RumplabError when the image can't or mustn't be written to `output`."""
    directory = output.parent
    if not directory.is_dir():
        raise RumplabError(f"{directory} is not a directory; create it or choose another place with -o")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise RumplabError(f"{directory} is not writable; choose another place with -o")
    if not os.path.lexists(output):
        return
    if output.exists() and output.samefile(program):
        raise RumplabError(f"{output} is the program itself; choose another name with -o")
    if not output.is_file() and not output.is_symlink():
        raise RumplabError(f"{output} exists and is not a file; choose another name with -o")
    if not force:
        raise RumplabError(f"{output} exists; overwrite it with --force or choose another name with -o")


def sha256(path: Path) -> str:
    """The SHA-256 of a file, read in pieces, in hex digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
