"""The steps that build an image, as data. Module `writer` executes them; `shell` prints them.

Every command runs in a work directory with the recipe's files and links under fixed names, so no command line contains
a path that the user chose. `image` is a link to the file that is made.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rumplab.image import formats, grub, volume
from rumplab.image.layout import BLOCK, INODE, INODES, KIB, MIB, PARTITION_START, SECTOR, volume_inodes
from rumplab.image.step import Step
from rumplab.image.volume import Volume

# The content of an image must not depend on the time, the user or the host's settings. The time is the first second of
# 2000; /dev/null replaces the host's mke2fs.conf.
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
class Partition:
    """A volume's partition: its number, and its start and size in bytes. The first volume is partition 2."""

    volume: Volume
    number: int
    start: int
    size: int

    @property
    def source(self) -> str:
        """The name, in the work directory, of the link to the volume's directory."""
        return f"volume{self.number}"

    @property
    def population(self) -> str:
        """The name, in the work directory, of the file with debugfs's commands."""
        return f"population{self.number}"

    @property
    def uuid(self) -> str:
        return UUID[:-1] + str(self.number)


@dataclass(frozen=True)
class Recipe:
    """The content of the work directory, `files` (name → content) and `links` (name → absolute path), and the steps.

    `loader` doesn't depend on `disk` and takes about as long, so the two may run in parallel; `boot` needs both. With
    `convert`, the result is `converted/NAME`, made from the raw `image`.
    """

    files: Mapping[str, bytes]
    links: Mapping[str, Path]
    disk: tuple[Step, ...]
    loader: Step
    boot: tuple[Step, ...]
    convert: tuple[Step, ...] = ()
    environment: Mapping[str, str] = field(default_factory=lambda: dict(ENVIRONMENT))

    @property
    def steps(self) -> tuple[Step, ...]:
        """All steps in sequence."""
        return (*self.disk, self.loader, *self.boot, *self.convert)


def partition_table(boot: int, partitions: Iterable[Partition]) -> str:
    """The input of sfdisk: one bootable Linux partition that ends at byte `boot`, and one partition for each volume.

    Without volumes, the bootable partition ends at the end of the disk.
    """
    volumes = [f"start={place.start // SECTOR}, size={place.size // SECTOR}, type=83\n" for place in partitions]
    size = f" size={(boot - PARTITION_START) // SECTOR}," if volumes else ""
    first = f"start={PARTITION_START // SECTOR},{size} type=83, bootable\n"
    return f"label: dos\nlabel-id: {DISK_ID}\n{first}{''.join(volumes)}"


def file_commands(source: str, name: str) -> list[str]:
    """debugfs's commands that copy `source` to its current directory, with a fixed mode and owner."""
    return [f"write {source} {name}", f"sif {name} mode 0100644", f"sif {name} uid 0", f"sif {name} gid 0"]


def population(module: str | None, grub_modules: Iterable[str], program: str = grub.PROGRAM) -> str:
    """The input of debugfs that fills the file system, in a fixed order. `program` is the program's path in it."""
    directory, _, name = program.rpartition("/")
    commands = [
        f"set_current_time @{TIME}",
        "mkdir boot",
        "mkdir boot/grub",
        "mkdir boot/grub/i386-pc",
        f"cd {directory or '/'}",
    ]
    commands += file_commands("program", name)
    if module:
        commands += file_commands(module, module)
    commands += ["cd /boot/grub", *file_commands("grub.cfg", "grub.cfg"), "cd /boot/grub/i386-pc"]
    for name in grub_modules:
        commands += file_commands(f"grub-modules/{name}.mod", f"{name}.mod")
    return "".join(f"{command}\n" for command in commands)


def file_system_steps(
    tools: Mapping[str, str], start: int, size: int, label: str, uuid: str, inodes: int, population: str
) -> tuple[Step, ...]:
    """The steps that make an ext2 file system of `size` bytes at byte `start` of the image. `population` is the file
    with the commands that fill it."""
    options = f"offset={start},hash_seed={uuid},root_owner=0:0,nodiscard"
    return (
        Step(
            (
                tools["mke2fs"],
                *("-q", "-F", "-t", "ext2", "-b", str(BLOCK), "-I", str(INODE), "-N", str(inodes)),
                *("-m", "0", "-O", FEATURES, "-o", "linux", "-L", label, "-U", uuid, "-E", options),
                *("image", f"{size // KIB}k"),
            )
        ),
        Step((tools["debugfs"], "-w", "-f", population, f"image?offset={start}"), quiet=True),
    )


