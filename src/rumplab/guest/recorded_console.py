"""The console of a guest that is being recorded: a FIFO for its input, and a file with its output."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from pathlib import Path

from rumplab.errors import RumplabError
from rumplab.guest.lines import pipe_path
from rumplab.machine.registry import Machine

CHUNK = 4096
POLL_SECONDS = 0.05
PAUSE_SECONDS = 0.005


def suffixed(machine: Machine, suffix: str) -> Path:
    path = pipe_path(machine)
    return path.with_name(f"{path.name}{suffix}")


def make(machine: Machine, output: Path) -> None:
    """Makes the FIFO, and the link to the existing file `output`, before QEMU starts."""
    os.mkfifo(suffixed(machine, ".in"), 0o600)
    suffixed(machine, ".out").symlink_to(output)


def connect(machine: Machine) -> socket.socket:
    """Returns a socket that is connected to the console, as for other guests: it delivers what the guest prints from
    now on, and ends when the guest ends. RumplabError if QEMU doesn't read the FIFO."""
    path = suffixed(machine, ".in")
    try:
        sink = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise RumplabError(
            f"cannot open the console of {machine.name}, {path}: {error.strerror}; has the guest ended?"
        ) from error
    os.set_blocking(sink, True)
    near, far = socket.socketpair()
    begin = machine.serial_log.stat().st_size
    threading.Thread(target=relay, args=(machine, far, sink, begin), daemon=True).start()
    return near


def relay(machine: Machine, line: socket.socket, sink: int, position: int) -> None:
    """Copies the console's output from byte `position` on to `line`, and what `line` receives to `sink`, until one side
    ends."""
    with line, machine.serial_log.open("rb") as log, os.fdopen(sink, "wb", buffering=0) as guest:
        log.seek(position)
        try:
            while True:
                alive = machine.alive()
                while printed := log.read(CHUNK):
                    line.sendall(printed)
                if not alive:
                    return
                if select.select([line], [], [], POLL_SECONDS)[0]:
                    typed = line.recv(CHUNK)
                    if not typed:
                        return
                    # QEMU gives the guest all bytes at once, and the serial port has room for 16.
                    for at in range(len(typed)):
                        guest.write(typed[at : at + 1])
                        time.sleep(PAUSE_SECONDS)
        except ConnectionError:
            # The user has left the console, or QEMU has ended.
            return
