"""The QMP client and a server that sends more than the answer."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest

from rumplab.machine import qmp

STALE = {"error": {"class": "GenericError", "desc": "dump: Broken pipe"}, "id": "of another client"}


def serve(connection: socket.socket, *before: dict[str, object]) -> None:
    """Greets and answers each command with its name; sends the messages `before` ahead of the greeting and of each
    answer."""
    with connection, connection.makefile("rwb") as stream:
        for message in (*before, {"QMP": {}}):
            stream.write(json.dumps(message).encode() + b"\n")
        stream.flush()
        for line in stream:
            command = json.loads(line)
            for message in (*before, {"return": command["execute"], "id": command["id"]}):
                stream.write(json.dumps(message).encode() + b"\n")
            stream.flush()


@pytest.mark.parametrize("stale", [STALE, {"return": {}, "id": 7}])
def test_an_answer_to_an_earlier_client_is_skipped(stale: dict[str, object]) -> None:
    ours, theirs = socket.socketpair()
    threading.Thread(target=serve, args=(theirs, stale, {"event": "STOP"}), daemon=True).start()
    with qmp.Session(Path("x"), 5.0, ours) as session:
        assert session.execute("query-status") == "query-status"
        assert session.execute_long("stop", {}, lambda: None) == "stop"
        assert (session.event(1) or {})["event"] == "STOP"


def test_a_refusal_without_an_id_is_one() -> None:
    # QEMU can't name the id of a command that it couldn't parse.
    ours, theirs = socket.socketpair()
    threading.Thread(target=serve, args=(theirs, {"error": {"desc": "JSON parse error"}}), daemon=True).start()
    with pytest.raises(qmp.Refused, match="JSON parse error"), qmp.Session(Path("x"), 5.0, ours):
        pass
