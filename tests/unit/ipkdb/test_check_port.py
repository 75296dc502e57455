"""The porting kit: check-port finds the faults of a target, and the skeleton of new-port compiles."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ipkdb.kernel import KEY, Kernel
from ipkdb.lab import HOST, Bench
from ipkdb.network import IDEAL, Impairment, run
from ipkdb.server import Server
from support.labfixture import LabPrefix, host_tool

from rumplab.errors import RumplabError, UsageError
from rumplab.ipkdb import new_port
from rumplab.ipkdb.arch import I386
from rumplab.ipkdb.check_port import FAILED, PASSED, SKIPPED, Checks, Row

HEADERS = Path(__file__).resolve().parents[2] / "ipkdb" / "netbsd"


def checked(spoil: Callable[[Kernel], None] = lambda kernel: None, impairment: Impairment = IDEAL) -> dict[str, Row]:
    """Run check-port on a simulated kernel that `spoil` has changed; return its rows by name."""

    async def main() -> dict[str, Row]:
        bench = Bench(impairment)
        spoil(bench.kernel)

        class Other:
            def __init__(self, key: bytes) -> None:
                self.link = bench.add((HOST[0], 50000), key)

            async def __aenter__(self) -> Any:
                return self.link

            async def __aexit__(self, *_: object) -> None:
                pass

        checks = Checks(bench.link, I386, Other, "tester@host", False)
        return {row.name: row async for row in checks.run()}

    result: dict[str, Row] = run(main())
    return result


@pytest.mark.parametrize(
    "impairment", [IDEAL, Impairment(lose=0.05, repeat=0.05, spread=0.002)], ids=["ideal", "rough"]
)
def test_netbsd_passes(impairment: Impairment) -> None:
    rows = checked(impairment=impairment)
    assert {row.result for row in rows.values()} == {PASSED, SKIPPED}, [r for r in rows.values() if r.result == FAILED]
    assert [name for name, row in rows.items() if row.result == SKIPPED] == ["M: more than a reply holds is refused"]


def test_check_port_changes_nothing_in_the_target() -> None:
    kernels: list[Kernel] = []
    checked(kernels.append)
    (kernel,) = kernels
    plain = Kernel(lambda *_: None, lambda *_: None).cpu
    assert kernel.detached
    assert kernel.cpu.pages == plain.pages
    plain.registers["eip"] += 1
    assert kernel.cpu.registers == plain.registers, "except for one step"


def failed(spoil: Callable[[Kernel], None]) -> set[str]:
    return {row.name.partition(":")[0] for row in checked(spoil).values() if row.result == FAILED}


def replace(name: str, make: Callable[[Kernel], Any]) -> Callable[[Kernel], None]:
    return lambda kernel: setattr(kernel, name, make(kernel))


def test_a_target_that_takes_any_hmac_fails() -> None:
    def accept_any_hmac(kernel: Kernel) -> Any:
        return lambda datagram: datagram[6 : 6 + int.from_bytes(datagram[4:6], "big")] or None

    assert {"A wrong HMAC", "An opening with another key"} <= failed(replace("authentic", accept_any_hmac))


def test_a_target_that_takes_any_number_fails() -> None:
    def accept_any_number(kernel: Kernel) -> Any:
        return lambda datagram: kernel.authentic(datagram) if datagram[6:7] != b"O" else None

    names = failed(replace("expected", accept_any_number))
    assert {"A request twice", "A request from before", "A request out of turn"} <= names


def test_a_target_that_never_repeats_fails() -> None:
    def once(kernel: Kernel) -> Any:
        repeat, sent = kernel.repeat, [0]

        def repeat_if_new() -> None:
            if sent[0] != len(kernel.done):
                sent[0] = len(kernel.done)
                repeat()

        return repeat_if_new

    assert {"The same opening again", "A request twice"} <= failed(replace("repeat", once))


def test_a_target_with_a_wrong_command_fails_there_and_only_there() -> None:
    def accept_unknown_command(kernel: Kernel) -> Any:
        carry_out = kernel.carry_out
        return lambda data: kernel.reply(b"ok") if data[:1] == b"Q" else carry_out(data)

    assert failed(replace("carry_out", accept_unknown_command)) == {"An unknown command"}


def test_check_port_ends_at_a_target_that_does_not_trap() -> None:
    def ignore_steps(kernel: Kernel) -> Any:
        step = kernel.cpu.step
        return lambda: step() and False

    def spoil(kernel: Kernel) -> None:
        kernel.cpu.step = ignore_steps(kernel)  # type: ignore[method-assign]

    rows = list(checked(spoil).values())
    assert rows[-1].result == FAILED and rows[-1].name.startswith("C:") and "(was 90)" in rows[-1].detail


def test_check_port_ends_at_a_target_that_is_silent() -> None:
    rows = list(checked(lambda kernel: setattr(kernel, "key", b"not what the tool has")).values())
    assert [row.result for row in rows] == [FAILED]


def test_verb_prints_a_table_and_json(empty_lab: LabPrefix, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    with Server() as server:
        done = empty_lab.tool("ipkdb", "check-port", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.startswith("CHECK ")
        server.call(server.kernel.boot)
        done = empty_lab.tool(
            "ipkdb", "check-port", "--target", f"127.0.0.1:{server.port}", "--key-file", key_file, "--json"
        )
    rows = json.loads(done.stdout)
    assert {row["result"] for row in rows} == {"ok", "skipped"} and len(rows) == 21
    assert rows[0].keys() == {"name", "result", "detail"}


def test_verb_ends_with_1_for_a_target_that_fails(empty_lab: LabPrefix, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(b"quite another key, no?")
    key_file.chmod(0o600)
    with Server() as server:
        words = ["--target", f"127.0.0.1:{server.port}", "--key-file", str(key_file), "--timeout", "2"]
        done = empty_lab.tool("ipkdb", "check-port", *words)
    assert done.returncode == 1 and "FAILED" in done.stdout and "stopped answering" in done.stderr


# The skeleton of new-port.


def compile_c(path: Path, root: Path, *flags: str) -> None:
    argv = [host_tool("gcc"), "-m32", "-march=i386", "-ffreestanding", "-fno-builtin", "-nostdinc", "-std=gnu99"]
    argv += ["-Wall", "-Wextra", "-Werror", "-Wstrict-prototypes", "-Wmissing-prototypes", "-c", "-o", "/dev/null"]
    argv += ["-I", str(HEADERS), "-I", str(root / "sys"), "-I", str(root / "include"), *flags, str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("version", ["104000000", "800000000"])
def test_skeleton_compiles_as_freestanding_c_for_i386(version: str, tmp_path: Path) -> None:
    target = tmp_path / "port"
    new_port.run("xx", "pci", "zz", target)
    (target / "include" / "machine").mkdir(parents=True)
    header = (target / "sys/arch/zz/include/ipkdb.h").read_text()
    (target / "include/machine/ipkdb.h").write_text(header)
    sources = sorted(target.rglob("*.c"))
    assert [path.name for path in sources] == ["ipkdb_glue.c", "if_xx_ipkdb.c"]
    for path in sources:
        compile_c(path, target, f"-D__NetBSD_Version__={version}", "-DIPKDB_XX")
        compile_c(path, target, f"-D__NetBSD_Version__={version}")


def test_skeleton_has_every_function_of_the_guide() -> None:
    made = new_port.files("xx", "pci", "zz")
    glue, driver = made["sys/arch/zz/zz/ipkdb_glue.c"], made["sys/dev/pci/if_xx_ipkdb.c"]
    for name in ("ipkdbinit", "ipkdb_poll", "ipkdbcmds", "ipkdbfbyte", "ipkdbsbyte", "ipkdb_trap", "ipkdbif_init"):
        assert f"{name}(" in glue
    for name in ("ipkdbcopy", "ipkdbzero", "ipkdbcmp"):
        assert f"{name}(" in glue
    for name in ("start", "leave", "receive", "send"):
        assert f"kip->{name} = xx_ipkdb_{name};" in driver
    assert "defflag\topt_ipkdb.h\tIPKDB_XX: IPKDB" in made["sys/dev/pci/files.xx"]
    assert "ipkdbif0\tat xx?" in made["sys/conf/IPKDB.xx"] and 'IPKDBKEY="' in made["sys/conf/IPKDB.xx"]
    assert not [path for path, text in made.items() if "${" in text or "$xx" in text]


def test_without_sys_arch_the_skeleton_has_only_the_card() -> None:
    assert not [path for path in new_port.files("xx", "isa", None) if "arch" in path]


@pytest.mark.parametrize("name", ["", "XX", "x-y", "../x", "x" * 17, "1x", "x\n"])
def test_invalid_names_are_refused(name: str) -> None:
    for words in ((name, "pci", None), ("xx", name, None), ("xx", "pci", name)):
        with pytest.raises(UsageError, match="small letters"):
            new_port.files(*words)


def test_an_existing_directory_is_not_overwritten(tmp_path: Path, empty_lab: LabPrefix) -> None:
    with pytest.raises(RumplabError, match="exists"):
        new_port.run("xx", "pci", None, tmp_path)
    done = empty_lab.tool("ipkdb", "new-port", "--interface", "xx", "--bus", "pci", "-o", tmp_path / "new")
    assert done.returncode == 0
    assert sorted(done.stdout.split()) == sorted(str(p) for p in (tmp_path / "new").rglob("*") if p.is_file())
