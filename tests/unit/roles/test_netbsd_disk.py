"""A NetBSD guest's disk, made by makefs from the fixture's sets, and read by other programs and by our parser."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest
from fixtures.upstream import make_netbsd
from fixtures.upstream.support import ROOT
from support import ffs

SCRIPT = ROOT / "roles/netbsd_release/files/disk.py"
MAKEFS = Path("/usr/sbin/makefs")
START = 2048 * 512
SIZE = 8
CHANGES = [
    {"path": "etc/fstab", "mode": "0644", "content": "ROOT.a / ffs rw 1 1\n"},
    {"path": "etc/rc.conf", "mode": "0644", "append": "rc_configured=YES\n"},
    {"path": "root/.ssh", "mode": "0700"},
    {"path": "root/.ssh/authorized_keys", "mode": "0600", "content": "ssh-ed25519 AAAA somebody\n"},
]
needs_makefs = pytest.mark.skipif(not MAKEFS.is_file(), reason="needs makefs")


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("netbsd_disk", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


DISK = script()


@pytest.fixture(scope="session")
def sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory with the binary sets of a release for amd64."""
    made = tmp_path_factory.mktemp("release")
    make_netbsd.make(made, "10.1", ROOT / "examples")
    return made / "NetBSD-10.1/amd64/binary/sets"


def run(work: Path, *more: str, size: int = SIZE) -> subprocess.CompletedProcess[str]:
    work.mkdir(exist_ok=True)
    argv = [sys.executable, str(SCRIPT), "--work", str(work), "--makefs", str(MAKEFS), "--size", str(size)]
    argv += [*more, str(work / "disk.img")]
    return subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="session")
