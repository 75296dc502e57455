"""The examples, and how they are built: for tests, and for benches, which run where there is no pytest."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
EXAMPLE = EXAMPLES / "pcihello"
KGDB_EXAMPLE = EXAMPLES / "kgdb"
IPKDB_EXAMPLE = EXAMPLES / "ipkdb"


def build(source: Path, output: Path, *variables: str) -> Path:
    """Builds the example that lies in `source` to `output`, with its objects beside the output."""
    objects = output.with_suffix(".obj")
    argv = ["make", "-s", "-C", str(source), f"OUT={output}", f"OBJ={objects}", *variables]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    return output
