"""Giving up root in role artifact."""

from __future__ import annotations

import getpass
import os
import signal
from pathlib import Path
from typing import Any

from fixtures.upstream.support import NOBODY
from support.staging import needs_root

from plugins.module_utils.artifact.privilege import as_user

pytest_plugins = ["fixtures.upstream.served"]


def who() -> dict[str, Any]:
    (path := Path(f"/tmp/rumplab-test-mask-{os.getpid()}")).mkdir()
    mode = path.stat().st_mode & 0o777
    path.rmdir()
    ids = [*os.getresuid(), *os.getresgid()]
    return {"ids": ids, "groups": os.getgroups(), "mode": mode, "pid": os.getpid()}


@needs_root
def test_all_privileges_of_root_are_given_up() -> None:
    old = os.umask(0)
    try:
        answer = as_user("nobody", who)
    finally:
        os.umask(old)
    assert answer["ids"] == [NOBODY.pw_uid] * 3 + [NOBODY.pw_gid] * 3
    assert 0 not in answer["groups"]
    assert answer["mode"] == 0o755
    assert answer["pid"] != os.getpid() and os.geteuid() == 0


@needs_root
def test_root_cannot_be_regained() -> None:
    def regain_root() -> dict[str, Any]:
        os.setuid(0)
        return {"ids": who()["ids"]}

    answer = as_user("nobody", regain_root)
    assert answer["failed"] and "PermissionError" in answer["exception"]


@needs_root
def test_root_is_refused_as_the_builder() -> None:
    assert as_user("root", who) == {
        "failed": True,
        "msg": "the lab user is root, and builds don't run as root; set rumplab_user",
    }


def test_an_account_that_is_not_there_is_named() -> None:
    answer = as_user("no-such-account", who)
    assert answer["failed"] and "'no-such-account'" in answer["msg"] and "rumplab_user" in answer["msg"]


@needs_root
def test_a_worker_that_dies_is_reported_as_a_failure() -> None:
    answer = as_user("nobody", lambda: os.kill(os.getpid(), signal.SIGKILL))  # type: ignore[arg-type,return-value]
    assert answer["failed"] and "wait status 9" in answer["msg"]


@needs_root
def test_a_large_answer_arrives_whole() -> None:
    assert as_user("nobody", lambda: {"text": "\u00fc" * 300_000}) == {"text": "\u00fc" * 300_000}


def test_a_user_who_is_not_root_keeps_their_own_account() -> None:
    if os.geteuid() == 0:
        answer = as_user("nobody", lambda: as_user("nobody", who))
        assert answer["ids"][0] == NOBODY.pw_uid
    else:
        assert as_user(getpass.getuser(), who)["ids"][0] == os.getuid()
