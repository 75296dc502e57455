"""The edits of role rump_toolchain on the miniature rumprun: exactly these lines change, and make reads the result."""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import ROOT
from fixtures.upstream.toolchain import variable

from plugins.module_utils.artifact.edits import apply_edits
from plugins.module_utils.artifact.errors import Broken

UPSTREAM = ROOT / "tests/fixtures/upstream/rumprun"
RUMP = "src-netbsd/sys/rump"
PCI = f"{RUMP}/dev/lib/libpci"
SCSI = f"{RUMP}/dev/lib/libpci_scsi"
SCSIPI = f"{RUMP}/dev/lib/libscsipi/scsipi_component.c"
PARTS: dict[str, Any] = variable("__rump_toolchain_parts")


def edits(*components: str) -> list[dict[str, Any]]:
    """Return the role's edits for these components."""
    return [dict(edit) for edit in variable("__rump_toolchain_edits", rump_toolchain_components=list(components))]


def checkout(directory: Path) -> Path:
    """Make a checkout of the miniature with its submodules, and return it."""
    shutil.copytree(UPSTREAM / "rumprun", directory)
    for name in ("buildrump.sh", "src-netbsd"):
        shutil.copytree(UPSTREAM / name, directory / name)
    return directory


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return checkout(tmp_path / "source")


def changes(source: Path) -> dict[str, list[str]]:
    """Return the changed lines of each file as in a diff, with + or - before them."""
    theirs = checkout(source.parent / "theirs")
    found = {}
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        name = str(path.relative_to(source))
        before = (theirs / name).read_text().splitlines() if (theirs / name).exists() else []
        lines = list(difflib.unified_diff(before, path.read_text().splitlines(), lineterm="", n=0))[2:]
        if lines:
            found[name] = [line for line in lines if not line.startswith("@@")]
    return found


