"""Readers of files that rumplab and its roles write, and that people or other programs may have changed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from unit.network.test_settings import GOOD
from unit.plugins.host.test_modules import component, files, lab_state, packages
from unit.plugins.host.test_modules import record as manifest

from fuzz.engine import Reader
from fuzz.mutations import document, text
from plugins.module_utils.artifact import git, inventory, lock, processes, relocate, sources
from plugins.module_utils.artifact.errors import Broken
from plugins.module_utils.artifact.store import PROVENANCE, USES, Store
from rumplab import output
from rumplab.building import record as build_record
from rumplab.commands import doctor, ps, stage, status
from rumplab.commands.guest import list_
from rumplab.container import builder_images
from rumplab.errors import RumplabError
from rumplab.guest import bootdisk, definition, overlay
from rumplab.host.answers import MALFORMED
from rumplab.image import recorded as formats
from rumplab.lab import config, recorded, verified
from rumplab.lab.config import Lab
from rumplab.machine import accel, boot_media, registry, sandbox
from rumplab.network import dhcp, ports
from rumplab.network import record as net_record
from rumplab.network import settings as net_settings
from rumplab.vmware import directory as export

Read = Callable[[bytes, Path], object]


def sample(**values: Any) -> bytes:
    return json.dumps({"schema": 1, **values}).encode()


def written(place: Path, name: str, data: bytes) -> Path:
    path = place / name
    try:
        path.write_bytes(data)
    except FileNotFoundError:
        path.parent.mkdir(parents=True)
        path.write_bytes(data)
    return path


def lab(place: Path) -> Lab:
    return Lab(place, "user", "group", "1", "./provision")


def configuration(data: bytes, place: Path) -> object:
    # The file has the prefix, which is `place` here.
    data = data.replace(b"/opt/x", os.fsencode(place))
    os.environ["RUMPLAB_CONFIG"] = str(written(place, "etc/rumplab.json", data))
    try:
        found = config.load()
    finally:
        del os.environ["RUMPLAB_CONFIG"]
    return [found.components_dir, f"{found.provision} {found.group}".encode("utf-8", "surrogatepass")]


COMPONENT = sample(
    name="gdb",
    state="deferred",
    version="15.2",
    wanted="16.1",
    stamp="0123456789abcdef",
    source="upstream",
    reason="no way there",
    paths={"gdb": "/bin/sh", "gdbinit": "/x"},
    deferral={"tried": "2026-01-01T00:00:00Z", "until": "2026-01-02T00:00:00Z", "request": "x", "awaited": ["/x"]},
)
INSTALLED = sample(name="gdb", state="installed", version=None, stamp="01", paths={"gdb": "/bin/sh"})
STATUS_IMAGES = sample(
    images={"gdb": {"image": "rumplab/gdb:latest", "state": "installed", "stamp": "01", "id": None, "reason": None}}
)


def components(data: bytes, place: Path) -> object:
    """Read the components as `rumplab status` does, and format them as text and as JSON."""
    written(place, "etc/components.d/gdb.json", data)
    here = lab(place)
    found = status.report(here)
    for one in found.components:
        for name in one.paths:
            try:
                one.path(name)
            except config.NotProvisioned:
                continue
    return [status.as_lines(found), output.as_json(status.as_data(found))]


def described_images(data: bytes, place: Path) -> object:
    written(place, "etc/images.json", data)
    found = builder_images.described(lab(place))
    report = status.Report(lab(place), [], found, False, ())
    return [status.as_lines(report), output.as_json(status.as_data(report))]


def smoke_record(data: bytes, place: Path) -> object:
    written(place, "var/verified.json", data)
    return verified.is_verified(lab(place), [])


MACHINE = sample(
    name="hello",
    directory="/x",
    gdb_port=1234,
    image="/x/hello.img",
    program="/x/hello",
    program_sha256="00",
    drives=[{"file": "/x/y", "format": "raw", "controller": "virtio", "snapshot": False}],
    console="vga",
    nics=[
        {
            "model": "e1000",
            "net": "user",
            "mac": "54:54:00:55:55:55",
            "forwards": [{"protocol": "tcp", "host": 2222, "guest": 22}],
            "slot": 0,
        }
    ],
    accel="tcg",
    guest="kgdb",
    pid=1,
    token="x",
    since=1.5,
    argv=["qemu", "-x"],
)


def machine(data: bytes, place: Path) -> object:
    """Read a record as `ps` does, and compare it with a new machine's ports, image and MAC addresses."""
    written(place, "hello/machine.json", data)
    found = registry.read_record(place / "hello")
    if found is None:
        return None
    wanted = registry.Machine("other", str(place), 4321, image="/x/hello.img", snapshot=True)
    try:
        registry.check_free(wanted, [found])
        registry.check_macs(wanted, [found], [])
    except RumplabError:
        pass
    return [
        found.alive(),
        found.starting,
        found.socket,
        found.tcp_ports,
        registry.addressed(found.nics, "x", [found], ()),
        output.table(["a"] * 8, [ps.row(found, 2.0)]),
        output.as_json(ps.described(found)),
    ]


