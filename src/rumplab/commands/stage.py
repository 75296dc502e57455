"""`rumplab stage`: makes a disk image that boots a Multiboot program."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

from rumplab.container import runner
from rumplab.errors import RumplabError, UsageError
from rumplab.host.files import sha256
from rumplab.host.streams import script
from rumplab.image import layout, recognise, rumprun_file, volume
from rumplab.image.multiboot import check_program
from rumplab.image.recipe import shell
from rumplab.image.rumprun_file import SCHEMAS
from rumplab.image.stager import COMPONENT, choose_content, content_sizes, plan
from rumplab.image.writer import write_image
from rumplab.lab import config

EPILOG = """\
PROGRAM must be a Multiboot ELF file for x86. The same program, arguments and configuration give the same image, bit for
bit. The command also writes IMAGE.rumplab.json, which tells 'rumplab run' and 'rumplab debug' where the program's
symbols are.

GRUB changes quotes and backslashes on a command line, so a STRING with one of them becomes a Multiboot module.
FILE.json and FILE.yml always do. Write --args=STRING if STRING begins with '-'.

examples:
  rumplab stage hello.bin -o hello.img
  rumplab stage hello.bin -o hello.img --config hello.json    rumprun's JSON configuration
  rumplab stage hello.bin -o hello.img --args 'one two'
  rumplab stage hello.bin -o hello.img --size 1G --force
  rumplab stage hello.bin -o hello.img --rumprun hello.yml    rumprun's configuration, as YAML
  rumplab stage hello.bin -o hello.img --volume www --volume etc:config
  rumplab stage hello.bin -o hello.qcow2 --format qcow2
  rumplab stage hello.bin -o hello.img --container            with the tools of the lab's builder image
"""

# In bytes. No configuration is as large, and checking its JSON must not exhaust a small host's memory.
LARGEST_CONFIGURATION = 1024 * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("program", metavar="PROGRAM", type=Path, help="the unikernel, an ELF file")
    parser.add_argument("-o", "--output", metavar="IMAGE", type=Path, required=True, help="the image to write")
    parser.add_argument("--args", metavar="STRING", default=None, help="the unikernel's command line")
    parser.add_argument("--config", metavar="FILE.json", type=Path, help="rumprun's configuration, in JSON")
    parser.add_argument("--rumprun", metavar="FILE.yml", type=Path, help="rumprun's configuration, in YAML")
    parser.add_argument(
        "--rumprun-schema",
        choices=SCHEMAS,
        help="the JSON schema that --rumprun is converted to: rumprun's newer one (the default) or its older one",
    )
    parser.add_argument(
        "--volume",
        metavar="DIR[:LABEL]",
        action="append",
        default=[],
        help="add an ext2 partition with the content of DIR; repeatable, up to 3",
    )
    parser.add_argument(
        "--format", choices=recognise.FORMATS, default="raw", help="the image's format (default: %(default)s)"
    )
    parser.add_argument(
        "--size", help="the image's size in MiB, or with M or G behind it (default: as much as the content needs)"
    )
    parser.add_argument("--force", action="store_true", help="overwrite IMAGE")
    runner.add_option(parser)
    parser.add_argument("--json", action="store_true", help="report as JSON, with the image's SHA-256")
    parser.add_argument("--dry-run", action="store_true", help="print the commands as shell, run none")


def run(args: argparse.Namespace) -> int:
    started = time.monotonic()
    wanted = None if args.size is None else layout.parse_size(args.size)
    program: Path = absolute(args.program)
    output: Path = absolute(args.output)
    program_size = check_program(program)
    check_output(output, program, args.force)
    content = choose_content(args.args, chosen_configuration(args))
    volumes = volume.read_all(args.volume)
    lab = config.load()
    if runner.wanted(args.container, lab, sys.platform, COMPONENT):
        files = [program, *filter(None, (args.config, args.rumprun)), *(item.directory for item in volumes)]
        return runner.run_verb("stage", args, lab, COMPONENT, map(str, files), [str(output.parent)])
    contents = content_sizes(program_size, content)
    made, size = plan(program, output, content, layout.image_size(contents), volumes, wanted, args.format)
    if args.dry_run:
        script(shell(made, output))
        return 0

    def describe() -> dict[str, object]:
        return {"program": str(program), "sha256": sha256(program), "args": args.args, "format": args.format}

    needed = layout.image_size(contents) + sum(sum(item.contents) for item in volumes)
    # For another format, the raw image and the converted one exist at the same time.
    write_image(made, output, needed if args.format == "raw" else 2 * needed, describe, args.force)
    seconds = time.monotonic() - started
    if args.json:
        report = {"image": str(output), "program": str(program), "size": size}
        print(json.dumps({**report, "sha256": sha256(output), "seconds": round(seconds, 3)}))
    else:
        print(f"{output}: {size // layout.MIB} MiB, made in {seconds:.1f} s")
    return 0


def absolute(path: Path) -> Path:
    """Returns `path` made absolute. Keeps symbolic links, since the user may switch them later."""
    return Path(os.path.abspath(path))


def chosen_configuration(args: argparse.Namespace) -> bytes | None:
    """Returns the configuration's content, from `--config` or made from `--rumprun`; None without both. UsageError if
    both are given."""
    if args.rumprun is None:
        if args.rumprun_schema is not None:
            raise UsageError("--rumprun-schema is for --rumprun FILE.yml, which is missing; add it")
        return None if args.config is None else read_configuration(args.config)
    if args.config is not None:
        raise UsageError("--config and --rumprun both give the configuration; leave one out")
    return rumprun_file.make(args.rumprun, args.rumprun_schema, config.load(), "--rumprun")


def read_configuration(path: Path) -> bytes:
    """Returns the content of `path`. RumplabError, with line and column, if it isn't JSON."""
    try:
        with open(path, "rb") as file:
            content = file.read(LARGEST_CONFIGURATION + 1)
    except OSError as error:
        raise RumplabError(f"cannot read {path}: {error.strerror}; name a file that you can read") from error
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
        raise RumplabError(f"{path} is nested too deeply to be a configuration; is it the right file?") from error
    except ValueError as error:
        raise RumplabError(f"{path} is not JSON: {error}") from error
    return content


def refuse_constant(name: str) -> None:
    """Raises ValueError for NaN and the infinities. JSON doesn't have them, but Python's parser accepts them."""
    raise ValueError(f"{name} is not a JSON value")


def check_output(output: Path, program: Path, force: bool) -> None:
    """Raises RumplabError if the image can't or mustn't be written to `output`."""
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
