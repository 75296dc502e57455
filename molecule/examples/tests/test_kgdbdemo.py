"""The example kernels with kgdb for both architectures, with the lab's GDB and QEMU."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from testinfra.host import Host

COMPONENTS = "/opt/rumplab/etc/components.d"
PYTHON = "/opt/rumplab/rumplab/bin/python3"


def component(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(host.file(f"{COMPONENTS}/{name}.json").content_string)
    return found


@pytest.fixture(scope="module", params=["amd64", "i386"])
def session(request: pytest.FixtureRequest, host: Host) -> dict[str, str]:
    """Return the report of drive.py for one architecture."""
    demo = component(host, "kgdbdemo")["paths"]
    gdb = component(host, "gdb")["paths"]["gdb"]
    qemu = component(host, "qemu")["paths"]["qemu-system-x86_64"]
    line = "cd /opt/tests && timeout 240 %s -m kgdb.drive %s %s %s %s %s"
    kernel = demo[f"kernel-{request.param}"]
    answer: dict[str, str] = json.loads(
        host.check_output(line, PYTHON, gdb, qemu, request.param, kernel, demo["source"])
    )
    return {**answer, "architecture": request.param}


def test_it_comes_from_the_repository(host: Host) -> None:
    demo = component(host, "kgdbdemo")
    assert (demo["state"], demo["source"], demo["licence"]) == ("installed", "bundle", "MIT")
    assert host.file(demo["paths"]["kernel-i386"]).user == "rumplab"
    assert {"boot.S", "kgdb.c", "main.c", "kernel.h", "trap.h"} <= set(host.file(demo["paths"]["source"]).listdir())


def test_a_breakpoint_with_sources_and_right_registers(session: dict[str, str]) -> None:
    said = session["stopped"]
    assert "counter += amount;" in said
    assert re.search(r"^#2 .* main \(.*\) at .*main\.c:", said, re.MULTILINE)
    assert re.search(r"^cs +0x8 ", said, re.MULTILINE)
    assert re.search(r"^ss +0x10 ", said, re.MULTILINE)
    assert re.search(r"^[re]ip +0x\w+ +0x\w+ <counter_step\+\d+>", said, re.MULTILINE)
    assert re.search(r"^\$1 = 77$", said, re.MULTILINE)
    assert re.search(r"^\$2 = \[ .*\]$", said, re.MULTILINE)


def test_the_commands_for_netbsd(session: dict[str, str]) -> None:
    said = session["stopped"]
    assert re.search(r"^ +27 +1 +1 active syslogd$", said, re.MULTILINE)
    assert "\n000:01:0: pcib0 at pci0\n" in said
    assert f"\nkgdbdemo/{session['architecture']}\nkgdb waiting...connected.\n" in said


def test_ctrl_c_stops_it_and_another_session_too(session: dict[str, str]) -> None:
    assert "received signal SIGTRAP" in session["interrupted"]
    assert "<signal handler called>" in session["interrupted"]
    assert re.search(r"^\$1 = 1$", session["again"], re.MULTILINE)
    assert f"\nkgdbdemo/{session['architecture']}\n# poweroff" in session["console"]
