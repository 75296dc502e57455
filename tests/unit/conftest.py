"""Fixtures for tests of the tool: labs with the host's programs, which stop their machines at the end."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import settings
from ipkdb.kernel import KEY
from kgdb.guest import WAITING, Guest
from support.labfixture import LabPrefix, host_tool, make_lab
from support.staging import EXAMPLE, KGDB_EXAMPLE, build, command, tool_paths
from support.standin import PROGRAM

from rumplab.lab import config
from rumplab.machine import accel
from rumplab.machine.registry import open_machines

ROOT = Path(__file__).resolve().parents[2]

# Hypothesis' limit of 200 ms for an input depends on what else the machine does.
settings.register_profile("rumplab", deadline=None)
settings.load_profile("rumplab")


@pytest.fixture(scope="module", autouse=True)
def clean_checkout() -> Iterator[None]:
    """No test of a module leaves a file at the top of the checkout, where a collection is made of what is there."""
    before = {path.name for path in ROOT.iterdir()}
    yield
    left = {path.name for path in ROOT.iterdir()} - before
    assert not [name for name in left if not name.startswith(".") and name != "build"]


@pytest.fixture
def empty_lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LabPrefix]:
    """A lab without components; RUMPLAB_CONFIG names its configuration."""
    # A socket's path below pytest's own directory would be too long for some systems.
    runtime = Path(tempfile.mkdtemp(prefix="rl"))
    lab = make_lab(tmp_path / "lab", runtime)
    monkeypatch.setenv("RUMPLAB_CONFIG", str(lab.config))
    monkeypatch.setenv("XDG_STATE_HOME", str(runtime))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    yield lab
    stopped = lab.tool("stop", "--all")
    shutil.rmtree(runtime)
    assert stopped.returncode == 0 or "rumplab.json" in stopped.stderr, stopped.stderr


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the key of the kernel that tests/ipkdb simulates."""
    path = tmp_path / "ipkdb.key"
    path.write_bytes(KEY)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def pcihello(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo unikernel, built with the host's compiler."""
    command("gcc")
    command("make")
    return build(EXAMPLE, tmp_path_factory.mktemp("pcihello") / "pcihello.bin")


@pytest.fixture
def lab_prefix(empty_lab: LabPrefix, pcihello: Path) -> LabPrefix:
    """A lab with all components that `rumplab smoke` needs: the host's QEMU, stager tools and GDB, and the demo."""
    empty_lab.component("qemu", {"qemu-system-x86_64": host_tool("qemu-system-x86_64")})
    empty_lab.component("gdb", {"gdb": host_tool("gdb")})
    empty_lab.component("rump_stager", tool_paths())
    empty_lab.component("pcihello", {"program": str(pcihello)}, source="bundle")
    return empty_lab


@pytest.fixture
def lab(lab_prefix: LabPrefix) -> LabPrefix:
    """A lab whose cache of the accelerator probe says TCG, so that no test waits for the probe."""
    root = open_machines(config.load()).root
    component = config.load().component("qemu")
    key = accel.key(component.path("qemu-system-x86_64"), component.version)
    accel.remember(root / accel.CACHE, key, accel.Choice("tcg"))
    return lab_prefix


@pytest.fixture(scope="session", params=["amd64", "i386"])
def kgdb_kernel(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """(architecture, kernel): examples/kgdb, built with the host's compiler."""
    command("gcc")
    command("make")
    architecture = request.param
    path = tmp_path_factory.mktemp(f"kgdb-{architecture}") / f"kgdb-{architecture}.bin"
    return architecture, build(KGDB_EXAMPLE, path, f"ARCH={architecture}")


@pytest.fixture
def kgdb_guests(kgdb_kernel: tuple[str, Path]) -> Iterator[Callable[..., Guest]]:
    """A function that starts a guest of that kernel; the guests end with the test."""
    command("qemu-system-x86_64")
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rk")))

        def start(flags: str = "-d", extra: Sequence[str] = ()) -> Guest:
            return stack.enter_context(Guest(kgdb_kernel[1], directory, flags, extra=extra))

        yield start


@pytest.fixture
def guest(kgdb_guests: Callable[..., Guest]) -> Guest:
    """A guest of that kernel that waits for its debugger."""
    waiting = kgdb_guests()
    waiting.wait_for(WAITING)
    return waiting


@pytest.fixture
def program(tmp_path: Path) -> Path:
    """A file that the stager accepts as a unikernel."""
    path = tmp_path / "program.bin"
    path.write_bytes(PROGRAM)
    return path


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """An empty directory."""
    path = tmp_path / "out"
    path.mkdir()
    return path
