"""The toolchain that converge has made; its tools build a unikernel from a C program, which is run and debugged."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.upstream.driving import PREFIX, Lab

NAME = "rump_toolchain"
BIN = f"{PREFIX}/{NAME}/bin"
LIBRARIES = f"{PREFIX}/{NAME}/rumprun-x86_64/lib/rumprun-hw"
USER = "runuser -u rumplab --"
# The symbols that the linker missed, one after the other, when mpt(4) was first tried; the role's page has details.
ONCE_UNDEFINED = (
    *("mpt_intr", "mpt_disable_ints", "mpt_dma_mem_alloc", "mpt_init", "mpt_scsipi_attach"),
    *("mpt_print_db", "mpt_print_reply", "mpt_ioc_diag", "mpt_req_state", "mpt_print_scsi_io_request"),
)
HELLO = """#include <fcntl.h>
#include <stdio.h>

static volatile int answer = 42;

__attribute__((noinline)) void greet(const char *whom)
{
	printf("hello from %s, %d\\n", whom, answer);
}

int main(int argc, char **argv)
{
	greet(argc > 0 ? argv[0] : "nobody");
	printf("/dev/sd1a: %d\\n", open("/dev/sd1a", O_RDONLY));
	return 0;
}
"""


def test_the_descriptor(lab: Lab, commits: dict[str, str]) -> None:
    described = lab.descriptor(NAME, PREFIX)
    assert (described["state"], described["version"], described["reason"]) == ("installed", "miniature", None)
    assert (described["source"], described["origin"]) == ("upstream", "git://127.0.0.1/rumprun.git")
    assert described["licence"] == "BSD-2-Clause"
    for path in described["paths"].values():
        lab.sh('test -e "$1"', path)
    assert lab.sh(f"ls {PREFIX}/cache") == f"{NAME}-{commits['commit']}"
    assert lab.leftovers(PREFIX) == []


def test_build_rr_was_called_as_it_asks_to_be(lab: Lab, host: Any) -> None:
    calls = lab.sh(f"cat {PREFIX}/{NAME}/share/build-rr.calls").splitlines()
    assert calls == [
        f"jobs: {host.run('nproc').stdout.strip()}",
        "argument: -F",
        "argument: CPPFLAGS=-Wimplicit-fallthrough=0",
        "argument: -F",
        "argument: CPPFLAGS=-Wno-error",
        # Debian's compiler makes position-independent programs by default.
        "pie: 0",
    ]
    log = lab.log(NAME, PREFIX)
    assert "$ ./build-rr.sh -d " in log and " -o ./obj hw install\n" in log
    assert log.rstrip().endswith("verify: hw_generic bakes")


def symbols(lab: Lab, library: str, kind: str) -> set[str]:
    """Return the symbols of a library that are `kind` (defined or undefined), without the rump kernel's prefix."""
    said = lab.sh(f'nm -P --{kind}-only "$1"', f"{LIBRARIES}/{library}")
    return {line.split()[0].removeprefix("rumpns_") for line in said.splitlines() if " " in line}


def test_the_drivers_are_in_the_libraries(lab: Lab) -> None:
    assert "ppb_ca" in symbols(lab, "librumpdev_pci.a", "defined")
    defined = symbols(lab, "librumpdev_pci_scsi.a", "defined")
    assert {"mpt_pci_ca", *ONCE_UNDEFINED} <= defined
    undefined = symbols(lab, "librumpdev_pci_scsi.a", "undefined")
    assert set(ONCE_UNDEFINED) <= undefined
    assert not {name for name in undefined - defined if name.startswith("mpt_")}


def test_no_file_names_the_place_where_it_was_built(lab: Lab) -> None:
    tree = lab.descriptor(NAME, PREFIX)["tree"]
    assert lab.sh(f"grep -rIl {PREFIX}/work {tree} || true") == ""
    for tool in ("x86_64-rumprun-netbsd-gcc", "rumprun-bake"):
        assert tree in lab.sh(f"cat {BIN}/{tool}")


@pytest.fixture(scope="module")
def work(host: Any) -> Iterator[str]:
    """A directory of the lab user's with a program in it."""
    path = str(host.check_output(f"{USER} mktemp -d /tmp/hello.XXXXXX"))
    host.check_output(f"{USER} sh -c %s sh {path}/hello.c", f"cat >\"$1\" <<'HELLO'\n{HELLO}HELLO")
    yield path
    host.check_output(f"rm -r {path}")


