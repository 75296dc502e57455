"""What is done to build an image, as data: `writer` carries it out, `shell` prints it.

Every command runs in a work directory that holds the recipe's files and links under fixed names, so no
command line contains a path that the user chose. `image` is a link to the file being made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumplab.image import grub
from rumplab.image.layout import BLOCK, INODES, KIB, MIB, PARTITION_START, SECTOR

# Nothing in an image may depend on the moment, the user or the host's settings. The time is the first second
# of 2000; /dev/null keeps the host's mke2fs.conf out.
TIME = 946684800
ENVIRONMENT = {
    "E2FSPROGS_FAKE_TIME": str(TIME),
    "LC_ALL": "C",
    "MKE2FS_CONFIG": "/dev/null",
    "SOURCE_DATE_EPOCH": str(TIME),
    "TZ": "UTC",
}
UUID = "72756d70-6c61-4062-8000-626f6f740001"
DISK_ID = "0x72756d70"
LABEL = "boot"
FEATURES = "none,filetype,large_file,sparse_super"
# The boot code of the MBR ends where the disk id begins.
BOOT_CODE = 440


@dataclass(frozen=True)
class Step:
    """One command. `quiet`: it says nothing on standard error but its version unless something is wrong."""

    argv: tuple[str, ...]
    stdin: str = ""
    quiet: bool = False


@dataclass(frozen=True)
class Recipe:
    """`files` (name → content) and `links` (name → absolute path) come first, then the steps.

    `loader` needs nothing of `disk` and takes as long, so the two may run side by side; `boot` needs both.
    """

    files: Mapping[str, bytes]
    links: Mapping[str, Path]
    disk: tuple[Step, ...]
    loader: Step
    boot: tuple[Step, ...]
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))

    @property
    def steps(self) -> tuple[Step, ...]:
        """All of them, one after the other."""
        return (*self.disk, self.loader, *self.boot)


def partition_table() -> str:
    """The input of sfdisk: one bootable Linux partition up to the end of the disk."""
    return f"label: dos\nlabel-id: {DISK_ID}\nstart={PARTITION_START // SECTOR}, type=83, bootable\n"


def file_commands(source: str, name: str) -> list[str]:
    """debugfs: copies `source` into the current directory. The mode of `source` must not come along."""
    return [f"write {source} {name}", f"sif {name} mode 0100644", f"sif {name} uid 0", f"sif {name} gid 0"]


def population(module: str | None, grub_modules: Iterable[str]) -> str:
    """The input of debugfs that fills the file system, always in the same order."""
    commands = [
        f"set_current_time @{TIME}",
        "mkdir boot",
        "mkdir boot/grub",
        "mkdir boot/grub/i386-pc",
        "cd /boot",
    ]
    commands += file_commands("program", "program.bin")
    if module:
        commands += file_commands(module, module)
    commands += ["cd /boot/grub", *file_commands("grub.cfg", "grub.cfg"), "cd /boot/grub/i386-pc"]
    for name in grub_modules:
        commands += file_commands(f"grub-modules/{name}.mod", f"{name}.mod")
    return "".join(f"{command}\n" for command in commands)


def disk_steps(tools: Mapping[str, str], size: int) -> tuple[Step, ...]:
    """A disk of `size` bytes with one partition and its files."""
    options = f"offset={PARTITION_START},hash_seed={UUID},root_owner=0:0,nodiscard"
    return (
        Step(("dd", "if=/dev/null", "of=image", f"bs={MIB}", f"seek={size // MIB}", "count=0")),
        Step(
            (tools["sfdisk"], "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", "image"),
            stdin=partition_table(),
        ),
        Step(
            (
                tools["mke2fs"],
                *("-q", "-F", "-t", "ext2", "-b", str(BLOCK), "-I", "256", "-N", str(INODES), "-m", "0"),
                *("-O", FEATURES, "-o", "linux", "-L", LABEL, "-U", UUID, "-E", options),
                *("image", f"{(size - PARTITION_START) // KIB}k"),
            )
        ),
        Step(
            (tools["debugfs"], "-w", "-f", "population", f"image?offset={PARTITION_START}"),
            quiet=True,
        ),
    )


def loader_step(tools: Mapping[str, str]) -> Step:
    """GRUB's core, as one file."""
    options = ("-O", "i386-pc", "-d", tools["grub-modules"], "-o", "core.img", "-p", grub.PREFIX)
    return Step((tools["grub-mkimage"], *options, *grub.CORE_MODULES))


def boot_steps(tools: Mapping[str, str]) -> tuple[Step, ...]:
    """GRUB in front of the partition."""
    boot_image = f"{tools['grub-modules']}/boot.img"
    return (
        Step(("dd", f"if={boot_image}", "of=image", f"bs={BOOT_CODE}", "count=1", "conv=notrunc")),
        Step(("dd", "if=core.img", "of=image", f"bs={SECTOR}", "seek=1", "conv=notrunc")),
    )


def recipe(
    tools: Mapping[str, str], program: Path, size: int, arguments: str, module: tuple[str, bytes] | None
) -> Recipe:
    """The whole recipe. `tools` are the paths of component rump_stager; `module` is the name and content of
    the Multiboot module, if there is one."""
    grub_modules = Path(tools["grub-modules"])
    needed = grub.modules_in_file_system((grub_modules / "moddep.lst").read_text(encoding="utf-8"))
    name = module[0] if module else None
    menu = grub.menu(arguments, f"/boot/{name}" if name else None)
    files = {
        "grub.cfg": menu.encode(errors="surrogateescape"),
        "population": population(name, needed).encode(),
    }
    if module:
        files[module[0]] = module[1]
    return Recipe(
        files=files,
        links={"program": program, "grub-modules": grub_modules},
        disk=disk_steps(tools, size),
        loader=loader_step(tools),
        boot=boot_steps(tools),
    )


def shell(made: Recipe, output: Path) -> str:
    """`made` as a POSIX shell command that writes `output`, fit to be pasted."""
    target = shlex.quote(str(output))
    temporary = shlex.quote(str(output.parent / ".rumplab-stage.XXXXXX"))
    lines = [
        "set -eu",
        "umask 022",
        "work=$(mktemp -d)",
        f"image=$(mktemp {temporary})",
        """trap 'rm -rf "$work" "$image"' EXIT""",
        'cd "$work"',
        'ln -s "$image" image',
    ]
    lines += [f"ln -s {shlex.quote(str(target))} {name}" for name, target in made.links.items()]
    for name, content in made.files.items():
        text = content.decode(errors="surrogateescape")
        lines.append(f"printf %s {shlex.quote(text)} > {name}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in made.environment.items()]
    for step in made.steps:
        command = shlex.join(step.argv)
        lines.append(f"printf %s {shlex.quote(step.stdin)} | {command}" if step.stdin else command)
    lines += ['chmod 644 "$image"', f'mv "$image" {target}']
    return "(\n" + "\n".join(lines) + "\n)\n"
