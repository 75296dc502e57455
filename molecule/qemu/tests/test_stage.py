"""Staging in a container: as an unprivileged user, without a loop device or any other privilege."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

PREFIX = "/opt/rumplab"
PROGRAM = f"{PREFIX}/pcihello/pcihello.bin"
USER = "setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all env HOME=/nonexistent"
STAGE = f"{USER} rumplab stage"


@pytest.fixture
def directory(host: Any) -> Iterator[str]:
    """A directory of the unprivileged user, with a name that needs quoting."""
    path = host.run("mktemp -d '/tmp/stäge it.XXXXXX'").stdout.strip()
    host.run("chown nobody:nogroup %s", path)
    yield path
    host.run("rm -rf %s", path)


def staged(host: Any, image: str, arguments: str = "") -> dict[str, Any]:
    """Stage the example program as the unprivileged user, and return the report."""
    ran = host.run(f"{STAGE} {PROGRAM} -o '{image}' --json {arguments}")
    assert ran.rc == 0, ran.stderr
    report: dict[str, Any] = json.loads(ran.stdout)
    return report


def test_components(host: Any) -> None:
    for name in ("rump_stager", "pcihello"):
        component = json.loads(host.file(f"{PREFIX}/etc/components.d/{name}.json").content_string)
        assert component["state"] == "installed"
        for path in component["paths"].values():
            assert host.file(path).exists, path


def test_the_user_has_no_privilege(host: Any) -> None:
    """Otherwise the tests below would prove nothing."""
    status = host.run(f"{USER} cat /proc/self/status").stdout
    assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status
    assert not host.file("/dev/loop0").exists


def test_a_sound_image(host: Any, directory: str) -> None:
    image = f"{directory}/a.img"
    report = staged(host, image, "--args 'one two'")
    assert report["sha256"] == host.file(image).sha256sum
    assert host.file(image).user == "nobody"
    assert "No errors detected" in host.check_output("sfdisk -V %s", image)
    part = f"{directory}/part"
    host.check_output("dd if=%s of=%s bs=1M skip=1 status=none", image, part)
    host.check_output("e2fsck -fn %s", part)
    listing = host.check_output("debugfs -R 'ls -l /boot' %s", part)
    assert "program.bin" in listing and "grub" in listing
    assert "'one' 'two'" in host.check_output("debugfs -R 'cat /boot/grub/grub.cfg' %s", part)


def test_the_same_image_whoever_makes_it(host: Any, directory: str) -> None:
    """Another user, directory, umask, time zone and clock give the same bytes."""
    first = staged(host, f"{directory}/a.img")
    command = f"rumplab stage {PROGRAM} -o '{directory}/b.img' --json"
    script = f"umask 077; cd / && TZ=Pacific/Apia LC_ALL=C.UTF-8 {command}"
    second = json.loads(host.check_output("sh -c %s", script))
    assert first["sha256"] == second["sha256"]
    assert host.file(f"{directory}/b.img").mode == 0o600


def test_the_printed_commands_need_no_more(host: Any, directory: str) -> None:
    report = staged(host, f"{directory}/a.img", "--args x")
    script = f"{STAGE} {PROGRAM} -o '{directory}/b.img' --args x --dry-run | {USER} sh"
    assert host.run(script).rc == 0
    assert host.file(f"{directory}/b.img").sha256sum == report["sha256"]


def test_no_space_left(host: Any, directory: str) -> None:
    """/dev/shm is a file system of 64 MiB in a container."""
    large = f"{directory}/large.bin"
    host.check_output("cp %s %s", PROGRAM, large)
    host.check_output("dd if=/dev/urandom of=%s bs=1M count=80 seek=1 status=none", large)
    ran = host.run(f"{STAGE} '{large}' -o /dev/shm/a.img")
    assert ran.rc == 1
    assert "no space left: the image needs" in ran.stderr and "/dev/shm" in ran.stderr
    assert host.run("ls -A /dev/shm").stdout == ""


def test_a_directory_of_someone_else(host: Any) -> None:
    ran = host.run(f"{STAGE} {PROGRAM} -o {PREFIX}/a.img")
    assert ran.rc == 1
    assert f"{PREFIX} is not writable" in ran.stderr