def build(host: Any, work: str, arguments: str) -> Any:
    """Run rumplab build in the directory."""
    return host.run(f"cd {work} && {USER} env HOME={work} CFLAGS='-Og -g' timeout 120 rumplab build {arguments}")


@pytest.fixture(scope="module")
def program(host: Any, work: str) -> str:
    """The program, built into a unikernel."""
    ran = build(host, work, "hello.c --json")
    assert ran.rc == 0, ran.stderr
    report = json.loads(ran.stdout)
    assert (report["state"], report["kind"], report["program"]) == ("built", "c", f"{work}/program.bin")
    return f"{work}/program.bin"


def test_a_program_has_the_drivers_of_the_generic_configuration_only(host: Any, work: str, program: str) -> None:
    assert "rumpns_mpt_pci_ca" in host.check_output(f"nm {program}")
    virtio = build(host, work, "hello.c --bake hw_virtio -o virtio.bin")
    assert virtio.rc == 0, virtio.stderr
    assert "rumpns_ppb_ca" in host.check_output(f"nm {work}/virtio.bin")
    assert "mpt" not in host.check_output(f"nm {work}/virtio.bin")


def test_a_program_that_needs_what_there_is_not_does_not_link(host: Any, work: str) -> None:
    source = "void absent(void); int main(void) { absent(); return 0; }"
    host.check_output(f"{USER} sh -c %s", f"echo '{source}' >{work}/absent.c")
    ran = build(host, work, "absent.c -o absent.bin")
    assert ran.rc == 1 and "undefined reference to `absent'" in ran.stderr
    # A Go program is linked so; rumprun-bake adds the missing parts.
    gcc = f"{USER} {BIN}/x86_64-rumprun-netbsd-gcc -o {work}/absent {work}/absent.c"
    assert host.run(f"RUMPRUN_STUBLINK=succeed {gcc}").rc == 0


def test_an_unchanged_program_is_up_to_date(host: Any, work: str, program: str) -> None:
    assert json.loads(build(host, work, "hello.c --json").stdout)["state"] == "up to date"


def test_the_program_is_staged_and_boots(host: Any, work: str, program: str) -> None:
    image = f"{work}/hello.img"
    staged = host.run(f"{USER} rumplab stage {program} -o {image} --args 'the disk' --force")
    assert staged.rc == 0, staged.stderr
    ran = host.run(f"{USER} timeout 90 rumplab run {image} --accel tcg --exit-device")
    assert "hello from /boot/program.bin the disk, 42" in ran.stdout, ran.stdout + ran.stderr
    for line in ("rumprun: main() returned 0", "rumprun: has ppb", "rumprun: has mpt"):
        assert line in ran.stdout
    # The kernel has nodes for several disks, each for its own disk.
    assert "sd1: opened partition a" in ran.stdout and "/dev/sd1a: 3" in ran.stdout


def test_the_program_is_debugged_with_its_source(host: Any, work: str, program: str) -> None:
    start = f"{USER} timeout 60 rumplab run {program} --accel tcg --args 'the lab' --wait --detach --name hello"
    started = host.run(start)
    assert started.rc == 0, started.stderr
    try:
        commands = "--batch --ex 'print answer' --ex 'print whom' --ex bt"
        said = host.run(f"cd {work} && {USER} timeout 90 rumplab debug hello greet {commands}")
    finally:
        host.run(f"{USER} rumplab stop hello")
    assert said.rc == 0, said.stderr
    assert "Breakpoint 1, greet (whom=" in said.stdout, said.stdout
    assert "$1 = 42" in said.stdout and "the lab" in said.stdout
    # The program's frame, and that of the start-up code that called it.
    assert re.search(r"#1 .* in main \(.* at .*hello\.c:\d+\n#2 .* in main \(.* at start\.c:", said.stdout), said.stdout


def test_status_names_it(host: Any) -> None:
    report = json.loads(host.check_output(f"{USER} rumplab status --json"))
    (row,) = [row for row in report["components"] if row["name"] == NAME]
    assert row["state"] == "installed"
