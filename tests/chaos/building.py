"""Run module `artifact` as Ansible does: a process that reads its arguments as JSON and prints its result as JSON."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import pwd
import subprocess
import sys
import tarfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fixtures.upstream import server
from fixtures.upstream.support import ROOT, request

from chaos.row import CORRUPT, HAND_WORK, LEFT, WAITED, Fault, none_left
from plugins.module_utils.artifact import inventory
from plugins.module_utils.artifact.store import Store

FILES = 24
USER = pwd.getpwnam("nobody") if os.geteuid() == 0 else pwd.getpwuid(os.geteuid())
LABELS = "abcd"
SECONDS = 90
LOCK_WAIT = 1.0
# A build that takes some time, and has background processes that a killed run leaves behind.
RECIPE = f"""
set -e
mkdir -p "$0/hello/bin"
sleep 60 &
setsid sleep 60 &
for n in $(seq {FILES}); do
    cp text "$0/hello/bin/$n"
    echo "$n" >>"$0/hello/bin/$n"
    test $((n % 6)) != 0 || sleep 0.03
done
"""
# run_module makes the module's imports work as they do under Ansible. The first argument shifts the clock, in seconds.
MODULE = """
import runpy, sys, time
shift = float(sys.argv[1])
if shift:
    seconds, nanoseconds = time.time, time.time_ns
    time.time, time.time_ns = lambda: seconds() + shift, lambda: nanoseconds() + int(shift * 10**9)
sys.argv[1:] = []
runpy.run_module("plugins.modules.artifact", run_name="__main__")
"""


@dataclass(frozen=True)
class Wanted:
    """One of the versions that runs ask for; the hashes of its files are known."""

    label: str

    @property
    def stamp(self) -> str:
        return hashlib.sha256(self.label.encode()).hexdigest()

    @property
    def text(self) -> bytes:
        return f"version {self.label}, line after line\n".encode() * 1500

    def files(self) -> dict[str, str]:
        """Return the SHA-256 of each file of the tree, by its path."""
        return {
            f"bin/{number}": hashlib.sha256(self.text + f"{number}\n".encode()).hexdigest()
            for number in range(1, FILES + 1)
        }


class Upstream:
    """Serve the source of each version over HTTP."""

    def __init__(self, directory: Path) -> None:
        (directory / "files").mkdir(parents=True)
        self.pins = {}
        for label in LABELS:
            path = directory / "files" / f"hello-{label}.tar"
            with tarfile.open(path, "w") as archive:
                member = tarfile.TarInfo(f"hello-{label}/text")
                member.size = len(Wanted(label).text)
                archive.addfile(member, io.BytesIO(Wanted(label).text))
            self.pins[label] = hashlib.sha256(path.read_bytes()).hexdigest()
        self.server = server.Upstream(directory)
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()

    def pin(self, wanted: Wanted) -> dict[str, Any]:
        url = self.server.url(f"files/hello-{wanted.label}.tar")
        return {"urls": [url], "sha256": self.pins[wanted.label]}

    def close(self) -> None:
        self.server.close()
        self.thread.join(10)


def owned_directory(directory: Path) -> Path:
    """Make a directory that the lab user owns and everybody can enter; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    os.chown(directory, USER.pw_uid, USER.pw_gid)
    return directory


