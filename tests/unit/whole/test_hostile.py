"""Every verb and sub-verb under bad circumstances: no traceback, a documented exit status, and no leftover files or
machines. The tests try a few circumstances by default, and all of them with RUMPLAB_TEST_ALL=1."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from ipkdb.kernel import KEY
from support.labfixture import LabPrefix, host_tool
from unit.host.test_child_environment import HOSTILE
from unit.ipkdb.test_capture import write

from rumplab.cli.main import HIDDEN_VERBS, VERBS
from rumplab.commands import ipkdb, recording
from rumplab.commands.guest import GROUP
from rumplab.host import process

ALL = bool(os.environ.get("RUMPLAB_TEST_ALL"))
STATUSES = {0, 1, 2, 3}
SECONDS = 60
# A file name may contain any byte; this one is not valid UTF-8.
ODD = os.fsdecode(b"o\xff dd")


@dataclass(frozen=True)
class Circumstance:
    """The commands of a shell before it starts the tool, its redirections, and additional environment variables. With
    `bare`, the environment has only these and the test's own."""

    name: str
    before: str = ":"
    redirect: str = ""
    environment: dict[str, str] = field(default_factory=dict)
    bare: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


USUAL = (
    Circumstance("all streams are closed", redirect="<&- >&- 2>&-"),
    Circumstance("standard output is full", redirect=">/dev/full"),
    Circumstance("the locale is ISO 8859-1", environment={"LC_ALL": "en_US.ISO-8859-1"}),
    Circumstance("the environment is hostile", environment=HOSTILE),
    Circumstance("the working directory is gone", before='d=$(mktemp -d); cd "$d"; rmdir "$d"'),
)
WRITING = USUAL[1:3]
FURTHER = (
    Circumstance("standard input is closed", redirect="<&-"),
    Circumstance("standard output is closed", redirect=">&-"),
    Circumstance("standard error is closed", redirect="2>&-"),
    Circumstance("standard error is full", redirect="2>/dev/full"),
    Circumstance("all output is full", redirect=">/dev/full 2>/dev/full"),
    Circumstance("the environment is bare", bare=True),
    Circumstance("there is no home", environment={"HOME": "/proc/none", "XDG_STATE_HOME": "/proc/none"}),
    Circumstance("the home is the empty string", environment={"HOME": ""}),
    Circumstance("the locale doesn't exist", environment={"LC_ALL": "xx_XX.UTF-8"}),
    Circumstance("the locale is C", environment={"LC_ALL": "C"}),
    Circumstance("temporary files have no place", environment={"TMPDIR": "/nonexistent"}),
    Circumstance("there is no runtime directory", environment={"XDG_RUNTIME_DIR": "/nonexistent"}),
    Circumstance("no file may have a byte", before="ulimit -f 0"),
    Circumstance("few files may be open", before="ulimit -n 16"),
    Circumstance("the umask forbids all", before="umask 0777"),
    Circumstance("PATH is empty", environment={"PATH": ""}),
)


