"""The commands that record and replay, and what they refuse."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from support.demos import ROOT
from support.staging import command as program

from rumplab.errors import UsageError
from rumplab.machine import disk_controllers, nics, qemu_argv
from rumplab.machine.disk_controllers import Disk
from rumplab.machine.nics import Forward, Nic
from rumplab.machine.qemu_argv import Spec
from rumplab.machine.registry import Machine
from rumplab.recording import command, devices, hardware, making
from rumplab.recording.making import Wanted
from rumplab.recording.record import Recording

SPEC = Spec(qemu="/q", accel="tcg", program="/there/app.bin", nics=(Nic("virtio"),), stub="/s/gdb.sock")
IMAGE = replace(SPEC, program=None, image="/there/a,b.img", drives=(Disk("/there/c.iso", "raw", "cdrom"),))


def values(argv: list[str], option: str) -> list[str]:
    return [argv[at + 1] for at, word in enumerate(argv) if word == option]


def replayed(spec: Spec, ports: int = 1, sandbox: str | None = None) -> list[str]:
    """Return the command that replays a recording of `spec`."""
    described = hardware.describe(spec, ports)
    made = Recording(Path("/rec"), "m", 0, "/q", "7", "", (), described, sandbox=sandbox)
    return command.replay_argv(made, "out")


def test_qemu_records_disks_cards_and_time() -> None:
    argv = qemu_argv.machine_argv(command.recording(IMAGE, module=False))
    assert values(argv, "-icount") == ["shift=auto,rr=record,rrfile=log"]
    assert "filter-replay,id=replay0,netdev=net0" in values(argv, "-object")
    (card,) = [device for device in values(argv, "-device") if device.startswith("virtio-net-pci,")]
    assert card.endswith(",tx=timer")
    assert "tx=" not in " ".join(qemu_argv.machine_argv(IMAGE))
    assert "driver=blkreplay,if=none,image=disk0-file,id=disk0" in values(argv, "-drive")
    assert "virtio-blk-pci,drive=disk0,bootindex=0" in values(argv, "-device")


def test_a_program_has_the_same_name_in_both_commands() -> None:
    recording = qemu_argv.machine_argv(command.recording(SPEC, module=True))
    replay = replayed(command.recording(SPEC, module=True))
    assert values(recording, "-kernel") == values(replay, "-kernel") == ["app.bin"]
    assert values(recording, "-initrd") == values(replay, "-initrd") == ["module"]


def test_a_replay_uses_only_files_of_the_recording() -> None:
    """It uses no recorded disk, no port of the host, no bridge and no socket of the machine."""
    card = Nic("virtio", forwards=(Forward("tcp", 8080, 80),), open=True)
    spec = replace(IMAGE, nics=(card, Nic("virtio", net="bridge", mac="52:54:00:00:00:01")), gdb_port=1234, wait=True)
    argv = replayed(spec)
    text = " ".join(argv)
    assert not any(word in text for word in ("/there", "hostfwd", "bridge,br", "1234", "/s/gdb.sock"))
    assert "-S" not in argv
    assert [word.split(",")[0] for word in values(argv, "-netdev")] == ["user", "user"]
    assert values(argv, "-drive")[0] == "file=disk0,format=raw,id=disk0-file,snapshot=on,if=none"
    assert values(argv, "-drive")[2] == "file=disk1,format=raw,id=disk1-file,media=cdrom,readonly=on,if=none"


@pytest.mark.parametrize("name", ["log", "console", "recording.json", "module", "disk0", ".lock"])
def test_a_program_gets_no_name_of_the_recordings_own_files(name: str) -> None:
    assert command.program_name(f"/there/{name}") == f"{name}.program"


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        (replace(SPEC, drives=(Disk("/d", "raw", "nvme"),)), "controller nvme"),
        (replace(SPEC, drives=(Disk("/d", "raw", "mpt"),)), "controller mpt, since its replay hangs, or may hang"),
        (replace(SPEC, drives=(Disk("/d", "vmdk"),)), "qemu-img convert -f vmdk"),
        (replace(SPEC, accel="kvm"), "--accel kvm can't"),
        (replace(SPEC, extra=("-smp", "2")), "'-smp'.*one CPU"),
    ],
)
def test_machines_that_cannot_be_replayed_are_refused(spec: Spec, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        making.check(spec)


def test_a_disk_that_names_other_files_is_refused(tmp_path: Path) -> None:
    disk = tmp_path / "d.qcow2"
    for backing, argv in (("base", ["-b", "base", "-F", "raw"]), ("", [])):
        (tmp_path / "base").write_bytes(bytes(1 << 20))
        made = [program("qemu-img"), "create", "-q", "-f", "qcow2", *argv, str(disk), "1M"]
        subprocess.run(made, cwd=tmp_path, check=True, timeout=60)
        spec = replace(SPEC, drives=(Disk(str(disk), "qcow2"),))
        if backing:
            with pytest.raises(UsageError, match="has the backing file 'base'; make one file of it: qemu-img convert"):
                making.check(spec)
        else:
            making.check(spec)


def test_machines_that_can_be_replayed_are_accepted() -> None:
    making.check(IMAGE)
    making.check(replace(SPEC, drives=(Disk("/d", "raw", "lsi", True),)))


def test_cards_that_need_it_are_explained() -> None:
    assert devices.explain_nics((Nic("virtio"),), chosen=True) == ""
    assert devices.explain_nics((), chosen=False) == ""
    assert "the card is a virtio" in devices.explain_nics((Nic("virtio"),), chosen=False)
    assert "only at the beginning" in devices.explain_nics((Nic("e1000"),), chosen=True)


def test_the_symbols_of_an_image_are_copied() -> None:
    machine = Machine(name="m", directory="", program="/there/app.elf")
    assert making.sources(Wanted(IMAGE, machine)) == {
        "disk0": "/there/a,b.img",
        "disk1": "/there/c.iso",
        "app.elf": "/there/app.elf",
    }
    same = Machine(name="m", directory="", program="/there/app.bin")
    assert making.sources(Wanted(SPEC, same)) == {"app.bin": "/there/app.bin"}
    assert making.symbols_name(Wanted(SPEC, same)) == "app.bin"


def test_symbols_with_the_name_of_the_program_get_another_name() -> None:
    machine = Machine(name="m", directory="", program="/elsewhere/app.bin")
    found = making.sources(Wanted(SPEC, machine))
    assert found == {"app.bin": "/there/app.bin", "app.bin.program": "/elsewhere/app.bin"}


def test_the_page_has_the_table_of_devices() -> None:
    """A device is accepted if, and only if, each of its replays was as recorded."""
    page = (ROOT / "docs" / "commands" / "recording.md").read_text()
    head, _, rest = page.partition("| device | QEMU ")[2].partition("\n")
    assert all(release in head for release in devices.MEASURED)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in rest.splitlines() if line.startswith("| ")]
    found = {row[0]: row[1:] for row in rows}
    for kind, results, tried, accepted in (
        ("card `{}`", devices.CARDS, {}, devices.NICS),
        ("boot code of card `{}`", devices.BOOT_CODE, devices.BOOT_ROUNDS, devices.NICS),
        ("disk `{}`", devices.DISKS, {name: devices.rounds(name) for name in devices.DISKS}, devices.CONTROLLERS),
    ):
        for name, counts in results.items():
            row = found[kind.format(name)]
            assert row[:2] == [f"{count} of {tried.get(name, devices.CARD_ROUNDS)}" for count in counts]
            assert row[2].startswith("accepted" if name in accepted else "refused"), name
    assert set(devices.CARDS) == set(nics.MODELS)
    assert set(devices.DISKS) == {*disk_controllers.CONTROLLERS, disk_controllers.CDROM}
