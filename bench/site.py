"""Compare `site.yml`, on a host where it has nothing to do, with a play that only gathers a minimal set of facts.

    tools/python bench/site.py [ROUNDS] [ansible-playbook's options, such as -i INVENTORY]

The benchmark needs a host where `./provision` has run. The first run isn't measured: in it every role examines the
host, and records that there was nothing to do. Both plays then run alternately, ROUNDS (default 5) times, so that load
on the host affects both. The benchmark prints the medians and their ratio, and asserts nothing.
"""

from __future__ import annotations

import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ROUNDS = 5
TIMEOUT = 300


def seconds(playbook: str, options: list[str]) -> float:
    """Return the wall-clock seconds of one run; exit if it changed something or failed."""
    venv = ROOT / ".venv" / "bin" / "ansible-playbook"
    program = str(venv) if venv.exists() else "ansible-playbook"
    began = time.perf_counter()
    run = subprocess.run(
        [program, playbook, *options], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    took = time.perf_counter() - began
    if run.returncode or not re.search(r"changed=0 .*failed=0", run.stdout):
        sys.exit(f"{playbook} had something to do, or failed; run ./provision first:\n{run.stdout[-2000:]}{run.stderr}")
    return took


def main() -> None:
    """Measure and print."""
    options = sys.argv[1:]
    rounds = int(options.pop(0)) if options and options[0].isdigit() else ROUNDS
    seconds("site.yml", options)
    pairs = [(seconds("site.yml", options), seconds("bench/floor.yml", options)) for _ in range(rounds)]
    site, floor = (statistics.median(side) for side in zip(*pairs, strict=True))
    print(f"site.yml, nothing to do  {site:6.2f} s")
    print(f"floor                    {floor:6.2f} s")
    print(f"ratio                    {site / floor:6.2f}   (wanted: at most 2.5)")


if __name__ == "__main__":
    main()