def disk_steps(tools: Mapping[str, str], boot: int, partitions: Iterable[Partition]) -> tuple[Step, ...]:
    """The steps that make a disk with the boot partition, which ends at byte `boot`, the volumes' `partitions` after
    it, and their files."""
    partitions = tuple(partitions)
    size = partitions[-1].start + partitions[-1].size if partitions else boot
    steps = [
        Step(("dd", "if=/dev/null", "of=image", f"bs={MIB}", f"seek={size // MIB}", "count=0")),
        Step(
            (tools["sfdisk"], "--quiet", "--no-reread", "--no-tell-kernel", "--wipe", "never", "image"),
            stdin=partition_table(boot, partitions),
        ),
        *file_system_steps(tools, PARTITION_START, boot - PARTITION_START, LABEL, UUID, INODES, "population"),
    ]
    for place in partitions:
        inodes = volume_inodes(place.volume.inodes)
        steps += file_system_steps(
            tools, place.start, place.size, place.volume.label, place.uuid, inodes, place.population
        )
    return tuple(steps)


def loader_step(tools: Mapping[str, str]) -> Step:
    """The step that makes the file with GRUB's core."""
    options = ("-O", "i386-pc", "-d", tools["grub-modules"], "-o", "core.img", "-p", grub.PREFIX)
    return Step((tools["grub-mkimage"], *options, *grub.CORE_MODULES))


def boot_steps(tools: Mapping[str, str]) -> tuple[Step, ...]:
    """The steps that write GRUB to the space before the first partition."""
    boot_image = f"{tools['grub-modules']}/boot.img"
    return (
        Step(("dd", f"if={boot_image}", "of=image", f"bs={BOOT_CODE}", "count=1", "conv=notrunc")),
        Step(("dd", "if=core.img", "of=image", f"bs={SECTOR}", "seek=1", "conv=notrunc")),
    )


def recipe(
    tools: Mapping[str, str],
    program: Path,
    size: int,
    arguments: str,
    module: tuple[str, bytes] | None,
    partitions: Iterable[Partition] = (),
    convert: tuple[Step, ...] = (),
    menu: grub.Menu | None = None,
) -> Recipe:
    """The whole recipe. `tools` are the paths of component rump_stager; `size` is the end of the boot partition in
    bytes; `module` is the name and content of the Multiboot module, if there is one; `convert` are the steps that
    convert the raw image. `menu` replaces the default menu, which passes `arguments` to a unikernel."""
    partitions = tuple(partitions)
    grub_modules = Path(tools["grub-modules"])
    name = module[0] if module else None
    menu = menu or grub.Menu(grub.menu(arguments, f"/boot/{name}" if name else None))
    dependencies = (grub_modules / "moddep.lst").read_text(encoding="utf-8", errors="replace")
    needed = grub.modules_in_file_system(dependencies, menu.commands)
    files = {
        "grub.cfg": menu.text.encode(errors="surrogateescape"),
        "population": population(name, needed, menu.program).encode(),
    }
    if module:
        files[module[0]] = module[1]
    links = {"program": program, "grub-modules": grub_modules}
    for place in partitions:
        files[place.population] = volume.population(place.volume, place.source, TIME)
        links[place.source] = place.volume.directory
    return Recipe(
        files=files,
        links=links,
        disk=disk_steps(tools, size, partitions),
        loader=loader_step(tools),
        boot=boot_steps(tools),
        convert=convert,
    )


def shell(made: Recipe, output: Path) -> str:
    """`made` as a POSIX shell command that writes `output`. The user can paste it into a shell."""
    target = shlex.quote(str(output))
    temporary = shlex.quote(str(output.parent / ".rumplab-stage.XXXXXX"))
    result = f'"$converted"/{shlex.quote(output.name)}' if made.convert else '"$image"'
    lines = [
        "set -eu",
        "umask 022",
        "work=$(mktemp -d)",
        f"image=$(mktemp {temporary})",
        "converted=" + (f"$(mktemp -d {temporary})" if made.convert else ""),
        """trap 'rm -rf "$work" "$image" "$converted"' EXIT""",
        'cd "$work"',
        'ln -s "$image" image',
    ]
    lines += [f'ln -s "$converted" {formats.CONVERTED}'] if made.convert else []
    lines += [f"ln -s {shlex.quote(str(target))} {name}" for name, target in made.links.items()]
    for name, content in made.files.items():
        text = content.decode(errors="surrogateescape")
        lines.append(f"printf %s {shlex.quote(text)} > {name}")
    lines += [f"export {name}={shlex.quote(value)}" for name, value in made.environment.items()]
    for step in made.steps:
        command = shlex.join(step.argv)
        lines.append(f"printf %s {shlex.quote(step.stdin)} | {command}" if step.stdin else command)
    lines += [f"chmod 644 {result}", f"mv {result} {target}"]
    return "(\n" + "\n".join(lines) + "\n)\n"
