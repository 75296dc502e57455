"""Other origins of the packages, and other settings and hosts: each row in its own prefix."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from fixtures.upstream.driving import HTTP, LABS, PREFIX, ROOT, Lab, of

HERE = Path(__file__).resolve().parents[1]
PINS: dict[str, Any] = yaml.safe_load((ROOT / "inventory/group_vars/all/pins.yml").read_text("utf-8"))["rumplab_pins"]
ROW = PINS["gcc"]["versions"]["9.3.0"]
NOWHERE = "http://127.0.0.1:1/@file@"
HERE_TOO = f"{HTTP}/files/debian/@file@"
ABSENT = f"{HTTP}/404/@file@"
CACHE = {"artifact_built_cache": ""}
# These tests concern only the role, so one release of Debian suffices.
pytestmark = pytest.mark.skipif(
    os.environ.get("RUMPLAB_DEBIAN", "12") != "12" and os.environ.get("RUMPLAB_TEST_ALL") != "1",
    reason="the same on Debian 12; for ./test --all",
)


@pytest.fixture
def lab(host: Any) -> Lab:
    """Return the container; it serves the packages that converge has fetched by the paths of an archive."""
    found = Lab(host)
    for path in ROW["packages"]:
        place = f"/srv/upstream/gorump/files/debian/{path}"
        found.sh('mkdir -p "$(dirname "$1")" && cp "$2" "$1"', place, f"{PREFIX}/cache/{os.path.basename(path)}")
    return found


def source(*hosts: str, **changed: str) -> dict[str, Any]:
    """Return the pin with other hosts; `changed` has a new sha256 by the beginning of a package's name."""
    parts = []
    for path, pin in ROW["packages"].items():
        name = os.path.basename(path)
        digest = next((new for start, new in changed.items() if name.startswith(start)), pin["sha256"])
        urls = [host.replace("@file@", path) for host in hosts]
        parts.append({"urls": urls, "sha256": digest, "size": pin["size"]})
    return {"parts": parts}


