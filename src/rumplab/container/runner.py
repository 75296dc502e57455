"""Running a tool of the lab in a container of its builder image, on the caller's files and as the caller.

A container has no privilege and no device, and sees the files that it is given, under their own names.
docs/roles/images.md says which verbs do that and when.
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
from rumplab.host import child_environment
from rumplab.host.streams import script
from rumplab.lab.config import Lab

OPTION = "--container"
PLATFORM = "linux/amd64"
USUAL_UMASK = 0o022
ENDING = (signal.SIGTERM, signal.SIGHUP)
# What docker run itself ends with: it could not run the container; its command; its command isn't there.
FAILED, NOT_EXECUTABLE, NOT_FOUND = 125, 126, 127


@dataclass(frozen=True)
class Caller:
    """Who runs a container, and where: what is written belongs to `uid` and `gid`."""

    uid: int
    gid: int
    groups: tuple[int, ...]
    umask: int
    directory: str


@dataclass(frozen=True)
class Container:
    """A container to be run. `command` runs in the caller's directory; `terminal` and `stdin` are what it gets, and
    `environment` its settings, each ``NAME=VALUE``."""

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
    """The option of the verbs that can do this."""
    parser.add_argument(
        OPTION,
        action="store_true",
        help="run the tools in a container of the lab's builder image (on macOS this is the default where they aren't"
        " installed)",
    )


def wanted(asked: bool, lab: Lab, platform: str, *components: str) -> bool:
    """Whether `components` are to be had from an image: `asked` for, or the only way on macOS.

    `platform` is one of sys.platform's names.
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
    """This process's user, as the engine sees it."""
    mask = os.umask(USUAL_UMASK)
    os.umask(mask)
    uid, gid = (0, 0) if docker.is_rootless() else (os.getuid(), os.getgid())
    groups = () if uid == 0 else tuple(sorted(set(os.getgroups()) - {gid}))
    return Caller(uid, gid, groups, mask, os.getcwd())


def run_argv(container: Container) -> list[str]:
    """The command line of docker. Nothing is fetched, no privilege given."""
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
    """`command`, run under the caller's umask, which docker doesn't pass on."""
    if mask == USUAL_UMASK:
        return list(command)
    return ["sh", "-c", f'umask {mask:03o}; exec "$@"', "sh", *command]


def words_inside(words: Sequence[str]) -> list[str]:
    """A verb's words as the tool in the image gets them."""
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
    """Runs ``rumplab VERB`` with the same words in the image of `component`; returns its exit status.

    It sees the files `read` and may write in the directories `written`, has the settings ``NAME=VALUE`` of
    `environment`, and no network.
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
    """A name that no other container has."""
    return f"rumplab-{verb}-{secrets.token_hex(6)}"


def supervise(argv: Sequence[str], name: str) -> int:
    """Runs a container to its end and returns its exit status.

    SIGINT, SIGTERM and SIGHUP stop it, in bounded time, and then end this process.
    """
    # In a session of its own, or Ctrl-C would end docker's command between the making and the start.
    return _run(argv, name, (signal.SIGINT, *ENDING), stdin=subprocess.DEVNULL, start_new_session=True)


def attend(argv: Sequence[str], name: str, stdin: bool) -> int:
    """The same for a program that talks to the user, to whom Ctrl-C belongs: docker's command passes it on."""
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return _run(argv, name, ENDING, stdin=None if stdin else subprocess.DEVNULL)
    finally:
        signal.signal(signal.SIGINT, before)


def _run(argv: Sequence[str], name: str, ending: Iterable[signal.Signals], **options: Any) -> int:
    received: list[int] = []
    started = False

    def leave(number: int, frame: FrameType | None) -> None:
        received.append(number)
        # Until there is a process to end, and while it is being ended, nothing may come in between.
        if started and len(received) == 1:
            raise SystemExit(128 + number)

    sys.stdout.flush()
    before = {number: signal.signal(number, leave) for number in ending}
    try:
        process = subprocess.Popen(
            [docker.program(), *argv[1:]], env=child_environment.of(child_environment.DOCKER), **options
        )
        try:
            started = True
            if received:
                raise SystemExit(128 + received[0])
            return checked(process.wait(), argv)
        except BaseException:
            stop(name, process)
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def stop(name: str, process: subprocess.Popen[bytes]) -> None:
    """Ends the container undisturbed by further signals; it takes seconds at most."""
    if process.poll() is not None:
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, *ENDING)}
    try:
        docker.stop(name, process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def checked(status: int, argv: Sequence[str]) -> int:
    """`status`, unless it is docker's own failure, which has been told on standard error by then."""
    if status in (FAILED, NOT_EXECUTABLE, NOT_FOUND) or status < 0:
        raise RumplabError(f"docker could not run the container; its command was: {shlex.join(argv)}")
    return status
