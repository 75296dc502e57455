"""Compare the lab's bridge with a bridge and taps made directly, and measure how long `rumplab net` takes.

    tools/python bench/net.py KERNEL.deb BUSYBOX.deb [ROUNDS] [MIB]

The benchmark needs root, QEMU, dnsmasq, nft and ip on PATH, and qemu-bridge-helper in its usual place. It runs in its
own network namespace and with a temporary lab. Two guests, in TCG, transfer MIB (default 64) mebibytes. Both sides run
alternately, ROUNDS (default 3) times, so that load on the host affects both. KERNEL and BUSYBOX are Debian's
linux-image and busybox-static (`apt-get download`). The benchmark prints medians and ratios, and asserts nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HELPERS = ("/usr/lib/qemu/qemu-bridge-helper", "/usr/libexec/qemu-bridge-helper")
TIMEOUT = 120
INSIDE = "RUMPLAB_BENCH_NET"
SETTINGS = {
    "schema": 1,
    "bridge": "rumplab0",
    "address": "10.0.1.1/24",
    "mac": "02:00:00:00:00:01",
    "dhcp": ["10.0.1.50", "10.0.1.99"],
    "nat": False,
    "group": "root",
    "persistent": "none",
}


def call(*argv: str, quiet: bool = False) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    if done.returncode and not quiet:
        sys.exit(f"{' '.join(argv)}: {done.stderr or done.stdout}")
    return done.stdout


def make_lab(prefix: Path) -> None:
    """Make a lab of the host's tools, with the files that provisioning writes."""
    (prefix / "etc" / "components.d").mkdir(parents=True)
    (prefix / "var").mkdir()
    lab = {"schema": 1, "version": "0", "prefix": str(prefix), "user": "root", "group": "root"}
    (prefix / "etc" / "rumplab.json").write_text(json.dumps(lab))
    (prefix / "etc" / "bridge.json").write_text(json.dumps(SETTINGS))
    search = os.environ["PATH"] + ":/usr/sbin:/sbin"
    paths = {name: shutil.which(name, path=search) for name in ("ip", "nft", "dnsmasq")}
    component = {"schema": 1, "name": "bridge", "state": "installed", "paths": paths}
    (prefix / "etc" / "components.d" / "bridge.json").write_text(json.dumps(component))


def allow_bridge(directory: Path) -> None:
    """Write the rules of qemu-bridge-helper to /etc/qemu/bridge.conf, in this mount namespace only."""
    upper, work = directory / "etc-upper", directory / "etc-work"
    (upper / "qemu").mkdir(parents=True)
    work.mkdir()
    (upper / "qemu" / "bridge.conf").write_text("allow rumplab0\n")
    options = f"lowerdir=/etc,upperdir={upper},workdir={work}"
    call("mount", "-t", "overlay", "overlay", "-o", options, "/etc")


def rumplab(*words: str) -> float:
    """Return the seconds that `rumplab net WORDS` takes."""
    began = time.perf_counter()
    call(sys.executable, "-m", "rumplab", "net", *words)
    return time.perf_counter() - began


def start(guest: Path, log: Path, number: int, netdev: str, **variables: object) -> subprocess.Popen[bytes]:
    append = " ".join(["console=ttyS0 quiet", *(f"{key}={value}" for key, value in variables.items())])
    log.write_text("")
    argv = ["qemu-system-x86_64", "-accel", "tcg", "-m", "384M", "-display", "none", "-monitor", "none", "-no-reboot"]
    argv += ["-serial", f"file:{log}", "-kernel", str(guest / "vmlinuz"), "-initrd", str(guest / "initrd")]
    argv += ["-append", append, "-netdev", netdev]
    argv += ["-device", f"virtio-net-pci,netdev=n,mac=52:54:00:00:00:{number:02x}"]
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)


def wait(log: Path, pattern: str) -> re.Match[str]:
    deadline = time.monotonic() + TIMEOUT
    while not (match := re.search(pattern, log.read_text(errors="replace"))):
        if time.monotonic() > deadline:
            sys.exit(f"no '{pattern}' in {log}: {log.read_text(errors='replace')[-500:]}")
        time.sleep(0.1)
    return match


