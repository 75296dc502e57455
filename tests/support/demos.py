"""The examples, and a function that builds them. Benchmarks use it too, so that it doesn't need pytest."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
EXAMPLE = EXAMPLES / "pcihello"
KGDB_EXAMPLE = EXAMPLES / "kgdb"
IPKDB_EXAMPLE = EXAMPLES / "ipkdb"
OVERRUN_EXAMPLE = EXAMPLES / "overrun"


def build(source: Path, output: Path, *variables: str) -> Path:
    """Build the example in directory `source` as file `output`, with the objects beside it; return `output`."""
    objects = output.with_suffix(".obj")
    argv = ["make", "-s", "-C", str(source), f"OUT={output}", f"OBJ={objects}", *variables]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return output
