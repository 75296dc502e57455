"""Disturb role artifact and the tool at random, and check the state of the lab afterwards.

Each run disturbs the real code, and then checks that:

- no damaged tree counts as complete;
- the next run repairs the lab without help;
- the next run gets the lock within a second, even if the killed run has left a build process;
- no process, machine or temporary file is left.

The last lines of the output are a table of the runs and the faults. The exit status is 1 if there was a fault.

The seed determines all choices. The moment of a disturbance depends on the speed of the machine too. To repeat a fault,
run the command that is printed below it: it makes the same choices 20 times.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from chaos import builds, tampering, tool
from chaos.row import FAULTS, HAND_WORK, Fault, Row, Unsupported, kill_all

ROWS: dict[str, type[Row]] = {row.name: row for row in [*builds.rows(), *tampering.rows(), *tool.rows()]}
MOST_SHOWN = 20


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="tools/python -m chaos",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="kinds:\n" + "\n".join(f"  {name:12} {row.what}" for name, row in ROWS.items()),
    )
    parser.add_argument("--seed", type=int, help="of the first run of each kind, one more for each further one")
    parser.add_argument("--same", action="store_true", help="the same seed for every run")
    parser.add_argument("--only", metavar="KIND,…", default=",".join(ROWS), help="these kinds of run")
    much = parser.add_mutually_exclusive_group()
    much.add_argument("--count", type=int, help="runs of each kind")
    much.add_argument("--minutes", type=float, default=1.0, help="for all together (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=0, help="go on until that many were killed, with --minutes")
    chosen = parser.parse_args(words)
    unknown = set(chosen.only.split(",")) - set(ROWS)
    if chosen.seed is None:
        chosen.seed = int(time.time()) % 1_000_000
    if unknown:
        parser.error(f"no kind is called {', '.join(sorted(unknown))}")
    return chosen


def one(row: Row, seed: int) -> bool:
    """Run one kind of run once. If it has a fault, count and print the fault, and return False."""
    place = row.directory / f"run-{row.runs}"
    place.mkdir(mode=0o755)
    try:
        row.run(random.Random(f"{row.name} {seed}"), place)
        row.repaired += 1
        return True
    except Fault as fault:
        kind, text = fault.kind, str(fault)
    except Exception as error:  # After any error the other runs continue.
        kind, text = HAND_WORK, f"{type(error).__name__}: {error}"
    finally:
        row.runs += 1
        kill_all(place)
        shutil.rmtree(place, ignore_errors=True)
    row.faults[kind] += 1
    if sum(row.faults.values()) <= MOST_SHOWN:
        print(f"{row.name}: {kind}: {text}", flush=True)
        print(f"  to repeat: tools/python -m chaos --only {row.name} --count 20 --same --seed {seed}", flush=True)
    return False


def table(rows: Sequence[Row]) -> str:
    head = ["what", "runs", "kills", "repaired", *FAULTS]
    lines = [[row.name, *map(str, (row.runs, row.kills, row.repaired, *row.faults.values()))] for row in rows]
    sums = [sum(int(line[column]) for line in lines) for column in range(1, len(head))]
    lines = [head, *lines, ["all", *map(str, sums)]]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]

    def shown(line: list[str]) -> str:
        cells = [cell.rjust(width) for cell, width in zip(line, widths, strict=True)]
        return "  ".join([line[0].ljust(widths[0]), *cells[1:]])

    return "\n".join(map(shown, lines))


def go(rows: Sequence[Row], chosen: argparse.Namespace) -> None:
    """Run the kinds in turn: `count` times each, or for `minutes` and then until there were `kills` kills."""
    count: int | None = chosen.count
    said = time.monotonic()
    end = said + 60 * chosen.minutes
    number = 0
    while rows and (count is None or number < count):
        for row in rows:
            over = time.monotonic() > end and sum(one.kills for one in rows) >= chosen.kills
            # Each kind runs at least once, even if the time is too short.
            if count is None and number and over:
                return
            one(row, chosen.seed if chosen.same else chosen.seed + number)
            if time.monotonic() - said > 60:
                said = time.monotonic()
                print(f"{sum(one.runs for one in rows)} runs, {sum(one.kills for one in rows)} kills", flush=True)
        number += 1


def main(words: Sequence[str] | None = None) -> int:
    chosen = arguments(words)
    directory = Path(tempfile.mkdtemp(prefix="rumplab-test-chaos-"))
    # The lab user needs access to its files below this directory.
    directory.chmod(0o755)
    ready: list[Row] = []
    began = time.monotonic()
    try:
        for name in chosen.only.split(","):
            (directory / name).mkdir(mode=0o755)
            row = ROWS[name](directory / name)
            try:
                row.prepare()
                ready.append(row)
            except Unsupported as why:
                print(f"{name}: skipped: {why}", flush=True)
        go(ready, chosen)
    finally:
        for row in ready:
            row.end()
        kill_all(directory)
        shutil.rmtree(directory, ignore_errors=True)
    print(f"seed {chosen.seed}, {time.monotonic() - began:.0f} s")
    print(table(ready))
    return 1 if any(any(row.faults.values()) for row in ready) else 0


if __name__ == "__main__":
    os.umask(0o022)
    # On SIGTERM, `finally` clauses end the processes and remove the mounts.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    sys.exit(main())
