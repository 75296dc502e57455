"""Run a GDB that attaches to the server, and print the result as JSON.

Usage, in the directory that has rsp: python3 -m rsp.drive GDB SECONDS < session.json

The session has `stops`, a list of {"g": HEX, "p": {"NUMBER": HEX}}, and `commands`, GDB's commands. The result has
`status` (GDB's exit status, or null after a timeout), `output` (GDB's) and `packets` (those that the server received).
It needs Python 3.9 and the standard library, because it runs in containers.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rsp.server import Machine, Server, Stop


def argv(gdb: str, port: int, commands: Sequence[str]) -> list[str]:
    """Return GDB's command line: without the user's settings, for i386, with these commands after attaching."""
    first = ["set architecture i386", f"target remote 127.0.0.1:{port}"]
    return [gdb, "-nx", "-batch", *(part for command in [*first, *commands] for part in ("-ex", command))]


def drive(gdb: str, session: Mapping[str, Any], timeout: float) -> dict[str, Any]:
    """Run one session of at most `timeout` seconds, and return its result."""
    stops = [Stop(stop["g"], {int(n): p for n, p in stop["p"].items()}) for stop in session["stops"]]
    machine = Machine(stops)
    with Server(machine, timeout) as server:
        command = argv(gdb, server.port, session["commands"])
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=timeout,
                check=False,
            )
            status, output = done.returncode, done.stdout
        except subprocess.TimeoutExpired as error:
            status, output = None, error.stdout or b""
    return {"status": status, "output": output.decode("utf-8", "replace"), "packets": machine.log}


if __name__ == "__main__":
    json.dump(drive(sys.argv[1], json.load(sys.stdin), float(sys.argv[2])), sys.stdout)
