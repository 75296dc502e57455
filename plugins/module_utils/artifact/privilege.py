"""Drop root's privileges: everything from fetching to installing runs as the lab user."""

from __future__ import annotations

import json
import os
import pwd
import signal
import sys
import traceback
from typing import Any, Callable

from .command import die_with_parent


def _become(account: pwd.struct_passwd) -> None:
    os.initgroups(account.pw_name, account.pw_gid)
    os.setgid(account.pw_gid)
    os.setuid(account.pw_uid)


def _exit_on_signal(number: int, frame: object) -> None:
    """Exit by an exception, so that the running command is killed and the work directory removed."""
    raise SystemExit(128 + number)


def as_user(user: str, function: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call `function` in a child process of `user`, and return its result, a JSON object.

    It needs a child process because the module, after dropping root, couldn't remove the files that root's part of it
    made. If the child dies without a result, this returns `{"failed": True, "msg": …}`.
    """
    try:
        account = pwd.getpwnam(user)
    except KeyError:
        return {"failed": True, "msg": f"there is no account '{user}'; set rumplab_user, or include role lab first"}
    if account.pw_uid == 0:
        return {"failed": True, "msg": "the lab user is root, and builds don't run as root; set rumplab_user"}
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(reader)
            if os.geteuid() == 0:
                _become(account)
            os.umask(0o022)
            signal.signal(signal.SIGTERM, _exit_on_signal)
            # After setuid, which clears the parent death signal.
            die_with_parent(signal.SIGTERM)
            try:
                answer = function()
            except Exception:
                answer = {"failed": True, "msg": "internal error", "exception": traceback.format_exc()}
            with os.fdopen(writer, "wb") as stream:
                stream.write(json.dumps(answer).encode())
            status = 0
        finally:
            sys.stdout.flush()
            os._exit(status)
    os.close(writer)
    with os.fdopen(reader, "rb") as stream:
        said = stream.read()
    _, code = os.waitpid(child, 0)
    if not said:
        return {"failed": True, "msg": f"the build's process ended without a result (wait status {code})"}
    answer = json.loads(said)
    return answer if isinstance(answer, dict) else {"failed": True, "msg": f"unexpected result: {answer!r}"}