class Module:
    """Runs of the module on one prefix."""

    def __init__(self, prefix: Path, upstream: Upstream) -> None:
        self.prefix, self.upstream = prefix, upstream

    def start(self, wanted: Wanted, shift: float = 0.0, **more: Any) -> subprocess.Popen[bytes]:
        """Start a run in its own session; `shift` moves its clock, in seconds, and `more` replaces parameters."""
        build = {"root": "hello", "commands": [{"argv": ["sh", "-c", RECIPE, "@dest@"], "in": "source"}]}
        stamps = {"upstream": wanted.stamp, "substitute": ""}
        settled = {"lock_wait": 60.0, "version": wanted.label, "fetch_timeout": 10.0, "user": USER.pw_name, **more}
        asked = request(
            self.prefix, self.upstream.pin(wanted), build=build, stamps=stamps, paths={"one": "bin/1"}, **settled
        )
        argv = [sys.executable, "-c", MODULE, str(shift)]
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT),
                "HOME": str(self.prefix),
                "LC_ALL": "C.UTF-8",
                "no_proxy": "127.0.0.1",
            },
            cwd="/",
            start_new_session=True,
        )
        assert process.stdin is not None
        # Another thread of the test may have killed it already.
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(json.dumps({"ANSIBLE_MODULE_ARGS": asked}).encode())
            process.stdin.close()
        return process

    def answer(self, process: subprocess.Popen[bytes]) -> dict[str, Any]:
        """Wait for a run's result, and return it. Raise Fault(HAND_WORK) if there is none, or an internal error."""
        assert process.stdout is not None
        said = b""
        try:
            # Standard input is closed already, and communicate() must not flush it.
            process.stdin = None
            said, _ = process.communicate(timeout=SECONDS)
            found = json.loads(said)
        except subprocess.TimeoutExpired:
            raise Fault(HAND_WORK, f"no answer within {SECONDS} s") from None
        except ValueError:
            raise Fault(HAND_WORK, f"no answer but: {said.decode(errors='replace')[-800:]}") from None
        if "exception" in found or "Traceback" in str(found.get("msg")):
            raise Fault(HAND_WORK, f"an internal error: {found}")
        return dict(found)

    def reap_killed(self, process: subprocess.Popen[bytes]) -> None:
        """Reap a run that was killed. Its children may keep its output open, so that nothing reads the output."""
        process.wait(SECONDS)
        assert process.stdout is not None
        process.stdout.close()

    def provide(self, wanted: Wanted, shift: float = 0.0, **more: Any) -> dict[str, Any]:
        """Run the module to its end, and return its result."""
        return self.answer(self.start(wanted, shift, **more))

    def usual(self) -> float:
        """Return the seconds that a run takes. Raise Fault if the run doesn't install the tree."""
        began = time.monotonic()
        self.repair(Wanted("a"))
        return time.monotonic() - began

    def trusted(self) -> dict[str, Path]:
        """Return the trees that count as complete, by stamp. Raise Fault(CORRUPT) if one differs from its build."""
        store, found = Store(str(self.prefix)), {}
        stamps = {Wanted(label).stamp: Wanted(label) for label in LABELS}
        for entry in sorted(os.listdir(store.trees)) if os.path.isdir(store.trees) else []:
            tree = Path(store.trees, entry)
            stamp = None if entry.startswith(".") else store.stamp_of(str(tree))
            if stamp is None:
                continue
            if stamp not in stamps:
                raise Fault(CORRUPT, f"{tree} counts as {stamp!r}, which no run asked for")
            check(tree, stamps[stamp])
            found[stamp] = tree
        return found

    def repair(self, wanted: Wanted, lock_wait: float = LOCK_WAIT) -> dict[str, Any]:
        """Run the module again, and raise Fault unless that alone repairs the lab; return its result."""
        answer = self.provide(wanted)
        if answer.get("failed") or answer["state"] != "installed":
            raise Fault(HAND_WORK, f"the next run doesn't repair the lab: {answer}")
        if answer["waited"] > lock_wait:
            raise Fault(WAITED, f"the next run waited {answer['waited']} s for the lock")
        self.sound(wanted)
        return answer

    def sound(self, wanted: Wanted) -> None:
        """Raise Fault unless `wanted` is in use and complete, and nothing else is left."""
        trees, link = self.trusted(), self.prefix / "hello"
        if wanted.stamp not in trees or not link.exists() or not link.samefile(trees[wanted.stamp]):
            raise Fault(HAND_WORK, f"{link} isn't version {wanted.label}: {trees}")
        described = json.loads((self.prefix / "etc/components.d/hello.json").read_text())
        if (described["state"], described["stamp"]) != ("installed", wanted.stamp):
            raise Fault(HAND_WORK, f"the descriptor says {described}")
        left = leftovers(self.prefix)
        if left:
            raise Fault(LEFT, f"left: {left}")
        none_left(self.prefix)


def check(tree: Path, wanted: Wanted) -> None:
    """Raise Fault(CORRUPT) unless the tree has exactly the files that were built, with the same hashes."""
    there = {
        str(path.relative_to(tree)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tree.rglob("*")
        if path.is_file() and path.parent != tree
    }
    wrong = sorted(name for name in {**there, **wanted.files()} if there.get(name) != wanted.files().get(name))
    if wrong:
        raise Fault(CORRUPT, f"{tree} counts as complete, but these files differ: {wrong[:5]}")
    differing = inventory.differences(str(tree))
    if differing:
        raise Fault(CORRUPT, f"{tree} counts as complete, but differs from its list: {differing[:5]}")


def leftovers(prefix: Path) -> list[str]:
    """Return the temporary files and links that a run has left."""
    found = [*(prefix / "work").glob("*"), *(prefix / "store").glob(".*"), *prefix.glob(".*.link")]
    found += [*(prefix / "cache").rglob("*.part"), *prefix.rglob(".new-*")]
    return sorted(str(path.relative_to(prefix)) for path in found)