def make_variable(source: Path, makefile: str, name: str) -> list[str]:
    """Return the words of a variable, as bmake evaluates it."""
    path = source / makefile
    argv = ["bmake", "-m", str(source / "src-netbsd/share/mk"), "-f", path.name, "-V", name]
    setting = [f"TOPRUMP={source / RUMP}", f"RUMPTOP={source / RUMP}", "OBJECTS=/o", "DESTINATION=/d"]
    done = subprocess.run([*argv, *setting], cwd=path.parent, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return done.stdout.split()


needs_make = pytest.mark.skipif(shutil.which("bmake") is None, reason="no bmake")
needs_compiler = pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")


def test_ppb_changes_these_lines_and_no_others(source: Path) -> None:
    apply_edits(str(source), edits("ppb"))
    changed = changes(source)
    assert set(changed) == {f"{PCI}/PCI.ioconf", f"{PCI}/Makefile"}
    assert changed[f"{PCI}/Makefile"] == ["-SRCS+=\tpci.c pci_map.c", "+SRCS+=\tppb.c pci.c pci_map.c"]
    added = [line for line in changed[f"{PCI}/PCI.ioconf"] if not re.match(r"\+(#|$)", line)]
    assert added == ["+pci*    at ppb? bus ?", "+ppb*    at pci? dev ? function ?"]


@needs_make
def test_make_compiles_ppb_first(source: Path) -> None:
    before = make_variable(source, f"{PCI}/Makefile", "SRCS")
    apply_edits(str(source), edits("ppb"))
    assert make_variable(source, f"{PCI}/Makefile", "SRCS") == ["ppb.c", *before]


def test_pci_scsi_touches_these_files_and_no_others(source: Path) -> None:
    apply_edits(str(source), edits("pci_scsi"))
    changed = changes(source)
    new = {f"{SCSI}/Makefile", f"{SCSI}/PCI_SCSI.ioconf", f"{SCSI}/opt/bio.h"}
    assert set(changed) == new | {f"{RUMP}/dev/Makefile.rumpdevcomp", SCSIPI, "app-tools/rumprun-bake.conf"}
    assert changed[f"{RUMP}/dev/Makefile.rumpdevcomp"] == ["+RUMPPCIDEVS+=\tpci_scsi"]
    assert changed["app-tools/rumprun-bake.conf"] == ["+\tadd\t\t-lrumpdev_pci_scsi"]
    assert not [line for name in new for line in changed[name] if line.startswith("-")]


@needs_make
def test_make_knows_the_component_and_its_sources(source: Path) -> None:
    components = f"{RUMP}/dev/Makefile.rumpdevcomp"
    before = make_variable(source, components, "RUMPPCIDEVS")
    apply_edits(str(source), edits("pci_scsi"))
    assert make_variable(source, components, "RUMPPCIDEVS") == [*before, "pci_scsi"]
    assert make_variable(source, f"{SCSI}/Makefile", "LIB") == ["rumpdev_pci_scsi"]
    assert make_variable(source, f"{SCSI}/Makefile", "IOCONF") == ["PCI_SCSI.ioconf"]
    sources = make_variable(source, f"{SCSI}/Makefile", "SRCS")
    assert sources == ["mpt_pci.c", "mpt_netbsd.c", "mpt.c", "mpt_debug.c"]
    # make finds each source in its .PATH.
    places = [Path(place) for place in make_variable(source, f"{SCSI}/Makefile", ".PATH") if place.startswith("/")]
    for name in sources:
        assert any((place / name).is_file() for place in places), name


def test_the_new_component_attaches_mpt_and_nothing_else(source: Path) -> None:
    apply_edits(str(source), edits("pci_scsi"))
    lines = [line for line in (source / SCSI / "PCI_SCSI.ioconf").read_text().splitlines() if line[:1] not in ("", "#")]
    assert [line.split() for line in lines] == [
        ["ioconf", "pci_scsi"],
        *(["include", f'"{name}"'] for name in ("conf/files", "dev/pci/files.pci", "dev/files.dev")),
        ["pseudo-root", "pci*"],
        ["mpt*", "at", "pci?", "dev", "?", "function", "?"],
    ]


@needs_compiler
def test_bio_is_absent_for_the_preprocessor(source: Path, tmp_path: Path) -> None:
    apply_edits(str(source), edits("pci_scsi"))
    path = tmp_path / "asks.c"
    path.write_text('#include "bio.h"\n#if !defined(NBIO) || NBIO > 0\n#error bio\n#endif\n')
    flags = ["-Wall", "-Werror", "-Wundef", "-fsyntax-only", f"-I{source / SCSI / 'opt'}"]
    subprocess.run(["gcc", *flags, str(path)], check=True, timeout=30)


KERNEL = """
#include <stdio.h>

extern void (*const __start_rump_components[])(void), (*const __stop_rump_components[])(void);
int rump_sys_open(const char *path, int flags);

void rumpuser_putchar(int character)
{
	putchar(character);
}

void rumpuser_panic(const char *why)
{
	puts(why);
}

int main(int count, char **paths)
{
	void (*const *begin)(void);
	int i;

	for (begin = __start_rump_components; begin < __stop_rump_components; begin++)
		(*begin)();
	for (i = 1; i < count; i++)
		if (rump_sys_open(paths[i], 0) < 0)
			printf("%s: cannot open\\n", paths[i]);
	return 0;
}
"""


def ioconf(source: Path, component: str) -> subprocess.CompletedProcess[str]:
    """Run the miniature's config(1) on a component's IOCONF; its output is C."""
    (path,) = (source / RUMP / "dev/lib" / component).glob("*.ioconf")
    argv = ["awk", "-v", f"sys={source / RUMP}/..", "-f", str(source / RUMP / "ioconf.awk"), str(path)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)


def opened(source: Path, directory: Path, *paths: str) -> list[str]:
    """Compile the miniature's SCSI mid-layer for this host, open device nodes in it, and return its output."""
    directory.mkdir(exist_ok=True)
    (directory / "kernel.c").write_text(KERNEL)
    (directory / "ioconf.c").write_text(ioconf(source, "libscsipi").stdout)
    parts = ["librump/rumpdev/autoconf.c", "librump/rumpvfs/devnodes.c", "dev/lib/libscsipi/scsipi_component.c"]
    sources = [str(source / RUMP / part) for part in parts] + [str(source / "src-netbsd/sys/dev/scsipi/sd.c")]
    includes = [f"-I{source / RUMP / 'include'}", f"-I{source / 'src-netbsd/sys'}", f"-I{directory}"]
    made = str(directory / "kernel")
    argv = ["gcc", "-std=gnu99", "-Wall", "-Wextra", "-Werror", *includes, "-o", made, f"{made}.c", *sources]
    subprocess.run(argv, check=True, timeout=60)
    done = subprocess.run([made, *paths], capture_output=True, text=True, timeout=10, check=True)
    return done.stdout.splitlines()


DISKS = [f"/dev/{kind}{unit}{letter}" for kind in ("sd", "rsd") for unit in range(8) for letter in "ah"]


@needs_compiler
def test_each_of_eight_disks_is_opened_by_its_own_nodes(source: Path, tmp_path: Path) -> None:
    before = opened(source, tmp_path / "before", "/dev/sd0a", "/dev/rsd0h", "/dev/sd1a")
    assert before == ["sd0: opened partition a", "sd0: opened partition h", "/dev/sd1a: cannot open"]
    apply_edits(str(source), edits("pci_scsi"))
    assert "#include <sys/device.h>\n#include <sys/disklabel.h>\n" in (source / SCSIPI).read_text()
    said = [f"sd{path[-2]}: opened partition {path[-1]}" for path in DISKS]
    assert opened(source, tmp_path / "after", *DISKS, "/dev/sd8a") == [*said, "/dev/sd8a: cannot open"]
    # The devices after the disks are unchanged.
    assert opened(source, tmp_path / "after", "/dev/cd0a") == ["sd0: opened partition a"]


@needs_compiler
def test_with_sixteen_minor_numbers_per_disk_the_wrong_disk_is_opened(source: Path, tmp_path: Path) -> None:
    """On x86, the minor numbers of two disks are eight apart, although a disk may have sixteen partitions."""
    apply_edits(str(source), edits("pci_scsi"))
    path = source / SCSIPI
    path.write_text(path.read_text().replace("DISKMINOR(rumplab_unit, 0)", "MAXPARTITIONS * rumplab_unit"))
    assert opened(source, tmp_path / "wrong", "/dev/sd1a", "/dev/rsd3b") == [
        "sd2: opened partition a",
        "sd6: opened partition b",
    ]


def drivers(source: Path, component: str) -> set[str]:
    """Return the drivers that a component's ioconf.c declares."""
    done = ioconf(source, component)
    assert done.returncode == 0, done.stderr
    return set(re.findall(r"^CFDRIVER_DECL\((\w+)\);$", done.stdout, re.MULTILINE))


def test_no_two_components_define_one_driver(source: Path) -> None:
    """config(1) defines NAME_cd for each device in an IOCONF, and a kernel can have only one NAME_cd."""
    apply_edits(str(source), edits("ppb", "pci_scsi"))
    assert drivers(source, "libpci") == {"pci", "ppb"}
    assert drivers(source, "libpci_scsi") == {"mpt"}
    assert drivers(source, "libscsipi") == {"scsibus", "sd"}


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        ('include "conf/files"', "device `mpt' unknown"),
        ('include "dev/pci/files.pci"', "`mpt' cannot attach to `pci'"),
    ],
)
def test_what_the_new_component_includes_is_needed(source: Path, gone: str, message: str) -> None:
    apply_edits(str(source), edits("pci_scsi"))
    path = source / SCSI / "PCI_SCSI.ioconf"
    path.write_text(path.read_text().replace(gone, ""))
    done = ioconf(source, "libpci_scsi")
    assert done.returncode == 1 and message in done.stderr