def row(name: str, **settings: Any) -> subprocess.CompletedProcess[str]:
    """Run role gcc with these settings."""
    variables = {"rumplab_prefix": of(name), **CACHE, **settings}
    inventory = os.environ["MOLECULE_INVENTORY_FILE"]
    argv = ["ansible-playbook", "-i", inventory, str(HERE / "row.yml"), "-e", json.dumps(variables)]
    plain = {**os.environ, "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}
    return subprocess.run(argv, capture_output=True, text=True, timeout=600, check=False, env=plain)


def said(run: subprocess.CompletedProcess[str]) -> str:
    """Return what a run printed, its line breaks and indentation folded."""
    return re.sub(r"\s+", " ", run.stdout + run.stderr)


def works(lab: Lab, name: str) -> bool:
    """True when the compiler at a row's prefix compiles a program that runs."""
    text = "int main(void) { return 42; }"
    script = f'cd "$(mktemp -d)" && echo "{text}" >x.c && "$1/gcc/bin/gcc-9" x.c -o x; ./x || echo $?'
    return lab.sh(script, of(name)) == "42"


def test_what_an_archive_lacks_the_next_one_has(lab: Lab) -> None:
    run = row("next", gcc_source=source("apt:no/such/@file@", ABSENT, NOWHERE, HERE_TOO))
    assert run.returncode == 0, said(run)
    described = lab.descriptor("gcc", of("next"))
    assert (described["state"], described["source"]) == ("installed", "upstream")
    assert described["origin"].startswith(f"{HTTP}/files/debian/pool/main/g/gcc-9/gcc-9_")
    assert works(lab, "next")
    again = row("next", gcc_source=source(NOWHERE))
    assert again.returncode == 0 and "changed=0 " in again.stdout, said(again)


def test_a_mirror_has_them_by_their_names(lab: Lab) -> None:
    run = row("mirror", gcc_source=source(NOWHERE), rumplab_mirror=f"{PREFIX}/cache")
    assert run.returncode == 0, said(run)
    described = lab.descriptor("gcc", of("mirror"))
    assert (described["state"], described["source"]) == ("installed", "mirror")


@pytest.mark.parametrize("host_template", [HERE_TOO, "apt:@file@"])
def test_a_package_that_is_not_the_one_that_is_pinned_is_an_error(lab: Lab, host_template: str) -> None:
    name = "wrong_apt" if host_template.startswith("apt") else "wrong"
    run = row(name, gcc_source=source(host_template, HERE_TOO, libmpc3="0" * 64))
    assert run.returncode != 0
    text = said(run)
    assert "libmpc3_1.2.0-1_amd64.deb is not the pinned file" in text
    assert "0" * 64 in text
    pinned = next(pin["sha256"] for path, pin in ROW["packages"].items() if "libmpc3" in path)
    assert pinned in text
    assert lab.trees("gcc", of(name)) == []


def test_without_any_archive_it_is_deferred_and_nothing_is_installed(lab: Lab) -> None:
    run = row("offline", gcc_source=source(NOWHERE, ABSENT))
    assert run.returncode == 0, said(run)
    described = lab.descriptor("gcc", of("offline"))
    assert described["state"] == "deferred"
    for part in ("127.0.0.1:1", "404"):
        assert part in described["reason"]
    # If tasks are profiled, a line with the time is between a task's name and its result.
    asked = r"^TASK \[\S*host_packages : List what is installed\].*\n(?:\w+day .*\n)?(?:ok|changed):"
    assert re.search(asked, run.stdout, re.MULTILINE) is None
    assert "rumplab_strict" in said(row("offline", gcc_source=source(NOWHERE), rumplab_strict=True))


def test_an_older_c_library_defers_it(lab: Lab) -> None:
    """Like a host with glibc 2.28 that needs 2.31; here, the required version is raised instead."""
    host = {"system": "Linux", "machine": "x86_64", "glibc": "99.1", "instead": "Build in a container"}
    run = row("old", gcc_source=source(HERE_TOO), __gcc_host=host)
    assert run.returncode == 0, said(run)
    described = lab.descriptor("gcc", of("old"))
    assert described["state"] == "deferred"
    assert "glibc 99.1 or later, and this host is Linux on x86_64 with glibc 2." in described["reason"]
    assert "container" in described["reason"]
    # No server was asked.
    assert lab.sh(f"ls {of('old')}/cache") == ""


def test_a_host_whose_archive_has_that_compiler_needs_none(lab: Lab) -> None:
    run = row("own", gcc_enabled=False)
    assert run.returncode == 0, said(run)
    assert lab.sh(f"ls {of('own')}/etc/components.d {of('own')}/store | grep -c gcc || true") == "0"


def test_start_files_elsewhere_are_found(lab: Lab) -> None:
    """A host without multiarch directories, such as Fedora: libc's files for linking are in /usr/lib64."""
    there, multi = "/usr/lib64", "/usr/lib/x86_64-linux-gnu"
    objects = "crt1.o crti.o crtn.o Scrt1.o gcrt1.o rcrt1.o grcrt1.o Mcrt1.o"
    archives = "libc.so libm.so libc.a libm.a libpthread.a libc_nonshared.a libmvec.a libdl.a"
    # libc.so is a linker script that contains paths.
    move = (
        f"mkdir -p {there}; "
        f"for f in {objects} {archives}; do test ! -e {multi}/$f || mv {multi}/$f {there}/; done; "
        f"mv /usr/include/x86_64-linux-gnu /usr/include/.multi; cp -R /usr/include/.multi/. /usr/include/; "
        f"sed -i.bak s,{multi}/libc_nonshared,{there}/libc_nonshared, {there}/libc.so"
    )
    back = (
        f"mv {there}/libc.so.bak {there}/libc.so; mv {there}/*crt*.o {there}/lib*.so {there}/lib*.a {multi}/; "
        "mv /usr/include/.multi /usr/include/x86_64-linux-gnu"
    )
    lab.sh(move)
    try:
        # Restore the files: the packages count as installed, so apt wouldn't do it.
        run = row("elsewhere", gcc_source=source(HERE_TOO))
        assert run.returncode == 0, said(run)
        assert works(lab, "elsewhere")
        assert lab.sh(f"readlink {of('elsewhere')}/gcc/lib/x86_64-linux-gnu/crt1.o") == f"{there}/crt1.o"
    finally:
        lab.sh(back)


def test_nothing_is_left_half_made(lab: Lab) -> None:
    for prefix in (PREFIX, *lab.sh(f"ls -d {LABS}/*").split()):
        assert lab.leftovers(prefix) == []