def image(sets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A disk, made from the fixture's sets."""
    work = tmp_path_factory.mktemp("disk")
    named = [f"--set={sets / name}.tar.xz" for name in ("base", "etc")]
    done = run(work, *named, "--changes", json.dumps(CHANGES))
    assert done.returncode == 0, done.stderr
    return work / "disk.img"


@pytest.fixture(scope="session")
def tree(image: Path) -> dict[str, tuple[int, ffs.Inode]]:
    """Map the path of each entry of the file system to (inode number, inode)."""
    return {path: (number, inode) for path, number, inode in read(image).walk()}


def read(image: Path) -> ffs.FileSystem:
    return ffs.FileSystem(image.read_bytes()[START:])


def output(*argv: str) -> str:
    return subprocess.run(argv, capture_output=True, text=True, timeout=20, check=True).stdout


def text(image: Path, tree: dict[str, tuple[int, ffs.Inode]], path: str) -> str:
    return read(image).content(tree[path][1]).decode()


@needs_makefs
def test_modes_and_owners_are_those_of_the_sets_whoever_makes_the_disk(tree: dict[str, tuple[int, ffs.Inode]]) -> None:
    expected = {
        ".": (0o040755, 0, 0),
        "sbin/init": (0o100500, 0, 0),
        "usr/bin/su": (0o104555, 0, 0),
        "etc/master.passwd": (0o100600, 0, 0),
        "var/tmp": (0o041777, 0, 0),
        "var/spool/hidden": (0o040111, 14, 5),
        "var/spool/hidden/a b": (0o100400, 14, 5),
        "root/.ssh": (0o040700, 0, 0),
        "root/.ssh/authorized_keys": (0o100600, 0, 0),
        "kern": (0o040755, 0, 0),
        "proc": (0o040755, 0, 0),
        "tmp": (0o041777, 0, 0),
    }
    assert {path: (tree[path][1].mode, tree[path][1].uid, tree[path][1].gid) for path in expected} == expected


@needs_makefs
def test_device_nodes_are_those_that_makedev_names(tree: dict[str, tuple[int, ffs.Inode]]) -> None:
    nodes = {
        path: (inode.mode, inode.gid, inode.device)
        for path, (_, inode) in tree.items()
        if inode.mode & 0o170000 in (0o020000, 0o060000)
    }
    assert nodes == {
        "dev/console": (0o020600, 0, (0, 0)),
        "dev/null": (0o020666, 0, (2, 2)),
        "dev/wd0a": (0o060640, 5, (0, 0)),
        "dev/ttyp0": (0o020666, 0, (5, 0)),
    }
    assert tree["dev/pts"][1].mode == 0o040755


@needs_makefs
def test_links_are_links(image: Path, tree: dict[str, tuple[int, ffs.Inode]]) -> None:
    assert read(image).link(tree["sys"][1]) == "usr/src/sys"
    assert tree["bin/["][0] == tree["bin/test"][0]
    assert tree["bin/["][1].links == 2


@needs_makefs
def test_later_sets_and_the_labs_files_replace_earlier_ones(
    image: Path, tree: dict[str, tuple[int, ffs.Inode]]
) -> None:
    assert text(image, tree, "etc/motd") == "newer\n"
    assert text(image, tree, "etc/fstab") == "ROOT.a / ffs rw 1 1\n"
    assert text(image, tree, "etc/rc.conf").endswith("rc_configured=NO\nrc_configured=YES\n")
    ttys = text(image, tree, "etc/ttys").splitlines()
    assert 'console\t"/usr/libexec/getty Pc"\t\tvt100 on secure' in ttys
    assert 'constty\t"/usr/libexec/getty Pc"\t\tvt100\toff secure' in ttys
    assert 'ttyE0\t"/usr/libexec/getty Pc"\t\twsvt25\toff secure' in ttys


@needs_makefs
def test_other_programs_find_the_partition_and_read_its_files(image: Path) -> None:
    shown = output("partx", "--show", "--noheadings", "--output", "START,SECTORS,TYPE", str(image))
    assert shown.split() == ["2048", str((SIZE << 20) // 512), "0xa9"]
    # GRUB finds the file system in the MBR's partition and in the disklabel's.
    for partition in ("msdos1", "netbsd1"):
        said = output("grub-fstest", str(image), "cat", f"(loop0,{partition})/etc/fstab")
        assert said == "ROOT.a / ffs rw 1 1\n"


def test_the_label_is_what_the_kernel_expects() -> None:
    label = DISK.disklabel(2048, 4096)
    words = [int.from_bytes(label[at : at + 2], "little") for at in range(0, len(label), 2)]
    checksum = 0
    for word in words:
        checksum ^= word
    assert (len(label), checksum) == (148 + 16 * 16, 0)
    assert label[:4] == label[132:136] == bytes.fromhex("57455682")
    # Offsets from the kernel's assembler sources: bytes per sector, and sectors of the disk.
    assert int.from_bytes(label[40:44], "little") == 512
    assert int.from_bytes(label[60:64], "little") == 6144
    parts = [DISK.LABEL_PARTITION.unpack_from(label, 148 + 16 * index) for index in range(16)]
    assert parts[0] == (4096, 2048, 2048, 7, 8, 0)
    assert [part[:2] for part in parts[2:4]] == [(4096, 2048), (6144, 0)]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("bin/[", r"./bin/\133"),
        ("a b", r"./a\040b"),
        ("x#*?]\\", r"./x\043\052\077\135\134"),
        ("\u00e9", r"./\303\251"),
    ],
)
def test_characters_that_are_special_to_mtree_are_octal(path: str, said: str) -> None:
    assert DISK.spec_name(path) == said


@needs_makefs
@pytest.mark.parametrize(
    ("names", "size", "said"),
    [
        (["base", "etc"], 0, "netbsd_release_disk_size is 0 MiB, and the sets need 1"),
        (["base"], SIZE, "etc/ttys"),
        (["etc", "none"], SIZE, "none.tar.xz"),
    ],
)
def test_sets_that_make_no_disk_are_reported(
    sets: Path, tmp_path: Path, names: list[str], size: int, said: str
) -> None:
    done = run(tmp_path / "work", *(f"--set={sets / name}.tar.xz" for name in names), size=size)
    assert done.returncode == 1
    assert done.stderr.startswith("the disk can't be made: ") and said in done.stderr
    assert not (tmp_path / "work/disk.img").exists()


@pytest.mark.parametrize(
    "members",
    [
        [("../escaped", tarfile.REGTYPE, "")],
        [("link", tarfile.SYMTYPE, "/tmp"), ("link/escaped", tarfile.REGTYPE, "")],
        [("node", tarfile.CHRTYPE, "")],
        [("hard", tarfile.LNKTYPE, "../../passwd")],
    ],
)
def test_sets_that_would_leave_the_root_are_refused(tmp_path: Path, members: list[tuple[str, bytes, str]]) -> None:
    with tarfile.open(tmp_path / "set.tar", "w") as archive:
        for name, kind, link in members:
            archive.addfile(make_netbsd.member(name, kind, 0o644, link=link))
    (tmp_path / "root").mkdir()
    with tarfile.open(tmp_path / "set.tar") as archive, pytest.raises(DISK.Refused):
        DISK.unpack_set(archive, str(tmp_path / "root"), {})
