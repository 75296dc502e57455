"""Functions of ./test that use the host: run commands as root, install packages, start the Docker engine."""

from __future__ import annotations

import grp
import os
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path

UNIT_PACKAGES = (
    *("git", "shellcheck", "gcc", "libc6-dev", "make", "gdb", "bmake", "golang-go"),
    *("qemu-system-x86", "qemu-utils", "fdisk", "e2fsprogs", "grub-common", "grub-pc-bin", "makefs"),
    *("dnsmasq-base", "iproute2", "nftables", "tshark", "zsh", "zstd"),
)
IMAGE_PACKAGES = ("debootstrap",)
ENGINE_PACKAGES = ("docker.io",)
ENGINE_WAIT = 60.0


class Failed(Exception):
    """An error whose text tells the user the problem and the remedy."""


def run(argv: list[str], *, limit: float, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a command for at most `limit` seconds. Raise Failed, with the end of its output, if it fails."""
    try:
        done = subprocess.run(
            argv,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=limit,
            check=False,
        )
    except FileNotFoundError:
        raise Failed(f"{argv[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"no end after {limit:.0f} s: {shlex.join(argv)}") from None
    if done.returncode:
        end = "\n".join(done.stdout.splitlines()[-15:])
        raise Failed(f"exit {done.returncode} from: {shlex.join(argv)}\n{end}")
    return done


def as_root(argv: list[str]) -> list[str]:
    """Return the command that runs `argv` as root. sudo asks for a password only on a terminal."""
    if os.geteuid() == 0:
        return argv
    return ["sudo", *([] if sys.stdin.isatty() else ["-n"]), "--", *argv]


def os_release(path: Path = Path("/etc/os-release")) -> dict[str, str]:
    """Return the variables of os-release(5), or an empty dictionary without that file (macOS)."""
    if not path.is_file():
        return {}
    pairs = (line.partition("=") for line in path.read_text("utf-8").splitlines() if "=" in line)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def missing_packages(names: Iterable[str]) -> list[str]:
    """Return the Debian packages of `names` that aren't installed."""
    wanted = list(names)
    done = subprocess.run(
        ["dpkg-query", "--show", "--showformat", "${db:Status-Abbrev}${Package}\n", *wanted],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    present = {line[3:] for line in done.stdout.splitlines() if line.startswith("ii ")}
    return [name for name in wanted if name not in present]


def install_packages(names: Iterable[str], say: Callable[[str], None]) -> None:
    """Install missing packages on a host with apt. On other hosts, tests skip if a program is missing."""
    if not shutil.which("apt-get"):
        return
    missing = missing_packages(names)
    if not missing:
        return
    say(f"installing {' '.join(missing)}")
    apt = ["apt-get", "--quiet", "--yes", "-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::http::Timeout=30"]
    environment = ["env", "DEBIAN_FRONTEND=noninteractive"]
    try:
        run(as_root([*environment, *apt, "update"]), limit=600)
        run(as_root([*environment, *apt, "install", "--no-install-recommends", *missing]), limit=1800)
    except Failed as failure:
        raise Failed(f"cannot install {' '.join(missing)}; install them by hand.\n{failure}") from None


def engine_answers() -> bool:
    try:
        run(["docker", "version", "--format", "{{.Server.Version}}"], limit=20)
    except Failed:
        return False
    return True


def default_mtu(routes: str, sys_net: Path = Path("/sys/class/net")) -> int | None:
    """Return the MTU of the default route's interface, or None; `routes` is the text of /proc/net/route."""
    for line in routes.splitlines()[1:]:
        interface, destination = line.split()[:2]
        if destination == "00000000":
            return int((sys_net / interface / "mtu").read_text("ascii"))
    return None


def engine_argv(state: Path, mtu: int | None, group: str) -> list[str]:
    """Return the command of a Docker engine in the foreground, whose containers have the host's MTU."""
    argv = ["dockerd", "--pidfile", str(state / "dockerd.pid"), "--group", group]
    return argv + (["--mtu", str(mtu)] if mtu else [])


class Engine:
    """A context manager: use the host's Docker engine if it answers, else start one until the end of the run."""

    def __init__(self, state: Path, say: Callable[[str], None]) -> None:
        self.state = state
        self.say = say
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Engine:
        if engine_answers():
            return self
        if not shutil.which("dockerd"):
            install_packages(ENGINE_PACKAGES, self.say)
        if not engine_answers():
            self._start()
        return self

    def _start(self) -> None:
        self.say("starting the Docker engine")
        if not shutil.which("dockerd") and not Path("/usr/sbin/dockerd").exists():
            raise Failed("no Docker engine answers and none is installed: install and start one, then run ./test again")
        if Path("/run/systemd/system").is_dir():
            run(as_root(["systemctl", "start", "docker"]), limit=120)
            if not engine_answers():
                raise Failed(
                    "the Docker engine runs but does not answer this account: "
                    "run ./test as root, or add the account to the group docker and log in again"
                )
            return
        log = self.state / "dockerd.log"
        routes = Path("/proc/net/route")
        mtu = default_mtu(routes.read_text("ascii")) if routes.exists() else None
        argv = as_root(engine_argv(self.state, mtu, grp.getgrgid(os.getegid()).gr_name))
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        deadline = time.monotonic() + ENGINE_WAIT
        while not engine_answers():
            if self.process.poll() is not None or time.monotonic() > deadline:
                end = "\n".join(log.read_text("utf-8", "replace").splitlines()[-10:])
                self._stop()
                raise Failed(f"the Docker engine did not start in {ENGINE_WAIT:.0f} s; the end of {log}:\n{end}")
            time.sleep(0.5)

    def _stop(self) -> None:
        if self.process is None or self.process.poll() is not None:
            return
        if os.geteuid() == 0:
            self.process.terminate()
        else:
            run(as_root(["kill", (self.state / "dockerd.pid").read_text("ascii").strip()]), limit=30)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.say(f"the Docker engine (process {self.process.pid}) did not stop")

    def __exit__(self, *_: object) -> None:
        if self.process is None:
            return
        if run(["docker", "ps", "--quiet"], limit=30).stdout.strip():
            self.say(f"the Docker engine (process {self.process.pid}) is left running: it has running containers")
            return
        self._stop()
