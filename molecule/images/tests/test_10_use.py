"""Stage and debug in the images, as an unprivileged user of the engine."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Iterator
from typing import Any

import pytest
from testinfra.host import Host

PREFIX = "/var/tmp/rumplab-images/lab"
PROGRAM = f"{PREFIX}/pcihello/pcihello.bin"
# The debug stub's socket must be at a path that the engine on the host can mount into a container.
ALICE = "runuser -u alice -- env HOME=/home/alice XDG_STATE_HOME=/var/tmp/rumplab-images/alice"
# Starts rumplab with the given arguments, waits for its container, sends a signal, and prints the exit status and the
# seconds until the exit.
INTERRUPT = """
import signal, subprocess, sys, time
number, name, words = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
process = subprocess.Popen(["rumplab", *words], stdout=subprocess.DEVNULL)
listing = ["docker", "ps", "--quiet", "--filter", f"name={name}"]
deadline = time.monotonic() + 60
while not subprocess.run(listing, capture_output=True, check=True).stdout:
    assert process.poll() is None and time.monotonic() < deadline, "no container was seen"
    time.sleep(0.02)
started = time.monotonic()
process.send_signal(number)
print(process.wait(60), round(time.monotonic() - started, 1))
"""


@pytest.fixture
def directory(host: Host) -> Iterator[str]:
    """Make a directory for alice whose name needs quoting for docker and a shell."""
    path = host.check_output("mktemp -d %s", '/var/tmp/rumplab-images/alice/a b,"c:d.XXXXXX')
    host.check_output("chown alice: %s", path)
    yield path
    host.run("rm -rf %s", path)


def leftovers(host: Host, verb: str) -> str:
    return str(host.check_output("docker ps --all --quiet --filter name=rumplab-%s-", verb))


def rumplab(host: Host, directory: str, words: str) -> Any:
    """Run the tool as alice in `directory`."""
    return host.run(f"cd {shlex.quote(directory)} && {ALICE} rumplab {words}")


def test_the_labels_tell_what_is_in_the_images(host: Host, described: Any) -> None:
    images = described(host)
    assert sorted(images) == ["gdb", "stager"]
    for name, component in (("gdb", "gdb"), ("stager", "rump_stager")):
        said = json.loads(host.check_output("docker image inspect %s", images[name]["image"]))[0]
        labels = said["Config"]["Labels"]
        assert images[name]["state"] == "installed"
        assert images[name]["id"] == said["Id"]
        assert labels["rumplab.component"] == component
        assert labels["rumplab.stamp"] == images[name]["stamp"]
        assert "GPL-3.0-or-later" in labels["org.opencontainers.image.licenses"]
        inside = host.check_output("docker run --rm --network none %s rumplab status --json", images[name]["image"])
        stamps = {one["name"]: one["stamp"] for one in json.loads(inside)["components"]}
        assert stamps[component] == labels["rumplab.stamp"]


def test_staging_in_the_image_gives_the_same_bits(host: Host, directory: str) -> None:
    host.check_output("mkdir %s", f"{directory}/www")
    host.check_output("ln -s %s %s", PROGRAM, f"{directory}/prog")
    words = "--args 'one two' --volume www --json"
    native = rumplab(host, directory, f"stage prog -o native.img {words}")
    assert native.rc == 0, native.stderr
    inside = rumplab(host, directory, f"stage prog -o inside.img {words} --container")
    assert inside.rc == 0, inside.stderr
    assert json.loads(native.stdout)["sha256"] == json.loads(inside.stdout)["sha256"]
    assert json.loads(inside.stdout)["image"] == f"{directory}/inside.img"
    host.check_output("cmp %s %s", f"{directory}/native.img", f"{directory}/inside.img")
    native_sidecar, sidecar = (host.file(f"{directory}/{name}.img.rumplab.json") for name in ("native", "inside"))
    assert sidecar.content == native_sidecar.content
    for name in ("inside.img", "inside.img.rumplab.json"):
        assert host.file(f"{directory}/{name}").user == "alice"
        assert host.file(f"{directory}/{name}").group == "alice"
    assert not leftovers(host, "stage")


def test_another_format_and_another_umask(host: Host, directory: str) -> None:
    script = f"umask 077; cd {shlex.quote(directory)}; rumplab stage {PROGRAM} -o a.qcow2 --format qcow2 --container"
    done = host.run(f"{ALICE} sh -c {shlex.quote(script)}")
    assert done.rc == 0, done.stderr
    assert host.file(f"{directory}/a.qcow2").mode == 0o600
    assert "file format: qcow2" in host.check_output("qemu-img info %s", f"{directory}/a.qcow2")


def test_the_container_has_no_privilege_no_device_and_no_network(host: Host, directory: str) -> None:
    line = rumplab(host, directory, f"stage {PROGRAM} -o a.img --container --dry-run")
    assert line.rc == 0, line.stderr
    argv = shlex.split(line.stdout)
    end = argv.index("rumplab-test/stager:latest")
    assert argv[end + 1 :] == ["rumplab", "stage", PROGRAM, "-o", "a.img"]
    look = ["sh", "-c", "cat /proc/self/status; id -u; ls /dev /sys/class/net; touch / || :"]
    said = host.check_output(shlex.join([*argv[: end + 1], *look]))
    assert "CapEff:\t0000000000000000" in said and "CapBnd:\t0000000000000000" in said and "NoNewPrivs:\t1" in said
    assert f"\n{host.user('alice').uid}\n" in said
    assert said.splitlines()[-2:] == ["/sys/class/net:", "lo"]
    assert not any(device in said for device in ("\nsda", "\nvda", "\nkvm", "\nloop"))


def test_the_image_boots_and_is_debugged_from_the_gdb_image(host: Host, directory: str) -> None:
    staged = rumplab(host, directory, f"stage {PROGRAM} -o demo.img --container")
    assert staged.rc == 0, staged.stderr
    started = rumplab(host, directory, "run demo.img --wait --detach --accel tcg")
    assert started.rc == 0, started.stderr
    try:
        session = "'pci_device_found if bus == 1' --batch --ex 'print/x id' --ex 'bt 2' --container"
        debugged = rumplab(host, directory, f"debug demo {session}")
        said = debugged.stdout + debugged.stderr
        assert debugged.rc == 0, said
        assert "$1 = 0x100e8086" in said
        # The container can read the program and its sources in the lab.
        assert "at main.c:" in said
        deadline = time.monotonic() + 60
        while "pcihello: done" not in (said := rumplab(host, directory, "logs demo").stdout):
            assert time.monotonic() < deadline, said
            time.sleep(0.2)
    finally:
        rumplab(host, directory, "stop --all")
    assert not leftovers(host, "debug")


def test_commands_from_a_pipe_reach_the_debugger(host: Host, directory: str) -> None:
    started = rumplab(host, directory, f"run {PROGRAM} --wait --detach --accel tcg --name piped")
    assert started.rc == 0, started.stderr
    try:
        done = host.run(
            f"cd {shlex.quote(directory)} && printf 'hbreak main\\ncontinue\\nprint 6*7\\ndump value x 1\\nquit\\n'"
            f" | {ALICE} rumplab debug piped --container"
        )
        assert "$1 = 42" in done.stdout, done.stdout + done.stderr
        assert host.file(f"{directory}/x").user == "alice"
    finally:
        rumplab(host, directory, "stop --all")


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_stops_the_container(host: Host, directory: str, number: int) -> None:
    host.check_output("mkdir %s", f"{directory}/large")
    host.check_output("dd if=/dev/urandom of=%s bs=1M count=300 status=none", f"{directory}/large/file")
    command = f"python3 -c {shlex.quote(INTERRUPT)} {number} rumplab-stage- stage {PROGRAM} -o a.img --container"
    done = host.run(f"cd {shlex.quote(directory)} && {ALICE} {command} --volume large")
    assert done.rc == 0, done.stderr
    status, seconds = done.stdout.split()
    assert int(status) == 128 + number
    assert float(seconds) < 15
    assert not leftovers(host, "stage")
    assert host.check_output("ls -A %s", directory) == "large"


def test_what_a_container_cannot_have_is_refused(host: Host) -> None:
    done = rumplab(host, "/", f"stage {PROGRAM} -o /etc/a.img --container --dry-run")
    assert done.rc == 1
    # As root, who can write to /etc: the image's files there must not change.
    done = host.run(f"rumplab stage {PROGRAM} -o /etc/a.img --container --dry-run")
    assert done.rc == 1
    assert "/etc can't be mounted in a container, which needs its own /etc; use another directory" in done.stderr


def test_errors_are_told_in_the_users_own_words(host: Host, directory: str) -> None:
    done = rumplab(host, directory, "stage missing.bin -o a.img --container")
    assert (done.rc, leftovers(host, "stage")) == (1, "")
    assert "missing.bin" in done.stderr
    done = rumplab(host, directory, f"stage {PROGRAM} -o a.img --size 1M --container")
    assert done.rc == 1
    assert "rumplab stage: " in done.stderr and "Traceback" not in done.stderr


def test_without_an_engine(host: Host, directory: str) -> None:
    words = f"rumplab stage {PROGRAM} -o a.img --container"
    done = host.run(f"cd {shlex.quote(directory)} && {ALICE} DOCKER_HOST=unix:///nonexistent {words}")
    assert done.rc == 1
    assert "the Docker engine can't be used" in done.stderr and "start it" in done.stderr
    done = host.run(f"cd {shlex.quote(directory)} && {ALICE} PATH=/usr/local/bin:/nowhere {words}")
    assert done.rc == 1
    assert "there is no docker command on PATH" in done.stderr


def test_without_the_image(host: Host, directory: str) -> None:
    host.check_output("docker tag rumplab-test/stager:latest rumplab-test/kept:latest")
    host.check_output("docker image rm rumplab-test/stager:latest")
    try:
        done = rumplab(host, directory, f"stage {PROGRAM} -o a.img --container")
        assert done.rc == 3
        assert "there is no image rumplab-test/stager:latest; make it: " in done.stderr
        assert "ansible-playbook playbooks/images.yml" in done.stderr
        assert "rumplab-test/stager:latest  missing" in rumplab(host, directory, "status").stdout
        assert host.check_output("ls -A %s", directory) == ""
    finally:
        host.check_output("docker tag rumplab-test/kept:latest rumplab-test/stager:latest")
        host.check_output("docker image rm rumplab-test/kept:latest")
    status = rumplab(host, directory, "status").stdout
    assert "rumplab-test/stager:latest  installed" in status and "rumplab-test/gdb:latest" in status