def machines_of_others(data: bytes, place: Path) -> object:
    hello = place / "machines/hello"
    written(place, "machines/hello/machine.json", data)
    option = f"socket,id=control,path={hello}/{registry.SOCKET},server=on"
    written(place, "proc/1/cmdline", b"\0".join(map(os.fsencode, ("qemu", "-chardev", option))))
    return ports.machine_name(1, place / "proc") or None


GUEST = sample(
    name="nb",
    kind="netbsd",
    arch="amd64",
    kernel="/bin/sh",
    symbols=None,
    config="ipkdb",
    boot="grub",
    disk="/bin/sh",
    nics=[{"model": "e1000", "net": "bridge", "mac": "", "forwards": [], "slot": 5}],
    memory="256M",
    pci_bridge=True,
)


def guest(data: bytes, place: Path) -> object:
    """Read the guest as `guest list` does."""
    written(place, "nb/guest.json", data)
    found = definition.Guests(place).find("nb")
    return output.table(list_.HEADER, [list_.row(list_.described(found, None, None, False, lab(place)))])


SHELL = os.stat("/bin/sh")
OVERLAY = sample(path="/bin/sh", size=SHELL.st_size, mtime_ns=SHELL.st_mtime_ns, sha256="00")


def kept_disk(data: bytes, place: Path) -> object:
    written(place, "disk.json", data)
    overlay.check(place, "/bin/sh")
    return None


SIDECAR = sample(program="/x", sha256="00", root=None, debugger=False)


def boot_disk(data: bytes, place: Path) -> object:
    written(place, "image.rumplab.json", data)
    image = written(place, "image", b"")
    return bootdisk.stands(image, {"program": "/x"})


def staged(data: bytes, place: Path) -> object:
    written(place, "image.rumplab.json", data)
    return boot_media.sidecar(str(place / "image"))


EXPORTED = sample(program_sha256="00", image="x")
VMX = b'debugStub.listen.guest64 = "TRUE"\ndebugStub.port.guest64 = "8864"\n'


def exported(data: bytes, place: Path) -> object:
    written(place, export.DESCRIPTION, data)
    written(place, export.CONFIGURATION, VMX)
    return export.open_export(place)


def net_state(data: bytes, place: Path) -> object:
    written(place, "state.json", data)
    return net_record.read(place)


def bridge(data: bytes, place: Path) -> object:
    written(place, "etc/bridge.json", data)
    return net_settings.load(lab(place))


LEASES = b"""\
1790000000 52:54:00:12:34:56 10.0.1.50 guest 01:52:54:00:12:34:56
0 52:54:00:12:34:57 10.0.1.51 * *
duid 00:01:00:01
"""


def leases(data: bytes, place: Path) -> object:
    return dhcp.read(written(place, "leases", data), 1.0)


KEY = {"probe": 1, "qemu": ["/x", "9", 1]}
VERDICT = json.dumps({"key": KEY, "chosen": "tcg", "results": [{"name": "tcg", "works": True, "seconds": 0.1}]})


def accelerator(data: bytes, place: Path) -> object:
    found = accel.recall(written(place, "accel.json", data), KEY)
    return found and f"pc,accel={found.chosen}" + "".join(f"{one.name}{one.seconds:.1f}" for one in found.results)


BUILT = sample(digest="00", files={"/bin/sh": "00"}, output=None)


def built(data: bytes, place: Path) -> object:
    written(place, "record.json", data)
    return build_record.Slot(place, -1).fresh("00", place / "absent")


RUMPRUN = [
    b'{"rc": [{"bin": "x", "argv": ["a"]}], "env": {"A": "b"}, "net": {"interfaces": {"vioif0": {"addrs": []}}}}',
    b'{"cmdline": "x", "cmdline": "y", "blk": {"source": "dev"}}',
]


def rumprun_json(data: bytes, place: Path) -> object:
    return stage.read_configuration(written(place, "config.json", data))


# Files of roles.

OWNER = json.dumps(
    {
        "pid": 1,
        "started": "boot 1",
        "purpose": "gdb",
        "since": "2026",
        "session": 2,
        "session_started": "boot 2",
        "temporary": "/x",
    }
).encode()


