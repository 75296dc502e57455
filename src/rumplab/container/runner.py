"""Runs a tool of the lab in a container of its builder image, with the caller's files and user id.

A container has no privileges and no devices. It sees only the files that are mounted, at their own paths.
docs/roles/images.md tells which verbs use a container, and when.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import FrameType
from typing import Any

from rumplab.container import builder_images, docker, mounts
from rumplab.container.mounts import Mount
from rumplab.errors import NotProvisioned, RumplabError
from rumplab.host import child_environment, children
from rumplab.host.streams import script
from rumplab.lab.config import Lab

OPTION = "--container"
PLATFORM = "linux/amd64"
USUAL_UMASK = 0o022
ENDING = (signal.SIGTERM, signal.SIGHUP)
# The exit statuses of docker run itself: it can't run the container; the command isn't executable; it doesn't exist.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


@dataclass(frozen=True)
class Caller:
    """The user who runs a container, and the working directory. Files that the container writes belong to `uid` and
    `gid`."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    directory: str


@dataclass(frozen=True)
class Container:
    """A container to run. `command` runs in the caller's directory. `environment` are its variables, each
    ``NAME=VALUE``; `stdin` and `terminal` tell whether it has the caller's standard input and a terminal."""

    image: str
    name: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    caller: Caller
    network: str | None = "none"
    environment: tuple[str, ...] = ()
    stdin: bool = False
    terminal: bool = False


def add_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option ``--container`` to a verb."""
    parser.add_argument(
        OPTION,
        action="store_true",
        help="run the tools in a container of the lab's builder image (on macOS this is the default where they aren't"
        " installed)",
    )


def wanted(asked: bool, lab: Lab, platform: str, *components: str) -> bool:
    """Whether a verb uses an image instead of `components`: if the user `asked` for it; on macOS also if a component
    isn't installed. `platform` is a value of sys.platform.
    """
    if asked or platform != "darwin":
        return asked
    try:
        for component in components:
            lab.component(component)
    except NotProvisioned:
        return True
    return False


def caller() -> Caller:
    """This process's user, with the ids that the container must use: root's in a rootless engine."""
    mask = os.umask(USUAL_UMASK)
    os.umask(mask)
    uid, gid = (0, 0) if docker.is_rootless() else (os.getuid(), os.getgid())
    groups = () if uid == 0 else tuple(sorted(set(os.getgroups()) - {gid}))
    return Caller(uid, gid, groups, mask, os.getcwd())


def run_argv(container: Container) -> list[str]:
    """The command line of docker. It downloads no image and gives the container no privileges."""
    who = container.caller
    argv = [docker.DOCKER, "run", "--rm", "--init", "--pull", "never", "--platform", PLATFORM]
    argv += ["--name", container.name, "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    argv += ["--user", f"{who.uid}:{who.gid}"]
    for group in who.groups:
        argv += ["--group-add", str(group)]
    argv += ["--network", container.network] if container.network else []
    for setting in ("HOME=/tmp", *container.environment):
        argv += ["--env", setting]
    argv += ["--workdir", who.directory]
    for mount in container.mounts:
        argv += ["--mount", mount.option()]
    argv += ["--interactive"] if container.stdin else []
    argv += ["--tty", "--env", "TERM"] if container.terminal else []
    return [*argv, container.image, *with_umask(container.command, who.umask)]


def with_umask(command: Sequence[str], mask: int) -> list[str]:
    """`command`, run with the umask `mask`, which docker itself can't set."""
    if mask == USUAL_UMASK:
        return list(command)
    return ["sh", "-c", f'umask {mask:03o}; exec "$@"', "sh", *command]


def words_inside(words: Sequence[str]) -> list[str]:
    """A verb's arguments for the tool in the image: without --container and --dry-run."""
    end = words.index("--") if "--" in words else len(words)
    return [word for word in words[:end] if word not in (OPTION, "--dry-run")] + list(words[end:])


def run_verb(
    verb: str,
    args: argparse.Namespace,
    lab: Lab,
    component: str,
    read: Iterable[str],
    written: Iterable[str],
    environment: Iterable[str] = (),
) -> int:
    """Runs ``rumplab VERB`` with the same arguments in the image of `component`; returns its exit status.

    The container can read the files `read` and write in the directories `written`. It has the variables `environment`,
    each ``NAME=VALUE``, and no network. With --dry-run, prints docker's command instead.
    """
    image = builder_images.find(lab, component)
    container = Container(
        image=image.name,
        name=new_name(verb),
        command=("rumplab", verb, *words_inside(args.words)),
        mounts=tuple(mounts.collect(read, written, image.prefix)),
        caller=caller(),
        environment=tuple(environment),
    )
    argv = run_argv(container)
    if args.dry_run:
        script(shlex.join(argv) + "\n")
        return 0
    return supervise(argv, container.name)


def new_name(verb: str) -> str:
    """A unique name for a container."""
    return f"rumplab-{verb}-{secrets.token_hex(6)}"


def supervise(argv: Sequence[str], name: str) -> int:
    """Runs a container until it ends and returns its exit status.

    SIGINT, SIGTERM and SIGHUP stop the container within a time limit, then end this process.
    """
    # In its own session, docker doesn't receive Ctrl-C, which would end it between creating and starting the container.
    return _run(argv, name, (signal.SIGINT, *ENDING), stdin=subprocess.DEVNULL, start_new_session=True)


def attend(argv: Sequence[str], name: str, stdin: bool) -> int:
    """As `supervise`, for an interactive program: docker passes Ctrl-C to the program, and this process ignores it."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return _run(argv, name, ENDING, stdin=None if stdin else subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)


def _run(argv: Sequence[str], name: str, ending: Iterable[signal.Signals], **options: Any) -> int:
    received: list[int] = []
    process: subprocess.Popen[bytes] | None = None

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Don't raise again while the container is being ended.
        if len(received) == 1:
            raise SystemExit(128 + number)

    sys.stdout.flush()
    before = {number: signal.signal(number, leave) for number in ending}
    try:
        with children.signals_delayed():
            process = subprocess.Popen(
                [docker.program(), *argv[1:]], env=child_environment.of(child_environment.DOCKER), **options
            )
        return checked(process.wait(), argv)
    except BaseException:
        if process is not None:
            stop(name, process)
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(name: str, process: subprocess.Popen[bytes]) -> None:
    """Stops the container, ignoring further signals. This takes some seconds at most."""
    if process.poll() is not None:
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDING)}
    try:
        docker.stop(name, process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def checked(status: int, argv: Sequence[str]) -> int:
    """`status`, if it is the command's. RumplabError for a failure of docker itself, which has printed the reason."""
    if status in (FAILED, NOT_EXECUTABLE, NOT_FOUND) or status < 0:
        raise RumplabError(f"docker could not run the container; its command was: {shlex.join(argv)}")
    return status