@pytest.fixture(scope="session")
def locales(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the locale en_US.ISO-8859-1."""
    directory = tmp_path_factory.mktemp("locales")
    argv = [host_tool("localedef"), "-i", "en_US", "-f", "ISO-8859-1", str(directory / "en_US.ISO-8859-1")]
    subprocess.run(argv, timeout=SECONDS, check=True, capture_output=True)
    return directory


@dataclass(frozen=True)
class Bench:
    """A lab, and a directory with the files for the verbs' arguments."""

    lab: LabPrefix
    place: Path
    locales: Path

    @property
    def temporary(self) -> Path:
        return self.place / "tmp"

    def run(self, circumstance: Circumstance, words: list[str]) -> subprocess.CompletedProcess[bytes]:
        given = {"LOCPATH": str(self.locales), "TMPDIR": str(self.temporary), **circumstance.environment}
        usual = {name: self.lab.environment[name] for name in ("RUMPLAB_CONFIG", "XDG_RUNTIME_DIR")}
        environment = {**(usual if circumstance.bare else self.lab.environment), **given}
        script = f'{circumstance.before}; exec "$@" {circumstance.redirect}'
        return subprocess.run(
            ["/bin/sh", "-c", script, "sh", *process.own_command(*words)],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            cwd=self.place,
            timeout=SECONDS,
            check=False,
        )

    def leftovers(self) -> list[str]:
        """Return what a verb must not leave: temporary files and machines."""
        found = [path for path in self.place.rglob("*") if path.name.startswith(".rumplab")]
        found += [path for path in self.temporary.iterdir() if path.name != "rl"]
        running = json.loads(self.lab.tool("ps", "--json").stdout)
        return [str(path) for path in found] + [machine["name"] for machine in running]


@pytest.fixture
def bench(lab: LabPrefix, pcihello: Path, tmp_path: Path, locales: Path) -> Iterator[Bench]:
    place = tmp_path / "place"
    (place / "tmp").mkdir(parents=True)
    (place / "www").mkdir()
    (place / "www" / ODD).write_text("content")
    (place / "c").mkdir()
    (place / "c" / "x.c").write_text("int main(void) { return 0; }\n")
    (place / "p.bin").write_bytes(pcihello.read_bytes())
    write(place / "x.pcap")
    (place / "key").write_bytes(KEY)
    (place / "key").chmod(0o600)
    lab.component("qemu", {"qemu-system-x86_64": host_tool("qemu-system-x86_64"), "qemu-img": host_tool("qemu-img")})
    for argv in (("stage", place / "p.bin", "-o", place / "a.img"), ("stage", place / "p.bin", "-o", place / ODD)):
        assert lab.tool(*argv).returncode == 0
    created = lab.tool("guest", "create", "nb", "--kernel", place / "p.bin", "--memory", "64M")
    assert created.returncode == 0, created.stderr
    yield Bench(lab, place, locales)


def invocations(place: Path, helps: bool = True) -> list[list[str]]:
    """Return command lines of every verb and sub-verb, most of which do real work; each call writes to new names."""
    own = secrets.token_hex(4)
    program, image, odd = str(place / "p.bin"), str(place / "a.img"), str(place / ODD)
    key = ["--key-file", str(place / "key")]
    return [
        *([], ["--help"], ["--version"], ["nonsense"]),
        *([verb, "--help"] for verb in (*VERBS, *HIDDEN_VERBS) if helps),
        *(["guest", subverb, "--help"] for subverb in GROUP.subcommands if helps),
        *(["status"], ["status", "--json"], ["doctor"], ["drift"], ["drift", "--json"]),
        *(["ps"], ["ps", "--json"], ["completion", "bash"]),
        ["build", str(place / "c"), "-o", str(place / f"{own}.bin")],
        ["build", str(place / "c"), "-o", str(place / f"{own}.bin"), "--dry-run"],
        ["stage", program, "-o", str(place / f"{own}.img"), "--volume", str(place / "www")],
        ["stage", program, "-o", odd, "--force", "--json"],
        ["stage", program, "-o", str(place / f"{own}2.img"), "--args", ODD, "--dry-run"],
        ["stage", "p.bin", "-o", f"{own}3.img", "--format", "qcow2"],
        ["run", odd, "--accel", "tcg", "--dry-run"],
        ["run", str(place / "absent")],
        *(["screen", "nobody"], ["type", "nobody", "x"], ["type", "nobody", "--key", "ret"]),
        ["relay", str(place / "absent.sock")],
        *(["logs", "nobody"], ["stop", "--all"], ["stop", "nobody"], ["debug"], ["debug", "nobody", "main"]),
        ["debug", "--vmware", str(place / "www")],
        *(["debug", "--core", program], ["debug", "--core", str(place / "absent")], ["watch", "nobody"]),
        *(["dump", "nobody", "-o", str(place / f"{own}.core")], ["run", program, "--on-panic", "nonsense"]),
        *(["snap", "nobody", "x"], ["snaps", "nobody"], ["snaps", "nobody", "--json"], ["back", "nobody", "x"]),
        ["run", program, f"--record={place / own}.recording", "--dry-run"],
        *(["recording", "ls"], ["recording", "ls", "--json"], ["recording", "unpack", str(place / "absent.tar.zst")]),
        *(["recording", subverb, "nobody"] for subverb in ("show", "verify", "index", "rm", "pack")),
        *(["replay", "nobody"], ["replay", "nobody", "--check"], ["debug", "nobody", "--replay"]),
        ["export", image, "--vmware", str(place / f"{own}.vm"), "--json"],
        *(["guest", "list"], ["guest", "list", "--json"], ["guest", "start", "nb", "--accel", "tcg", "--dry-run"]),
        *(["guest", subverb, "nb"] for subverb in ("console", "break", "debug", "pci", "stop")),
        *(["guest", subverb, "nobody"] for subverb in ("start", "debug", "delete")),
        ["guest", "create", "nb", "--kernel", program],
        ["ipkdb", "decode", str(place / "x.pcap"), *key],
        ["ipkdb", "decode", str(place / "x.pcap"), "--json", *key],
        ["ipkdb", "check-port", "--target", "127.0.0.1:9", "--timeout", "1", *key],
        ["ipkdb", "connect", "--target", "127.0.0.1:9", "--timeout", "1", "--stdio", *key],
        ["ipkdb", "new-port", "--interface", "xx", "--bus", "pci", "-o", str(place / f"{own}.port")],
        *(["net", "status"], ["net", "up", "--dry-run"], ["net", "down", "--dry-run"]),
        ["smoke", "--timeout", "0"],
    ]


def test_the_table_has_every_verb_and_sub_verb() -> None:
    words = [one for one in invocations(Path("/p")) if "--help" not in one]
    assert {one[0] for one in words if one} >= {*VERBS, *HIDDEN_VERBS}
    assert {one[1] for one in words if one[:1] == ["guest"]} == set(GROUP.subcommands)
    assert {one[1] for one in words if one[:1] == ["recording"]} == set(recording.GROUP.subcommands)
    assert {one[1] for one in words if one[:1] == ["ipkdb"]} >= set(ipkdb.GROUP.subcommands)


def problem(done: subprocess.CompletedProcess[bytes], words: list[str]) -> str:
    """Return the fault in how `words` ended, or ""."""
    said = done.stdout + done.stderr
    own = [line for line in done.stderr.splitlines() if not line.startswith(b"ERROR: ld.so: ")]
    if done.returncode not in STATUSES or b"Traceback" in said or b"Exception ignored" in said:
        return f"{words}: {done.returncode}, {said[-600:]!r}"
    if done.returncode and own and b"rumplab" not in b"".join(own):
        return f"{words}: {done.returncode} without a message of rumplab, {done.stderr[-600:]!r}"
    return ""


@pytest.mark.parametrize("circumstance", [*USUAL, *(FURTHER if ALL else ())], ids=str)
def test_no_verb_breaks_where(bench: Bench, circumstance: Circumstance) -> None:
    # --help can only fail in its output, so try it only where the output is affected.
    table = invocations(bench.place, ALL or circumstance in WRITING)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        ended = list(pool.map(lambda words: bench.run(circumstance, words), table))
    assert [why for done, words in zip(ended, table, strict=True) if (why := problem(done, words))] == []
    assert bench.leftovers() == []
    if circumstance.redirect == ">/dev/full":
        told = [done for done, words in zip(ended, table, strict=True) if words[-1:] == ["--help"]]
        assert {done.returncode for done in told} == {1}
        assert all(b"standard output: No space left on device" in done.stderr for done in told)


@pytest.mark.parametrize("redirect", ["<&- >&- 2>&-", "<&-", ">&- 2>&-"])
def test_the_work_is_done_with_streams_closed(bench: Bench, redirect: str) -> None:
    closed = Circumstance("closed", redirect=redirect)
    image, program = str(bench.place / "w.img"), str(bench.place / "p.bin")
    assert bench.run(closed, ["stage", program, "-o", image]).returncode == 0
    assert Path(image).stat().st_size > 1 << 20
    words = ["run", image, "--accel", "tcg", "--wait", "--detach", "--name", "closed"]
    assert bench.run(closed, words).returncode == 0
    (machine,) = bench.lab.machines()
    handles = {os.readlink(f"/proc/{machine['pid']}/fd/{number}") for number in range(3)}
    assert handles <= {"/dev/null", f"{machine['directory']}/qemu.log"}
    words = ["debug", "closed", "pci_device_found", "--ex", "print 111111 * 8", "--ex", "detach", "--ex", "quit"]
    done = bench.run(closed, words)
    assert done.returncode == 0
    assert b"Undefined command" not in done.stderr
    assert ">&-" in redirect or b"$1 = 888888" in done.stdout
    assert bench.run(closed, ["stop", "closed"]).returncode == 0


def test_a_name_of_any_byte_is_listed_in_any_locale(bench: Bench) -> None:
    odd = str(bench.place / ODD)
    assert bench.lab.tool("run", odd, "--accel", "tcg", "--wait", "--detach", "--name", "odd").returncode == 0
    for locale in ("en_US.ISO-8859-1", "C", "C.UTF-8"):
        one = Circumstance("", environment={"LC_ALL": locale})
        shown, listed = bench.run(one, ["ps"]), bench.run(one, ["ps", "--json"])
        assert (shown.returncode, listed.returncode) == (0, 0), shown.stderr
        assert b"o\\udcff dd" in shown.stdout
        assert json.loads(listed.stdout.decode("latin-1"))[0]["image"] == odd
        # A command line for the user to paste has the byte itself.
        assert b"o\xff dd" in bench.run(one, ["run", odd, "--snapshot", "--dry-run", "--accel", "tcg"]).stdout
    assert bench.lab.tool("stop", "odd").returncode == 0


POINTS = 20 if ALL else 4
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.mark.parametrize("verb", ["stage", "export", "run", "smoke"])
def test_a_verb_that_is_interrupted_leaves_nothing(bench: Bench, verb: str) -> None:
    place = bench.place
    words = {
        "stage": ["stage", str(place / "p.bin"), "-o", str(place / "i.img"), "--volume", str(place / "www"), "--force"],
        "export": ["export", str(place / "a.img"), "--vmware", str(place / "i.vm"), "--force"],
        "run": ["run", str(place / "a.img"), "--accel", "tcg", "--name", "i"],
        "smoke": ["smoke", "--timeout", "30"],
    }[verb]
    environment = {**bench.lab.environment, "TMPDIR": str(bench.temporary)}
    for point in range(POINTS):
        number = SIGNALS[point % len(SIGNALS)]
        with subprocess.Popen(
            process.own_command(*words),
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            # Under nohup a hang-up is ignored, by children too.
            preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        ) as child:
            time.sleep(0.02 + 0.4 * point / POINTS)
            child.send_signal(number)
            try:
                _, said = child.communicate(timeout=SECONDS)
            finally:
                child.kill()
        assert child.returncode in (*STATUSES, 128 + number, -number), said
        # A signal during Python's own start may print a traceback, which the tool can't prevent.
        assert b"Traceback" not in said or b'File "<frozen' in said, said.decode()
        assert bench.leftovers() == []
