"""``rumplab guest console``: connects this terminal to a guest's console."""

from __future__ import annotations

import argparse
import contextlib
import os
import selectors
import socket
import sys
import termios
import tty
from collections.abc import Iterator

from rumplab.guest import lines
from rumplab.guest.console import CHUNK, end, open_line, typed_path
from rumplab.guest.definition import open_guests, require_running
from rumplab.guest.lines import CONSOLE
from rumplab.host.process import interruptible
from rumplab.host.terminal import STDIN, terminal_restored
from rumplab.lab import config
from rumplab.machine.registry import Machine, open_machines

EPILOG = """\
Everything on the console is also logged: 'rumplab logs NAME' prints it. Standard input may be a file or a pipe: the
command types its content, and ends when the console has then been silent for two seconds.

examples:
  rumplab guest console nb
"""
LEAVE = b"\x1d"  # Ctrl-]
# When standard input has ended, the session ends after the guest has written nothing for so many seconds.
QUIET_SECONDS = 2.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="the guest")


def run(args: argparse.Namespace) -> int:
    lab = config.load()
    guest = open_guests(lab).find(args.name)
    if not interact(require_running(open_machines(lab), guest)):
        print(f"{guest.name} has closed its console; 'rumplab logs {guest.name}' prints all of it", file=sys.stderr)
    return 0


@contextlib.contextmanager
def _raw_terminal() -> Iterator[None]:
    """If standard input is a terminal, sets it to raw mode: each key goes to the guest at once, without local echo."""
    with terminal_restored():
        if os.isatty(STDIN):
            tty.setraw(STDIN, termios.TCSADRAIN)
        yield


def interact(machine: Machine) -> bool:
    """Connects standard input and output to the guest's console until the user leaves, standard input ends, or the
    guest closes the console. Returns False if the guest closed it."""
    what = f"the console of {machine.name} is open already"
    with lines.held(machine, CONSOLE, what, "leave that with Ctrl-]"), contextlib.ExitStack() as stack:
        line = stack.enter_context(open_line(machine))
        typed = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        path = typed_path(machine)
        path.unlink(missing_ok=True)
        typed.bind(str(path))
        stack.callback(path.unlink, missing_ok=True)
        if os.isatty(STDIN):
            print(f"console of {machine.name}; Ctrl-] leaves it", file=sys.stderr)
            _write(end(machine.serial_log))
        stack.enter_context(interruptible())
        stack.enter_context(_raw_terminal())
        return _relay(line, typed)


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _relay(line: socket.socket, typed: socket.socket) -> bool:
    """Copies between the console `line`, the terminal and the socket `typed`, on which other commands type. Returns
    False if the guest closed the console, True if the user's side ended."""
    # select, because epoll refuses a regular file as standard input.
    with selectors.SelectSelector() as selector:
        for source in (STDIN, line, typed):
            selector.register(source, selectors.EVENT_READ)
        timeout: float | None = None
        while ready := selector.select(timeout):
            for key, _ in ready:
                if key.fileobj is line:
                    received = line.recv(CHUNK)
                    if not received:
                        return False
                    _write(received)
                elif key.fileobj is typed:
                    line.sendall(typed.recv(CHUNK))
                else:
                    keys = os.read(STDIN, CHUNK)
                    before, leave, _ = keys.partition(LEAVE)
                    line.sendall(before)
                    if leave:
                        return True
                    if not keys:
                        selector.unregister(STDIN)
                        timeout = QUIET_SECONDS
        return True
