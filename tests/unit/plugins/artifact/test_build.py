"""Builds of role artifact: the commands' environment, the message of a failure, and the time limit."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from fixtures.upstream.support import gone, until
from support.staging import needs_root

from plugins.module_utils.artifact.build import (
    build_environment,
    fill,
    log_tail,
    require_space,
    run_recipe,
)
from plugins.module_utils.artifact.errors import Broken

pytest_plugins = ["fixtures.upstream.served"]


def places(directory: Path) -> dict[str, str]:
    made = {name: str(directory / name) for name in ("source", "build", "dest", "tmp")}
    for path in made.values():
        os.makedirs(path)
    return {**made, "jobs": "3"}


def shell(script: str, where: str = "build") -> dict[str, Any]:
    return {"argv": ["sh", "-c", script], "in": where}


def run(directory: Path, *commands: dict[str, Any], timeout: float = 20, **recipe: Any) -> Path:
    log = directory.parent / f"{directory.name}.log"
    run_recipe({"commands": list(commands), **recipe}, places(directory), str(directory), str(log), timeout)
    return log


def test_commands_run_in_order_where_they_belong(tmp_path: Path) -> None:
    log = run(tmp_path / "w", shell("pwd", "source"), shell("pwd >&2"), {"argv": ["echo", "@dest@ -j@jobs@"]})
    said = [line for line in log.read_text().splitlines() if not line.startswith("$ ")]
    assert said == [str(tmp_path / "w/source"), str(tmp_path / "w/build"), f"{tmp_path}/w/dest -j3"]


def test_a_build_gets_no_variable_of_the_callers_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CFLAGS", "-Ofast")
    monkeypatch.setenv("MAKEFLAGS", "-j99")
    where = places(tmp_path)
    made = build_environment({"environment": {"LDFLAGS": "-L@dest@", "N": 1}}, where, str(tmp_path))
    assert not {"CFLAGS", "MAKEFLAGS"} & set(made)
    assert made["LDFLAGS"] == f"-L{where['dest']}"
    assert (made["N"], made["LC_ALL"], made["TZ"]) == ("1", "C", "UTC")
    assert (made["HOME"], made["TMPDIR"]) == (where["build"], where["tmp"])
    log = run(tmp_path / "w", {"argv": ["env"]})
    assert "CFLAGS" not in log.read_text()


def test_only_known_places_are_filled_in() -> None:
    assert fill("@dest@/@GREETING@", {"dest": "/d"}) == "/d/@GREETING@"


def test_a_failing_command_shows_status_log_and_its_end(tmp_path: Path) -> None:
    script = "seq 1 100; printf 'caf\\351: what went wrong\\n' >&2; exit 3"
    with pytest.raises(Broken) as caught:
        run(tmp_path / "w", shell(script), shell("touch never"))
    said = str(caught.value)
    assert "failed with status 3" in said
    assert "caf\ufffd: what went wrong" in said and "\n99\n" in said and "\n50\n" not in said
    assert str(tmp_path / "w.log") in said and caught.value.log == str(tmp_path / "w.log")
    assert not (tmp_path / "w/build/never").exists()


def test_a_command_that_the_host_lacks_is_named(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="needs 'no-such-tool', which this host lacks"):
        run(tmp_path / "w", {"argv": ["no-such-tool"]})


def test_a_signal_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="status -9"):
        run(tmp_path / "w", shell("kill -9 $$"))


def test_when_the_time_is_over_the_whole_process_group_is_killed(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(Broken, match="longer than 1 s and was ended: sh"):
        run(tmp_path / "w", shell("sleep 60 & echo $! >child; sleep 60"), timeout=1)
    assert time.monotonic() - start < 10
    child = int((tmp_path / "w/build/child").read_text())
    until(lambda: gone(child))


def test_the_time_limit_is_for_all_commands_together(tmp_path: Path) -> None:
    with pytest.raises(Broken, match="longer than"):
        run(tmp_path / "w", shell("sleep 1.5"), shell("sleep 60"), timeout=2)


@needs_root
def test_a_full_disk_has_its_own_message(small: Path) -> None:
    with pytest.raises(Broken, match="no space left on the device while building"):
        run(small / "w", {"argv": ["dd", "if=/dev/zero", "of=large", "bs=1M", "count=8"]})


@needs_root
def test_a_full_disk_is_reported_even_if_the_command_prints_nothing(small: Path) -> None:
    with pytest.raises(Broken, match="no space left on the device while building"):
        run(small / "w", shell("dd if=/dev/zero of=large bs=1M count=8 2>/dev/null"))


@needs_root
def test_free_space_is_checked_before_a_build(small: Path) -> None:
    require_space(str(small), 1)
    with pytest.raises(Broken, match=r"needs about 5 MiB in .*, which has [34] MiB free"):
        require_space(str(small), 5)


def test_the_end_of_a_log_is_bounded(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("x" * 100_000 + "\nlast\n")
    said = log_tail(str(tmp_path / "log"))
    assert said.endswith("x\nlast") and len(said) < 8192