def lock_owner(data: bytes, place: Path) -> object:
    """Read the owner of a lock, and check for its orphans. It takes no lock, and ends no process."""
    found = lock.Lock(str(written(place, "gdb.lock", data)), 0.0, "fuzz")
    owner = found.owner()
    if owner is not None:
        with open(found.path, "rb") as handle:
            processes._is_orphan(os.getpid(), os.fstat(handle.fileno()), owner)
    return found.holder()


def manifest_lock(data: bytes, place: Path) -> object:
    with written(place, "manifest.lock", data).open("rb") as handle:
        return manifest._holder(handle.fileno())


TREE = "gdb-1-0123456789ab"
PROVENANCES = json.dumps({"version": "1", "source": "upstream", "origin": "x", "reason": None, "installed": "x"})


def provenance(data: bytes, place: Path) -> object:
    written(place, f"trees/{TREE}/{PROVENANCE}", data)
    written(place, f"trees/{TREE}/.complete", b"0123456789ab")
    return store(place).find("gdb", "0123456789ab")


def store(place: Path) -> Store:
    found = Store(str(place))
    found.trees = str(place / "trees")
    return found


def uses(data: bytes, place: Path) -> object:
    written(place, f"trees/{TREE}/{USES}", data)
    return store(place).used()


def descriptor(data: bytes, place: Path) -> object:
    """Read a descriptor as role artifact does, and as module lab_state does."""
    written(place, "etc/components.d/gdb.json", data)
    found = store(place).descriptor("gdb")
    component.former(str(place / "etc/components.d/gdb.json"))
    described = lab_state.descriptors(str(place / "etc/components.d"))
    for one in described.values():
        lab_state.is_left_alone(one, "2026-01-01T12:00:00Z")
        lab_state.is_intact(one)
        lab_state.is_sound(one)
    return found


def described_lab(data: bytes, place: Path) -> object:
    return lab_state.recorded_user(str(written(place, "rumplab.json", data)))


FILES = json.dumps({"schema": 1, "files": {"a": "file 0644 00", "b": "link a", "c": "directory 0755"}}).encode()


def inventory_of(data: bytes, place: Path) -> object:
    written(place, f"tree/{inventory.NAME}", data)
    return inventory.differences(str(place / "tree"))


def compared(data: bytes, place: Path) -> object:
    """Read the list of files as `drift` does."""
    written(place, f"tree/{recorded.LIST}", data)
    return recorded.read(str(place / "tree"))


def outside(data: bytes, place: Path) -> object:
    """Read the manifest as `drift` does, which turns the exceptions of MALFORMED into a row."""
    return recorded.listed_outside(written(place, "manifest.json", data))


def format_of_a_disk(data: bytes, place: Path) -> object:
    """Read the format of a disk from the description of a staged image, and from the record of its first run."""
    image = str(written(place, "a.img", b""))
    beside = written(place, "a.img.rumplab.json", data)
    at = mock.patch.object(formats, "place", lambda lab, path: beside)
    with at, mock.patch.object(formats, "identity", lambda path: [1, 2]):
        return [formats.staged(image), formats.remembered(lab(place), image)]


def verdict_on_the_sandbox(data: bytes, place: Path) -> object:
    return sandbox.recall(written(place, "sandbox.json", data), ["qemu", 1])


def settled(data: bytes, place: Path) -> object:
    return lab_state.is_settled(str(written(place, "settled.json", data)), {"inputs": "0", "state": "1"})


def pinned(data: bytes, place: Path) -> object:
    (place / "pinned" / "objects" / "pack").mkdir(parents=True, exist_ok=True)
    written(place, "pinned/pinned.json", data)
    # No input names this commit, so that git isn't called.
    return git.is_whole(str(place / "pinned"), "0" * 40)


def came_from(data: bytes, place: Path) -> object:
    written(place, ".x.tar.json", data)
    written(place, "x.tar", b"")
    kind, origin = sources.came_from(str(place / "x.tar"))
    return kind + origin


def relocation(data: bytes, place: Path) -> object:
    written(place, "reloc/a/b", b"@RUMPLAB_TREE@/x")
    written(place, "outside", b"@RUMPLAB_TREE@")
    written(place, f"reloc/{relocate.LIST}", data)
    try:
        relocate.fill_in(str(place / "reloc"), "/opt/x")
    finally:
        assert (place / "outside").read_bytes() == b"@RUMPLAB_TREE@", "the reader changed a file outside the tree"
    return None


MANIFEST = sample(entries=[{"kind": "prefix", "name": "/opt/x"}, {"kind": "package", "manager": "apt", "name": "gdb"}])
SNAPSHOT = json.dumps(
    {
        "manager": "pacman",
        "wanted": ["gdb"],
        "before": {"package": ["a"], "user": ["b"], "group": ["c"]},
        "boot": "",
        "up": 1.0,
    }
).encode()


