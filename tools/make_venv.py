"""Make the checkout's virtual environment from a lock file: make_venv.py CALLER LOCK [INSTALLED-PACKAGE...]

tools/venv.sh calls it when .venv doesn't match the lock. It runs on the host's Python, so that it uses only the
standard library. The copy of the lock in .venv/locks is written last: .venv is valid only if this copy equals the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

LOCK_WAIT = 900.0
PIP_LIMIT = 1800.0
NEVER_IMPORTED = "/(ansible_collections|ansible_test|ansible/modules|pip|setuptools|pkg_resources)/"
RECORD = "bootstrap-packages.json"
UNREACHABLE = (
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "Temporary failure in name resolution",
    "ProxyError",
    "No matching distribution found",
)


class Failed(Exception):
    """An error whose text tells the user the problem and the remedy."""


@contextlib.contextmanager
def held(directory: Path, say: Callable[[str], None], limit: float = LOCK_WAIT) -> Iterator[None]:
    """Hold the lock of a directory. The kernel releases it when the process ends, also after a kill."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        deadline = time.monotonic() + limit
        told = False
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise Failed(
                        f"another run has held {directory}/.venv for {limit:.0f} s: end it, then start again"
                    ) from None
                if not told:
                    say("another run is making .venv; waiting for it")
                    told = True
                time.sleep(0.2)
        yield
    finally:
        os.close(descriptor)


def is_current(venv: Path, lock: Path) -> bool:
    """Return whether the environment matches the lock, and wasn't moved since it was made."""
    try:
        return (
            os.access(venv / "bin" / "python", os.X_OK)
            and (venv / "locks" / lock.name).read_bytes() == lock.read_bytes()
            and (venv / "locks" / "location").read_text("utf-8") == f"{venv.parent}\n"
        )
    except OSError:
        return False


def made_for(venv: Path) -> str:
    """Return the checkout that the environment was made for, or an empty string if that isn't recorded."""
    try:
        return (venv / "locks" / "location").read_text("utf-8").rstrip("\n")
    except OSError:
        return ""


def remember(venv: Path, packages: list[str]) -> None:
    """Add packages that venv.sh has installed to a record, which role lab adds to the manifest."""
    record = venv / RECORD
    known = set(packages)
    if record.exists():
        known.update(json.loads(record.read_text("utf-8"))["lab_bootstrap_packages"])
    venv.mkdir(exist_ok=True)
    record.write_text(json.dumps({"lab_bootstrap_packages": sorted(known)}) + "\n", "utf-8")


def clear(venv: Path) -> None:
    """Remove everything in the environment's directory except the record of packages."""
    for entry in venv.iterdir():
        if entry.name == RECORD:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def pip_argv(venv: Path, lock: Path) -> list[str]:
    """Return the command that installs the files of the lock, and checks the hash of each."""
    return [
        *(str(venv / "bin" / "python"), "-I", "-m", "pip", "install"),
        *("--quiet", "--no-input", "--disable-pip-version-check", "--no-compile", "--retries", "2"),
        *("--require-hashes", "--requirement", str(lock)),
    ]


def compile_argv(venv: Path) -> list[str]:
    """Return the command that compiles the modules that are likely to be imported.

    pip would compile all modules, and spend most of its time on modules that the controller hardly ever imports: the
    thousands in Ansible's collections, Ansible's own, which go to hosts as source, and pip's, which run only once.
    """
    packages = [str(path) for path in sorted((venv / "lib").glob("python3*/site-packages"))]
    python = str(venv / "bin" / "python")
    return [python, "-I", "-m", "compileall", "-q", "-x", NEVER_IMPORTED, *packages]


def explain(output: str, lock: Path) -> str:
    """Return the meaning of pip's error, and the remedy."""
    if "DO NOT MATCH THE HASHES" in output:
        return (
            f"a package is not the one that {lock.name} names: see pip's message above. "
            "The package index served something else; nothing of it was used"
        )
    if "No space left on device" in output:
        return f"no space left for {lock.parent}/.venv, which needs 1 GB: free some, then start again"
    if any(sign in output for sign in UNREACHABLE):
        return (
            "pip could not reach a package index that has what the lock names: see its message above. "
            "Check the network, or name a mirror or a directory of wheels in PIP_INDEX_URL or "
            "PIP_FIND_LINKS, then start again"
        )
    return f"pip could not install {lock.name}: see its message above"


def run_pip(venv: Path, lock: Path) -> None:
    elsewhere = ("PIP_USER", "PIP_TARGET", "PIP_PREFIX")
    try:
        done = subprocess.run(
            pip_argv(venv, lock),
            env={name: value for name, value in os.environ.items() if name not in elsewhere},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=PIP_LIMIT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"pip did not finish in {PIP_LIMIT:.0f} s: check the network, start again") from None
    if done.returncode:
        sys.stderr.write(done.stdout)
        raise Failed(explain(done.stdout, lock))


def make(venv: Path, lock: Path) -> None:
    """Install the packages of the lock: in addition to another current lock, else in a new environment."""
    locks = venv / "locks"
    kept = [
        name
        for name in sorted(p.name for p in lock.parent.glob("requirements*.txt"))
        if is_current(venv, lock.parent / name)
    ]
    if kept:
        shutil.rmtree(locks)
    else:
        clear(venv)
        # The interpreter's real path, because /usr/bin/python3 may be another version after an upgrade of the host.
        interpreter = os.path.realpath(sys.executable)
        subprocess.run([interpreter, "-I", "-m", "venv", str(venv)], check=True, timeout=300)
    run_pip(venv, lock)
    # The exit status is ignored: files for other versions of Python don't compile, and aren't imported.
    subprocess.run(compile_argv(venv), stdout=subprocess.DEVNULL, check=False, timeout=300)
    locks.mkdir()
    (locks / "location").write_text(f"{venv.parent}\n", "utf-8")
    for name in {*kept, lock.name}:
        shutil.copyfile(lock.parent / name, locks / f"{name}.new")
        os.replace(locks / f"{name}.new", locks / name)


def main(argv: list[str]) -> int:
    caller, lock_name, *packages = argv
    repository = Path(__file__).resolve().parent.parent
    venv, lock = repository / ".venv", repository / lock_name

    def say(text: str) -> None:
        print(f"{caller}: {text}", file=sys.stderr, flush=True)

    try:
        if venv.is_symlink() and (owner := made_for(venv)) not in ("", str(repository)):
            # If it were made again for this checkout, the other one could no longer use it.
            raise Failed(f"{venv} is a link to the environment of {owner}: remove the link, and start again")
        with held(repository, say):
            if venv.is_symlink():
                # The target of the link isn't this checkout's, and must not be emptied.
                venv.unlink()
            remember(venv, packages)
            if not is_current(venv, lock):
                say(f"making .venv from {lock.name}: a minute or so, once")
                make(venv, lock)
    except Failed as failure:
        say(str(failure))
        return 1
    except subprocess.SubprocessError as failure:
        say(f"cannot make {venv}: {failure}")
        return 1
    except OSError as failure:
        say(f"cannot write {venv}: {failure.strerror}. Make the checkout writable, or clone it elsewhere")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
