"""Debug kernels with their built-in debuggers and the lab's GDB, as an unprivileged user."""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PREFIX = "/opt/rumplab"
LINUX = f"{PREFIX}/linux"
DEMO = f"{PREFIX}/kgdbdemo"
# Definitions of guests are kept in the user's home directory.
HOME = "/var/tmp/nobody"
USER = (
    f"setpriv --reuid nobody --regid nogroup --clear-groups --no-new-privs --inh-caps=-all env HOME={HOME} timeout 120"
)
GUEST = f"{USER} rumplab guest"
DEBIAN = "/var/tmp/debian"
# Debian's kernel has the drivers of its network card as modules.
MODULES = (
    *("drivers/virtio/virtio_ring", "drivers/virtio/virtio", "drivers/virtio/virtio_pci_legacy_dev"),
    *("drivers/virtio/virtio_pci_modern_dev", "drivers/virtio/virtio_pci", "net/core/failover"),
    *("drivers/net/net_failover", "drivers/net/virtio_net"),
)
INIT = """\
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
for module in {names}; do /bin/busybox insmod /lib/$module.ko; done
/bin/busybox ip link set eth0 up
/bin/busybox udhcpc -i eth0 -n -q -f -s /bin/true
/bin/busybox sleep 1
/bin/busybox grep eth0 /proc/net/dev
/bin/busybox poweroff -f
"""
FETCH = """\
set -eu
cd {place}
apt-get -qq update
image=$(apt-cache depends linux-image-cloud-amd64 | sed -n 's/ *Depends: \\(linux-image-.*\\)/\\1/p' | head -n 1)
apt-get -qq download "$image" busybox-static
for package in *.deb; do dpkg -x "$package" tree; done
mkdir -p initrd/bin initrd/lib initrd/dev initrd/proc
cp tree/bin/busybox initrd/bin
for module in {modules}; do cp tree/lib/modules/*/kernel/$module.ko initrd/lib; done
cp tree/boot/vmlinuz-* vmlinuz
chmod 755 init
mv init initrd
cd initrd
find . | bin/busybox cpio -o -H newc >../initrd.cpio
"""
INITIAL = "kgdb_initial_breakpoint"
BY_KEY = "handle_sysrq"


@pytest.fixture(scope="module", autouse=True)
def home(host: Any) -> Iterator[None]:
    host.check_output(f"install -d -m 700 -o nobody {HOME}")
    yield
    host.check_output(f"rm -rf {HOME}")


@pytest.fixture(autouse=True)
def no_guest_left(host: Any) -> Iterator[None]:
    """Check that every test stops and removes its guests."""
    yield
    host.check_output(f"{GUEST} stop --all --now")
    for guest in guests(host):
        host.check_output(f"{GUEST} delete {guest['name']}")
    assert host.check_output(f"{USER} rumplab ps --json") == "[]"


def guests(host: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.check_output(f"{GUEST} list --json"))
    return found


def debug(host: Any, options: str, caller: str = GUEST) -> str:
    ran = host.run(f"{caller} debug {options} 2>&1 </dev/null")
    assert ran.rc == 0, ran.stdout
    return str(ran.stdout)