def entries(data: bytes, place: Path) -> object:
    path = str(written(place, "var/manifest.json", data))
    found = manifest.entries_of(path)
    written(place, "etc/manifest.json", data)
    list(doctor.check_records(lab(place)))
    return [lab_state.is_recorded(str(place)), manifest.is_kept_twice(path, found), manifest.merged(found, found)]


def snapshot(data: bytes, place: Path) -> object:
    """Settle or remove the snapshot of a killed run. It calls no package manager."""
    written(place, "var/packages-before-00.json", data)
    path = str(place / "var/manifest.json")
    installed = mock.patch.object(manifest, "installed", lambda manager: packages.LISTS[manager] and ["a", "gdb"])
    with installed, mock.patch.object(manifest, "record", lambda path, new, user: json.dumps(new)):
        # The snapshot is of another boot of the host, so that the run that wrote it has ended.
        return manifest.settle_abandoned(path, "", 0.0)


def json_of_the_lab(data: bytes, place: Path) -> object:
    return files.read_json(str(written(place, "x.json", data)), None)


def of(name: str, read: Read, *samples: bytes, errors: tuple[type[BaseException], ...] = (), **more: Any) -> Reader:
    mutation = more.get("mutation") or document(*more.get("words", ()))
    return Reader(name, read, samples, errors, mutation)


TOOL = (RumplabError,)
READERS = (
    of("rumplab.json", configuration, sample(prefix="/opt/x", user="a", group="b", version="1"), errors=TOOL),
    of("components", components, COMPONENT, INSTALLED, errors=TOOL, words=("installed", "deferred")),
    of("images.json", described_images, STATUS_IMAGES, errors=TOOL),
    of("verified.json", smoke_record, sample(state="00", verified="2026"), errors=TOOL),
    of("machine.json", machine, MACHINE, errors=TOOL, words=("bridge", "user", "tcp", "udp", "e1000", "cdrom", 65536)),
    of("machines-of-others", machines_of_others, MACHINE),
    of("guest.json", guest, GUEST, errors=TOOL, words=("bridge", "linux", "i386", "direct", "virtio")),
    of("disk.json", kept_disk, OVERLAY, errors=TOOL),
    of("boot-disk", boot_disk, SIDECAR),
    of("image.rumplab.json", staged, SIDECAR, errors=TOOL),
    of("rumplab-export.json", exported, EXPORTED, errors=TOOL),
    of("net-state", net_state, sample(settings=GOOD, session="x", sysctls={"ip_forward": "0"}), errors=TOOL),
    of("bridge.json", bridge, json.dumps(GOOD).encode(), errors=TOOL, words=("10.0.1.2/30", "02:00:00:00:00:00")),
    of("leases", leases, LEASES, mutation=text(b"0", b"1790000000", b"10.0.1.50", b"*")),
    of("accelerator", accelerator, VERDICT.encode()),
    of("build-record", built, BUILT),
    of("rumprun.json", rumprun_json, *RUMPRUN, errors=TOOL, mutation=document()),
    of("lock-owner", lock_owner, OWNER),
    of("manifest-lock", manifest_lock, json.dumps({"pid": 1, "uid": 0}).encode()),
    of("provenance", provenance, PROVENANCES.encode()),
    of("uses", uses, json.dumps({"trees": ["gcc-1-00"]}).encode(), errors=(Broken,)),
    of("descriptor", descriptor, COMPONENT, INSTALLED, words=("installed", "deferred")),
    of("described-lab", described_lab, sample(prefix="/x", user="root")),
    of("inventory", inventory_of, FILES),
    of("files-of-a-tree", compared, FILES, errors=(ValueError,)),
    of("format-of-a-disk", format_of_a_disk, sample(file=[1, 2], format="raw"), words=("qcow2", "vmdk", "raw")),
    of("sandbox", verdict_on_the_sandbox, json.dumps({"key": ["qemu", 1], "works": True}).encode()),
    of("settled.json", settled, json.dumps({"inputs": "0", "state": "1"}).encode()),
    of("pinned.json", pinned, json.dumps({"commit": "1" * 40, "submodules": False}).encode()),
    of("origin-note", came_from, json.dumps({"kind": "mirror", "origin": "/x"}).encode()),
    of("relocation", relocation, json.dumps(["a/b"]).encode(), errors=(Broken,), words=("a/b", "../outside", "a/c")),
    of("manifest.json", entries, MANIFEST, errors=(files.Unfit,)),
    of("manifest-compared", outside, MANIFEST, errors=MALFORMED),
    of("packages-before", snapshot, SNAPSHOT),
    of("lab-json", json_of_the_lab, MANIFEST, errors=(files.Unfit,)),
)
