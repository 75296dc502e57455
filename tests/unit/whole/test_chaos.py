"""tests/chaos, which disturbs the lab at random: it counts runs, reports faults and finds damage."""

from __future__ import annotations

import argparse
import importlib
import os
import random
import subprocess
from pathlib import Path

import pytest
from chaos import building, row
from fixtures.upstream.support import ROOT
from run_tests import chaos_parts

from plugins.module_utils.artifact import inventory

program = importlib.import_module("chaos.__main__")


class FakeRow(row.Row):
    """A kind of run that raises the fault `found`."""

    name, what = "made", "nothing"
    found: Exception | None = None

    def prepare(self) -> None:
        """Do nothing: this kind needs no preparation."""

    def end(self) -> None:
        """Do nothing: this kind leaves nothing."""

    def run(self, chance: random.Random, place: Path) -> None:
        assert place.is_dir() and not list(place.iterdir())
        self.kills += 2
        self.seeds = [*getattr(self, "seeds", []), chance.random()]
        if self.found:
            raise self.found


def chosen(*words: str) -> argparse.Namespace:
    found: argparse.Namespace = program.arguments(list(words))
    return found


def test_a_run_without_a_fault_counts_as_repaired(tmp_path: Path) -> None:
    made = FakeRow(tmp_path)
    program.go([made], chosen("--count", "3", "--seed", "1"))
    assert (made.runs, made.kills, made.repaired, sum(made.faults.values())) == (3, 6, 3, 0)
    assert len(set(made.seeds)) == 3 and os.listdir(tmp_path) == []


def test_the_same_seed_makes_the_same_choices(tmp_path: Path) -> None:
    made = FakeRow(tmp_path)
    program.go([made], chosen("--count", "2", "--seed", "5", "--same"))
    program.go([made], chosen("--count", "1", "--seed", "5"))
    assert len(set(made.seeds)) == 1


def test_the_program_runs_until_the_number_of_kills_is_reached(tmp_path: Path) -> None:
    made = FakeRow(tmp_path)
    program.go([made], chosen("--minutes", "0", "--kills", "9"))
    assert made.kills == 10


@pytest.mark.parametrize("kind", row.FAULTS)
def test_a_fault_is_counted_by_its_kind_and_reported_with_its_seed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    made = FakeRow(tmp_path)
    made.found = row.Fault(kind, "what was seen")
    program.go([made], chosen("--count", "1", "--seed", "7"))
    assert made.faults[kind] == 1 and made.repaired == 0
    said = capsys.readouterr().out
    assert f"made: {kind}: what was seen" in said and "--only made --count 20 --same --seed 7" in said
    lines = program.table([made]).splitlines()
    assert lines[0].split()[:4] == ["what", "runs", "kills", "repaired"] and len(lines) == 3
    assert lines[2].split() == ["all", "1", "2", "0", *("1" if one == kind else "0" for one in row.FAULTS)]


def test_an_unexpected_exception_counts_as_hand_work(tmp_path: Path) -> None:
    made = FakeRow(tmp_path)
    made.found = KeyError("x")
    program.go([made], chosen("--count", "1"))
    assert made.faults[row.HAND_WORK] == 1


@pytest.mark.parametrize(("found", "status"), [(None, 0), (row.Fault(row.LEFT, "x"), 1)])
def test_the_exit_status_is_whether_anything_was_found(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], found: Exception | None, status: int
) -> None:
    monkeypatch.setattr(FakeRow, "found", found)
    monkeypatch.setitem(program.ROWS, "made", FakeRow)
    assert program.main(["--only", "made", "--count", "1"]) == status
    assert capsys.readouterr().out.splitlines()[-1].startswith("all ")


def test_a_kind_that_this_host_cannot_run_is_skipped_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unable(_: FakeRow) -> None:
        raise row.Unsupported("no such device")

    monkeypatch.setattr(FakeRow, "prepare", unable)
    monkeypatch.setitem(program.ROWS, "made", FakeRow)
    assert program.main(["--only", "made", "--count", "1"]) == 0
    assert "made: skipped: no such device" in capsys.readouterr().out


def test_a_tree_that_differs_by_a_bit_or_a_file_is_corrupt(tmp_path: Path) -> None:
    wanted = building.Wanted("a")
    (tmp_path / "bin").mkdir()
    for number in range(1, building.FILES + 1):
        (tmp_path / f"bin/{number}").write_bytes(wanted.text + f"{number}\n".encode())
    inventory.write(str(tmp_path))
    building.check(tmp_path, wanted)
    with pytest.raises(row.Fault, match="bin/1"):
        building.check(tmp_path, building.Wanted("b"))
    (tmp_path / "bin/new").write_bytes(b"")
    with pytest.raises(row.Fault, match="bin/new"):
        building.check(tmp_path, wanted)
    (tmp_path / "bin/new").unlink()
    content = (tmp_path / "bin/3").read_bytes()
    (tmp_path / "bin/3").write_bytes(b"V" + content[1:])
    with pytest.raises(row.Fault, match="bin/3"):
        building.check(tmp_path, wanted)


def test_leftover_files_are_named(tmp_path: Path) -> None:
    for name in ("work/hello", "store/.x.part", ".hello.link", "cache/a/b.part", "etc/.new-1", "store/whole", "etc/x"):
        (tmp_path / name).mkdir(parents=True)
    left = [".hello.link", "cache/a/b.part", "etc/.new-1", "store/.x.part", "work/hello"]
    assert building.leftovers(tmp_path) == left


def test_a_process_is_found_by_its_directory_arguments_and_environment(tmp_path: Path) -> None:
    ways = [
        subprocess.Popen(["sleep", "60"], cwd=tmp_path),
        subprocess.Popen(["sleep", "60"], env={**os.environ, "TMPDIR": str(tmp_path / "x")}),
        subprocess.Popen(["sh", "-c", f"sleep 60; : {tmp_path}/x"]),
    ]
    bystander = subprocess.Popen(["sleep", "60"], cwd="/")
    try:
        assert row.eventually(lambda: {one.pid for one in ways} <= set(row.processes_of(tmp_path)))
        assert bystander.pid not in row.processes_of(tmp_path)
        row.kill_all(tmp_path)
        assert [one.wait(10) for one in ways] == [-9, -9, -9] and bystander.poll() is None
    finally:
        for one in (*ways, bystander):
            one.kill()
            one.wait(10)


def test_the_suite_runs_it_for_a_minute_or_for_an_hour_and_500_kills() -> None:
    (usual,), (more,) = chaos_parts(), chaos_parts(everything=True)
    assert usual.argv[1:] == ("-m", "chaos", "--minutes", "1")
    assert more.argv[1:] == ("-m", "chaos", "--minutes", "60", "--kills", "500")
    for part in (usual, more):
        chosen(*part.argv[3:])


def test_its_help_names_the_kinds_and_an_unknown_one_is_refused() -> None:
    argv = [str(ROOT / "tools/python"), "-m", "chaos"]
    said = subprocess.run([*argv, "--help"], capture_output=True, text=True, timeout=60, check=True).stdout
    assert all(f"\n  {name} " in said for name in program.ROWS)
    wrong = subprocess.run([*argv, "--only", "kill,x"], capture_output=True, text=True, timeout=60, check=False)
    assert wrong.returncode == 2 and "no kind is called x" in wrong.stderr