CONF = """version 20160209

conf hw_virtio
\tcreate\t\t"virtio"
\tassimilate\t_miconf
fnoc

conf hw_generic
\tcreate\t\t"generic"
\tassimilate\t_miconf\t\t\t\\
\t\t\t_usb
fnoc

conf hw_more
\tassimilate\thw_generic
fnoc
"""


def test_only_the_generic_configuration_gets_the_library(source: Path) -> None:
    (source / "app-tools/rumprun-bake.conf").write_text(CONF)
    apply_edits(str(source), edits("pci_scsi"))
    wanted = CONF.replace("_usb\nfnoc", "_usb\n\tadd\t\t-lrumpdev_pci_scsi\nfnoc")
    assert (source / "app-tools/rumprun-bake.conf").read_text() == wanted


def test_all_edits_together_equal_the_edits_one_after_the_other(source: Path) -> None:
    apply_edits(str(source), edits("pci_scsi", "ppb"))
    assert edits("pci_scsi", "ppb") == edits("ppb") + edits("pci_scsi") == edits("ppb", "pci_scsi")
    assert edits() == []


@pytest.mark.parametrize("component", ["ppb", "pci_scsi"])
def test_a_source_that_has_the_component_already_is_refused(source: Path, component: str) -> None:
    apply_edits(str(source), edits(component))
    with pytest.raises(Broken, match=f"{re.escape(edits(component)[0]['name'])}.*already has"):
        apply_edits(str(source), edits(component))


@pytest.mark.parametrize(
    ("file", "old", "new", "edit"),
    [
        (f"{PCI}/Makefile", "SRCS+=\tpci.c", "SRCS+=\tpci_core.c", "ppb: the driver's source"),
        (f"{PCI}/Makefile", "SRCS+=\tpci.c", "SRCS+=\tpci.c\nSRCS+=\tpci.c", "ppb: the driver's source"),
        (f"{RUMP}/dev/Makefile.rumpdevcomp", "miiphy", "miiphy more", "pci_scsi: the component's name"),
        (SCSIPI, "/dev/rsd0", "/dev/sd", "pci_scsi: nodes for eight disks"),
        ("app-tools/rumprun-bake.conf", "conf hw_generic", "conf hw_all", "pci_scsi: in the generic unikernel"),
    ],
)
def test_the_error_for_a_changed_upstream_names_edit_and_file(
    source: Path, file: str, old: str, new: str, edit: str
) -> None:
    path = source / file
    path.write_text(path.read_text().replace(old, new))
    with pytest.raises(Broken) as caught:
        apply_edits(str(source), edits("ppb", "pci_scsi"))
    assert f"'{edit}' must match exactly once in {file}" in str(caught.value)


@pytest.mark.parametrize("gone", [f"{PCI}/PCI.ioconf", SCSIPI])
def test_an_upstream_file_that_moved_is_named(source: Path, gone: str) -> None:
    (source / gone).rename(source / "elsewhere")
    with pytest.raises(Broken, match=f"changes {re.escape(gone)}, which this source doesn't have"):
        apply_edits(str(source), edits("ppb", "pci_scsi"))
