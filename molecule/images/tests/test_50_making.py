"""When an image is made again; and uninstalling, which removes the images. Runs last.

The scenario's idempotence step checks that a run with nothing to do makes no image.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from testinfra.host import Host

SCENARIO = Path(__file__).resolve().parents[1]

GDB = "rumplab-test/gdb:latest"


def identity(host: Host, image: str) -> str:
    """Return the image's id, or "" if there is no such image."""
    return str(host.run("docker image inspect --format {{.Id}} %s", image).stdout.strip())


@pytest.fixture(autouse=True)
def no_container_stays(host: Host) -> Any:
    yield
    assert host.check_output("docker ps --all --quiet --filter name=rumplab-making-") == ""


def test_an_image_of_other_settings_is_made_anew(host: Host, play: Any, described: Any) -> None:
    before, other = identity(host, GDB), described(host)["stager"]
    run = play(SCENARIO / "again.yml", images_wanted=["gdb"], gdb_version="13.2")
    assert run.returncode == 0, run.stdout
    assert identity(host, GDB) not in ("", before)
    assert described(host)["gdb"]["id"] == identity(host, GDB)
    # The former image is removed, and the other images are unchanged.
    assert identity(host, before) == ""
    assert described(host)["stager"] == other


def test_what_cannot_be_had_is_deferred_and_the_older_image_serves(host: Host, play: Any, described: Any) -> None:
    before = identity(host, GDB)
    run = play(SCENARIO / "again.yml", images_wanted=["gdb"], rumplab_candidates=["mirror"], gdb_version="12.1")
    assert run.returncode == 0, run.stdout
    assert identity(host, GDB) == before
    gdb = described(host)["gdb"]
    assert (gdb["state"], gdb["id"]) == ("outdated", before)
    assert gdb["reason"].startswith("gdb: ")
    assert "rumplab-test/gdb:latest: outdated: gdb: " in re.sub(r"\s+", " ", run.stdout)
    assert "outdated" in host.check_output("rumplab status")


def test_an_image_of_somebody_else_is_not_replaced(host: Host, play: Any) -> None:
    host.check_output("docker tag rumplab/debian:12 rumplab-test-other/gdb:latest")
    try:
        run = play(SCENARIO / "again.yml", images_wanted=["gdb"], images_repository="rumplab-test-other")
        said = re.sub(r"\s+", " ", run.stdout + run.stderr)
        assert run.returncode != 0
        assert "There is an image rumplab-test-other/gdb:latest, and it isn't rumplab's" in said
    finally:
        host.check_output("docker image rm rumplab-test-other/gdb:latest")


def test_without_an_engine_nothing_is_done(host: Host, play: Any) -> None:
    host.check_output("mv /usr/bin/docker /usr/bin/docker.away")
    try:
        run = play(SCENARIO / "again.yml")
    finally:
        host.check_output("mv /usr/bin/docker.away /usr/bin/docker")
    assert run.returncode != 0
    assert "No Docker engine answers root" in re.sub(r"\s+", " ", run.stdout + run.stderr)


def test_uninstalling_takes_the_images_away(host: Host, play: Any) -> None:
    base = identity(host, "rumplab/debian:12")
    run = play(SCENARIO.parents[1] / "playbooks" / "uninstall.yml")
    assert run.returncode == 0, run.stdout
    assert host.check_output("docker images --quiet rumplab-test/*") == ""
    # This image existed before the lab.
    assert identity(host, "rumplab/debian:12") == base
    assert not host.file("/var/tmp/rumplab-images/lab").exists