def wait_for(host: Any, name: str, text: str, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while text not in host.check_output(f"{USER} rumplab logs {name}"):
        assert time.monotonic() < deadline, f"'{text}' did not appear"
        time.sleep(0.3)


@pytest.fixture
def linux(host: Any) -> str:
    """Start a Linux that waits in its kgdb; return its name."""
    host.check_output(f"{GUEST} create lx --linux {LINUX}/vmlinux --initrd {LINUX}/initrd.cpio")
    said: str = host.check_output(f"{GUEST} start lx --kgdb")
    assert said.endswith("debug it with: rumplab guest debug lx")
    return "lx"


def test_linux_from_its_first_stop_to_its_end(host: Any, linux: str) -> None:
    said = debug(host, "lx --batch --ex bt --ex 'print linux_banner' --ex linux-ps")
    assert INITIAL in said
    assert re.search(r"^ +2 +0 kernel kthreadd$", said, re.MULTILINE), said
    assert re.search(r'= .*"Linux version 6\.1', said)
    # The kernel continues when GDB detaches.
    wait_for(host, linux, "# ")
    assert [guest["state"] for guest in guests(host)] == ["running"]
    refused = host.run(f"{GUEST} debug lx --batch --ex bt")
    assert refused.rc == 1
    assert "lx runs; stop it in its debugger first" in refused.stderr
    # A BREAK and a key on its console enter kgdb again, any number of times.
    assert host.check_output(f"{GUEST} break lx").startswith("lx is in its debugger;")
    assert BY_KEY in debug(host, "lx --batch --ex bt")
    assert BY_KEY in debug(host, "lx --break --batch --ex bt")
    console = host.run(f"printf 'uname\\n' | {GUEST} console lx")
    assert console.rc == 0, console.stderr
    assert re.search(r"uname\r?\nLinux\r?\n# $", console.stdout)
    assert host.check_output(f"{GUEST} stop lx") == "lx stopped"
    wait_for(host, linux, "poweroff")


def test_linux_runs_to_a_breakpoint(host: Any, linux: str) -> None:
    commands = "--ex 'bt 1' --ex 'info registers rip' --ex delete"
    said = debug(host, f"lx ksys_read --batch {commands}")
    assert re.search(r"Breakpoint 1, .*ksys_read", said)
    assert re.search(r"^rip +0xffffffff8", said, re.MULTILINE)
    wait_for(host, linux, "# ")


def test_linux_is_stepped_from_a_breakpoint_and_lives(host: Any, linux: str) -> None:
    """The breakpoint is set before the kernel protects its text, and taken out afterwards."""
    steps = "--ex 'print $pc' --ex stepi --ex 'print $pc' --ex 'stepi 20' --ex next --ex 'bt 8'"
    said = debug(host, f"lx ksys_read --batch --ex delete {steps}")
    first, second = re.findall(r"^\$[12] = .*(0x[0-9a-f]+) <ksys_read", said, re.MULTILINE)
    assert 0 < int(second, 16) - int(first, 16) < 16
    assert re.search(r"^#[0-9] .*ksys_read", said, re.MULTILINE)
    host.check_output(f"printf 'uname\\n' | {GUEST} console lx")
    wait_for(host, linux, "Linux\r\n# ")
    assert "BP remove failed" not in host.check_output(f"{USER} rumplab logs lx")


def test_a_linux_that_has_booted_is_stepped_with_its_text_protected(host: Any) -> None:
    host.check_output(f"{GUEST} create lx --linux {LINUX}/vmlinux --initrd {LINUX}/initrd.cpio")
    host.check_output(f"{GUEST} start lx")
    wait_for(host, "lx", "# ")
    # After a line of input, the shell reads again.
    typed = f"(sleep 8; printf 'uname\\n' | {GUEST} console lx >/dev/null 2>&1) &"
    steps = "--ex delete --ex 'print $pc' --ex stepi --ex 'print $pc' --ex 'stepi 20'"
    ran = host.run(f"{typed} {GUEST} debug lx ksys_read --break --batch {steps} 2>&1 </dev/null; wait")
    assert len(re.findall(r"^\$[12] = .*<ksys_read", ran.stdout, re.MULTILINE)) == 2, ran.stdout
    wait_for(host, "lx", "Linux\r\n# ")


def test_ctrl_c_reaches_linux_too(host: Any, linux: str) -> None:
    """A kernel doesn't recognize GDB's interrupt on a serial line, so it is sent as a BREAK and a key."""
    interrupted = GUEST.replace("timeout 120", "timeout --foreground -s INT -k 60 12")
    ran = host.run(f"{interrupted} debug lx --batch --ex continue --ex bt 2>&1 </dev/null")
    assert BY_KEY in ran.stdout, ran.stdout
    wait_for(host, linux, "# ")


def test_the_line_is_the_users_own(host: Any, linux: str) -> None:
    (machine,) = json.loads(host.check_output(f"{USER} rumplab ps --json"))
    for name in ("com0.sock", "com1.sock", "gdb.sock", "qmp.sock"):
        socket = host.file(f"{machine['directory']}/{name}")
        assert (socket.user, socket.mode) == ("nobody", 0o600)


def test_the_kernel_dies_under_its_debugger(host: Any, linux: str) -> None:
    (machine,) = json.loads(host.check_output(f"{USER} rumplab ps --json"))
    # GDB itself starts the end, after it has attached: on a busy host, that takes more than seconds.
    end = f"shell (sleep 2; kill -9 {machine['pid']}) >/dev/null 2>&1 &"
    ran = host.run(f"{GUEST} debug lx --batch --ex '{end}' --ex continue --ex bt 2>&1 </dev/null")
    assert "the guest has closed its line" in ran.stdout
    assert [guest["state"] for guest in guests(host)] == ["stopped"]
    host.check_output(f"{GUEST} start lx --kgdb")
    assert INITIAL in debug(host, "lx --batch --ex bt")


def test_a_dump_of_linux_is_read_by_the_labs_gdb(host: Any) -> None:
    host.check_output(f"{GUEST} create lx --linux {LINUX}/vmlinux --initrd {LINUX}/initrd.cpio")
    host.check_output(f"{GUEST} start lx")
    wait_for(host, "lx", "# ")
    host.check_output(f"{USER} rumplab dump lx -o {HOME}/lx.core")
    # The guest continues after the dump.
    assert host.check_output(f"{GUEST} stop lx") == "lx stopped"
    words = "--ex bt --ex 'print linux_banner' --ex 'print init_task.comm' --ex linux-ps --ex linux-dmesg"
    said = debug(host, f"--core {HOME}/lx.core --batch {words}", f"{USER} rumplab")
    # The kernel is idle, since init waits for input.
    assert re.search(r"^#0 .*halt", said, re.MULTILINE)
    assert re.search(r"^#\d+ .*start_kernel", said, re.MULTILINE)
    assert re.search(r'= .*"Linux version 6\.1', said)
    assert '"swapper' in said
    # The lab's commands for Linux read the dump too.
    assert re.search(r"^ +0 +0 kernel swapper\n +1 +0 user   init\n +2 +0 kernel kthreadd$", said, re.MULTILINE), said
    assert re.search(r"^\[ +0\.000000\] Linux version 6\.1", said, re.MULTILINE), said
    assert re.search(r"^\[ +\d+\.\d{6}\] Run /init as init process$", said, re.MULTILINE), said


def test_a_dump_of_linux_is_read_by_drgn(host: Any, tmp_path: Path) -> None:
    import drgn
    from drgn.helpers.linux.pid import for_each_task

    host.check_output(f"{GUEST} create lx --linux {LINUX}/vmlinux --initrd {LINUX}/initrd.cpio")
    host.check_output(f"{GUEST} start lx")
    wait_for(host, "lx", "# ")
    host.check_output(f"{USER} rumplab dump lx --compress -o {HOME}/lx.core.gz")
    box = host.backend.get_hostname()
    for path in (f"{HOME}/lx.core.gz", f"{LINUX}/vmlinux"):
        subprocess.run(["docker", "cp", "-L", f"{box}:{path}", tmp_path], check=True, timeout=120)
    subprocess.run(["gunzip", tmp_path / "lx.core.gz"], check=True, timeout=60)
    program = drgn.Program()
    program.set_core_dump(tmp_path / "lx.core")
    program.load_debug_info([tmp_path / "vmlinux"])
    assert program["init_uts_ns"].name.release.string_().startswith(b"6.1")
    tasks = {task.comm.string_() for task in for_each_task(program)}
    assert {b"init", b"kthreadd"} <= tasks


@pytest.fixture(scope="module")
def debian(host: Any) -> Iterator[str]:
    """Fetch Debian's kernel and make an initial RAM file system for it; return their directory."""
    host.check_output(f"install -d {DEBIAN}")
    names = " ".join(Path(module).name for module in MODULES)
    init, fetch = INIT.format(names=names), FETCH.format(place=DEBIAN, modules=" ".join(MODULES))
    host.check_output("printf %%s %s >%s/init", init, DEBIAN)
    made = host.run("sh -c %s", fetch)
    assert made.rc == 0, made.stderr
    yield DEBIAN
    host.check_output(f"rm -rf {DEBIAN}")


def test_debians_kernel_is_recorded_with_its_network_and_debugged_backwards(host: Any, debian: str) -> None:
    words = f"--bzimage {debian}/vmlinuz --initrd {debian}/initrd.cpio --append quiet"
    host.check_output(f"{GUEST} create lx {words}")
    assert "the recording goes on" in host.check_output(f"{GUEST} start lx --record")
    wait_for(host, "lx", "Power down", 100)
    deadline = time.monotonic() + 20
    while host.check_output(f"{USER} rumplab ps --json") != "[]":
        assert time.monotonic() < deadline
        time.sleep(0.3)
    played = host.run(f"{USER} rumplab replay lx --check")
    assert played.rc == 0, played.stderr
    # The card has received packets, which come from the log now.
    assert re.search(r"lease of 192\.168\.76\.9 obtained", played.stdout)
    assert re.search(r"eth0: +[1-9]", played.stdout)
    commands = [
        "rr-goto 400000000",
        "reverse-stepi",
        "rr-where",
        "hbreak *$pc",
        "stepi",
        "reverse-continue",
        "rr-where",
    ]
    user = USER.replace("timeout 120", "timeout 400")
    options = " ".join(f"--ex '{command}'" for command in commands)
    said = host.run(f"{user} rumplab debug lx --replay --batch {options} 2>&1 </dev/null").stdout
    first, second = (int(found) for found in re.findall(r"^instruction (\d+) of", said, re.MULTILINE))
    assert (first, second) == (399_999_999, 399_999_999), said
    assert "Breakpoint 1, " in said
    host.check_output(f"{USER} rumplab recording rm lx")


@pytest.mark.parametrize("architecture", ["amd64", "i386"])
def test_the_small_kernel_from_waiting_to_powered_off(host: Any, architecture: str) -> None:
    words = f"--arch {architecture} --kernel {DEMO}/kgdb-{architecture}.bin --sources /usr/src/kgdb={DEMO}/src"
    host.check_output(f"{GUEST} create demo {words}")
    host.check_output(f"{GUEST} start demo --kgdb")
    said = debug(host, "demo counter_step --batch --ex 'bt 2' --ex 'stepi' --ex 'print counter = 4711'")
    assert re.search(r"Breakpoint 1, counter_step \(amount=.*\) at .*main\.c:", said)
    assert re.search(r"^[0-9]+\s+counter \+= amount;$", said, re.MULTILINE)
    assert "$1 = 4711" in said
    wait_for(host, "demo", "login: ")
    assert "workload" in debug(host, "demo --break --batch --ex bt")
    devices = json.loads(host.check_output(f"{GUEST} pci demo --json"))
    assert [device["driver"] for device in devices if device["bus"] == 1] == ["wm0"]
    assert host.check_output(f"{GUEST} stop demo") == "demo stopped"
    wait_for(host, "demo", "system going down: power off")


def test_two_debuggers(host: Any) -> None:
    host.check_output(f"{GUEST} create demo --kernel {DEMO}/kgdb-amd64.bin")
    host.check_output(f"{GUEST} start demo --kgdb")
    # The first debugger stays attached until the second one has been refused.
    held = f"touch {HOME}/attached; while test -e {HOME}/attached; do sleep 0.2; done"
    script = (
        f"{GUEST} debug demo --batch --ex 'shell {held}' >/dev/null 2>&1 </dev/null &"
        f" until test -e {HOME}/attached || ! kill -0 $!; do sleep 0.2; done;"
        f" {GUEST} debug demo --batch --ex bt </dev/null; code=$?; rm -f {HOME}/attached; wait; exit $code"
    )
    refused = host.run(script)
    assert refused.rc == 1
    assert "another debugger is attached to demo (pid " in refused.stderr


def test_without_a_kernel_the_command_is_named(host: Any) -> None:
    refused = host.run(f"{GUEST} create nb")
    assert refused.rc == 3
    assert "no NetBSD kernel for amd64 has been built yet" in refused.stderr
    assert "--tags netbsd_guest" in refused.stderr