def transfer(guest: Path, directory: Path, netdevs: tuple[str, str], mib: int) -> float:
    """Return the MiB per second of one TCP connection between two guests, measured with the sender's clock."""
    log = directory / "server.log"
    server = start(guest, log, 1, netdevs[0], role="server")
    try:
        peer = wait(log, r"lease ([\d.]+)/")[1]
        wait(log, "listening")
        log = directory / "client.log"
        client = start(guest, log, 2, netdevs[1], role="client", peer=peer, host="10.0.1.1", mib=mib)
        try:
            found = wait(log, r"sent \d+ MiB from ([\d.]+) to ([\d.]+)")
        finally:
            client.kill()
            client.wait(10)
    finally:
        server.kill()
        server.wait(10)
    return mib / max(float(found[2]) - float(found[1]), 0.01)


def by_hand(guest: Path, directory: Path, mib: int) -> float:
    """Measure a transfer on a bridge and two taps made with ip, where dnsmasq serves DHCP as on the lab's bridge."""
    for words in ("add name hand0 type bridge", "set dev hand0 up"):
        call("ip", "link", *words.split())
    call("ip", "addr", "add", "10.0.1.1/24", "dev", "hand0")
    for tap in ("hand-a", "hand-b"):
        call("ip", "tuntap", "add", "dev", tap, "mode", "tap")
        call("ip", "link", "set", "dev", tap, "master", "hand0")
        call("ip", "link", "set", "dev", tap, "up")
    argv = ["dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--user=root", "--port=0", "--bind-interfaces"]
    argv += ["--interface=hand0", "--dhcp-range=10.0.1.50,10.0.1.99,1h"]
    argv += [f"--dhcp-leasefile={directory / 'hand'}", f"--pid-file={directory / 'hand.pid'}"]
    server = subprocess.Popen(argv, stderr=subprocess.DEVNULL)
    try:
        taps = [f"tap,id=n,ifname={tap},script=no,downscript=no" for tap in ("hand-a", "hand-b")]
        return transfer(guest, directory, (taps[0], taps[1]), mib)
    finally:
        server.terminate()
        server.wait(10)
        for link in ("hand-a", "hand-b", "hand0"):
            call("ip", "link", "delete", "dev", link, quiet=True)


def ours(guest: Path, directory: Path, helper: str, mib: int) -> float:
    rumplab("up")
    try:
        netdev = f"bridge,id=n,br=rumplab0,helper={helper}"
        return transfer(guest, directory, (netdev, netdev), mib)
    finally:
        rumplab("down", "--force")


def report(name: str, values: list[float], unit: str) -> float:
    median = statistics.median(values)
    print(f"{name:16} {median:8.3f} {unit}  ({', '.join(f'{value:.3f}' for value in values)})")
    return median


def main() -> None:
    kernel, busybox = Path(sys.argv[1]), Path(sys.argv[2])
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
    mib = int(sys.argv[4]) if len(sys.argv) > 4 else 64
    if INSIDE not in os.environ:
        environment = {**os.environ, INSIDE: "1"}
        os.execvpe("unshare", ["unshare", "--net", "--mount", sys.executable, *sys.argv], environment)
    helper = next(path for path in HELPERS if os.path.exists(path))
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        directory = Path(name)
        make_lab(directory / "lab")
        os.environ["RUMPLAB_CONFIG"] = str(directory / "lab" / "etc" / "rumplab.json")
        call("ip", "link", "set", "dev", "lo", "up")
        allow_bridge(directory)
        maker = ROOT / "tests" / "netguest" / "make_initramfs.py"
        call(sys.executable, str(maker), str(kernel), str(busybox), f"{directory}/guest")
        times: dict[str, list[float]] = {"up": [], "status": [], "down": []}
        for _ in range(7):
            for action in times:
                times[action].append(rumplab(action))
        pairs = [
            (ours(directory / "guest", directory, helper, mib), by_hand(directory / "guest", directory, mib))
            for _ in range(rounds)
        ]
    for action, aim in (("up", 1), ("down", 1), ("status", 0.2)):
        report(f"net {action}", times[action], f"s (aim: under {aim})")
    lab = report("lab", [pair[0] for pair in pairs], "MiB/s")
    hand = report("by hand", [pair[1] for pair in pairs], "MiB/s")
    print(f"{'ratio':16} {lab / hand:8.2f} (aim: at least 0.9)")


if __name__ == "__main__":
    main()
