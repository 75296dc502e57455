"""What `site.yml` costs when there is nothing to do, over a play with one minimal fact call.

    tools/python bench/site.py [ROUNDS] [ansible-playbook's options, such as -i INVENTORY]

Needs a host where `./provision` has run. One run that isn't counted goes first: it has every role look, and leaves word
that there was nothing to do. The two take turns, so that a busy host hurts both alike. Prints medians and
their ratio; asserts nothing.
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
PATIENCE = 300


def seconds(playbook: str, options: list[str]) -> float:
    """Wall-clock seconds of one run, which must change nothing."""
    venv = ROOT / ".venv" / "bin" / "ansible-playbook"
    program = str(venv) if venv.exists() else "ansible-playbook"
    began = time.perf_counter()
    run = subprocess.run(
        [program, playbook, *options], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False
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
