"""Changes to the host as data: each step can be printed as a shell command, or executed."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rumplab.errors import RumplabError
from rumplab.host import child_environment, process

SECONDS = 10


class Step(Protocol):
    def shell(self) -> str: ...
    def do(self) -> None: ...


@dataclass(frozen=True)
class Run:
    """A command, with `text` on its standard input. `hint` is added to the error when it fails."""

    argv: tuple[str, ...]
    text: str = ""
    hint: str = ""

    def shell(self) -> str:
        line = shlex.join(self.argv)
        return f"{line} <<'EOF'\n{self.text}EOF" if self.text else line

    def do(self) -> None:
        try:
            done = subprocess.run(
                self.argv,
                input=self.text,
                capture_output=True,
                encoding="utf-8",
                errors="surrogateescape",
                env=child_environment.of(child_environment.TOOL),
                timeout=SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise RumplabError(f"{shlex.join(self.argv)} did not end within {SECONDS} s; try again") from None
        except OSError as error:
            raise RumplabError(
                f"cannot run {self.argv[0]}: {error.strerror}; check that it exists and is executable"
            ) from error
        if done.returncode:
            said = " ".join((done.stderr or done.stdout).split()) or f"status {done.returncode}"
            hint = f"; {self.hint}" if self.hint else ""
            raise RumplabError(f"{shlex.join(self.argv)}: {said}{hint}")


@dataclass(frozen=True)
class Write:
    """Writes a file of the lab atomically. Every user may read it."""

    path: Path
    text: str

    def shell(self) -> str:
        return f"printf %s {shlex.quote(self.text)} >{shlex.quote(str(self.path))}"

    def do(self) -> None:
        temporary = self.path.with_name(f".{self.path.name}")
        try:
            with temporary.open("w", encoding="utf-8") as stream:
                os.fchmod(stream.fileno(), 0o644)
                stream.write(self.text)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self.path)
        except OSError as error:
            raise RumplabError(
                f"cannot write {self.path}: {error.strerror}; check its directory, then try again"
            ) from error


@dataclass(frozen=True)
class Sysctl:
    """Sets a kernel setting below /proc/sys. Does nothing if it doesn't exist or already has the value."""

    path: Path
    value: str

    def shell(self) -> str:
        path, value = shlex.quote(str(self.path)), shlex.quote(self.value)
        return f"[ ! -e {path} ] || grep -qsx {value} {path} || echo {value} >{path}"

    def done(self) -> bool:
        """Whether there is nothing to change: the value is set already, or the kernel lacks this kind of setting. False
        for a setting of an interface that doesn't exist yet."""
        try:
            return self.path.read_text(encoding="ascii").strip() == self.value
        except FileNotFoundError:
            return not self.path.parent.parent.is_dir()

    def do(self) -> None:
        if self.done() or not self.path.exists():
            return
        try:
            self.path.write_text(self.value, encoding="ascii")
        except OSError as error:
            raise RumplabError(
                f"cannot set {self.path} to {self.value}: {error.strerror}; in a container, set it from outside"
            ) from error


@dataclass(frozen=True)
class Remove:
    """Removes files of the lab. Missing files are ignored."""

    paths: tuple[Path, ...]

    def shell(self) -> str:
        return shlex.join(["rm", "-f", *map(str, self.paths)])

    def do(self) -> None:
        for path in self.paths:
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class End:
    """Ends a process of the lab. `token` distinguishes it from a later process with the same pid."""

    pid: int
    token: str

    def shell(self) -> str:
        return f"kill {self.pid}"

    def do(self) -> None:
        if not process.terminate(self.pid, self.token):
            raise RumplabError(f"process {self.pid} does not end; find out what it waits for, then try again")


def script(steps: Iterable[Step]) -> str:
    """The steps as a shell script. Files that it writes are readable by every user."""
    return "\n".join(["set -eu", "umask 022", *(step.shell() for step in steps)]) + "\n"
