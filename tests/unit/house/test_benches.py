"""Every bench runs in the environment that ./provision makes, which has fewer packages than the tests'."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
BENCHES = sorted((ROOT / "bench").glob("*.py"))
# Loads a bench as an import does, in a Python that can't import the packages of the first argument.
LOAD = """
import runpy, sys

class Unknown:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in foreign:
            raise ModuleNotFoundError(f"{name} is not in requirements.txt")

foreign = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Unknown())
sys.argv = sys.argv[2:]
runpy.run_path(sys.argv[0], run_name="loaded")
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def foreign() -> set[str]:
    """Return the packages that can be imported here and that requirements.txt doesn't install."""
    pins = re.findall(r"^([A-Za-z0-9._-]+)==", (ROOT / "requirements.txt").read_text("utf-8"), re.MULTILINE)
    brought = {normal(pin) for pin in pins}
    packages = importlib.metadata.packages_distributions()
    return {package for package, owners in packages.items() if not brought & {normal(owner) for owner in owners}}


def load(bench: Path) -> subprocess.CompletedProcess[str]:
    argv = [str(ROOT / "tools/python"), "-c", LOAD, ",".join(sorted(foreign())), str(bench)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_the_hidden_packages_are_those_of_the_tests_only() -> None:
    assert {"pytest", "molecule"} <= foreign()
    assert not {"yaml", "ansible", "jinja2"} & foreign()


@pytest.mark.parametrize("bench", BENCHES, ids=lambda bench: bench.name)
def test_a_bench_needs_only_the_packages_of_provisioning(bench: Path) -> None:
    done = load(bench)
    assert done.returncode == 0, done.stderr


def test_a_bench_that_imports_pytest_is_caught(tmp_path: Path) -> None:
    bench = tmp_path / "bench.py"
    bench.write_text("import pytest\n", "utf-8")
    assert "pytest is not in requirements.txt" in load(bench).stderr
