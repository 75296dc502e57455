"""The decisions of the test runner and of the image builder."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import host
import pytest
import run_tests
from base_images import (
    Recipe,
    Source,
    debootstrap_argv,
    image_files,
    parse_deb822,
    parse_one_line,
    parse_release,
    sources_for,
)
from run_tests import Part, Result, Watchdog, add_up, choose, excerpt, molecule_parts, report, run_parallel

JUNIT = """<testsuites><testsuite>
<testcase name="a"/><testcase name="b"/>
<testcase name="c"><failure/></testcase><testcase name="d"><error/></testcase>
<testcase name="e"><skipped/></testcase>
</testsuite></testsuites>
"""


def part(name: str, group: str, junit: bool = False) -> Part:
    return Part(name, ("true",), 1.0, group, junit, "12" if group == "molecule" else "")


PARTS = [part("ruff", "lint"), part("unit", "unit", True), part("default", "molecule", True)]


@pytest.mark.parametrize(
    ("names", "fast", "chosen"),
    [
        ([], False, ["ruff", "unit", "default"]),
        ([], True, ["ruff", "unit"]),
        (["default"], False, ["default"]),
        (["lint", "default"], False, ["ruff", "default"]),
    ],
)
def test_choice(names: list[str], fast: bool, chosen: list[str]) -> None:
    assert [p.name for p in choose(PARTS, names, fast)] == chosen


def test_testing_has_its_own_parts_and_all_of_them_run_only_on_demand() -> None:
    usual = {part.name for part in run_tests.molecule_parts(run_tests.ROOT)}
    every = {part.name for part in run_tests.molecule_parts(run_tests.ROOT, everything=True)}
    assert {"default", "default-13", "boxes", "boxes-testing"} <= usual
    assert every - usual == {"default-testing"}


def test_unknown_part_is_refused() -> None:
    with pytest.raises(host.Failed, match="no part is called gdb or x;"):
        choose(PARTS, ["gdb", "unit", "x"], False)


@pytest.mark.parametrize(
    ("group", "junit", "ok", "counts"),
    [
        ("lint", None, True, (1, 0, 0)),
        ("lint", None, False, (0, 1, 0)),
        ("unit", JUNIT, False, (2, 2, 1)),
        ("unit", JUNIT.replace("<failure/>", "").replace("<error/>", ""), True, (4, 0, 1)),
        # The part failed before or after its tests, which the file doesn't show, so the part itself counts as failed.
        ("unit", None, False, (0, 1, 0)),
        ("unit", JUNIT.replace("<failure/>", "").replace("<error/>", ""), False, (4, 1, 1)),
        ("molecule", JUNIT, False, (2, 3, 1)),
        ("molecule", None, False, (0, 1, 0)),
    ],
)
def test_counting(tmp_path: Path, group: str, junit: str | None, ok: bool, counts: tuple[int, int, int]) -> None:
    path = tmp_path / "x.xml"
    if junit:
        path.write_text(junit, "utf-8")
    result = add_up(part("x", group, group != "lint"), ok, 1.0, path)
    assert (result.passed, result.failed, result.skipped) == counts


def test_report_ends_with_the_totals_alone() -> None:
    results = [Result("ruff", True, 1.0, 1, 0, 0), Result("unit", False, 2.0, 40, 2, 1)]
    assert report(results).splitlines()[-2:] == ["", "41 passed, 2 failed, 1 skipped"]


def test_what_was_skipped_is_named_with_its_reason_and_number(tmp_path: Path) -> None:
    path = tmp_path / "x.xml"
    path.write_text(
        "<testsuite><testcase/><testcase><skipped message='no engine'/></testcase>"
        "<testcase><skipped message='no\n engine'/></testcase><testcase><skipped message='no root'/></testcase>"
        "</testsuite>",
        "utf-8",
    )
    result = add_up(part("unit", "unit", True), True, 1.0, path)
    assert result.reasons == ("2 x no engine", "1 x no root")
    last = report([result]).splitlines()[-4:]
    assert last[:2] == ["skipped in unit: 2 x no engine", "skipped in unit: 1 x no root"]
    assert last[2:] == ["", "1 passed, 0 failed, 3 skipped"]


def seconds_allowed(load: float, sizes: Callable[[int], int], seconds: int = 10_000) -> int:
    """Return after how many seconds a Watchdog of 100 s, on 2 cores, ends a part; -1 for never."""
    one = Watchdog(100.0, 2)
    return next((second for second in range(seconds) if one.is_over(1.0, load, sizes(second))), -1)


def test_silence_ends_a_part_and_a_loaded_machine_gives_it_longer() -> None:
    assert seconds_allowed(0.5, lambda _: 0) == 100
    assert seconds_allowed(2.0, lambda _: 0) == 100
    assert seconds_allowed(8.0, lambda _: 0) == 400


def test_a_part_with_output_now_and_then_goes_on() -> None:
    assert seconds_allowed(0.0, lambda second: second // 90, 750) == -1
    # The total time has a limit, too.
    assert seconds_allowed(0.0, lambda second: second // 90) == 800


def test_parts_without_images_begin_while_the_images_are_made() -> None:
    began = threading.Event()
    order = []

    def run(part: Part) -> Result:
        order.append(part.name)
        began.set()
        return Result(part.name, True, 0.0, 1, 0, 0)

    def prepare() -> None:
        assert began.wait(10)
        order.append("images")

    parts = [part("scenario", "molecule"), part("unit", "unit")]
    assert [result.name for result in run_parallel(parts, run, prepare)] == ["unit", "scenario"]
    assert order == ["unit", "images", "scenario"]


def test_without_images_only_the_parts_that_need_them_fail() -> None:
    def prepare() -> None:
        raise host.Failed("no engine")

    parts = [part("scenario", "molecule"), part("unit", "unit")]
    results = run_parallel(parts, lambda part: Result(part.name, True, 0.0, 1, 0, 0), prepare)
    assert [(result.name, result.ok) for result in results] == [("unit", True), ("scenario", False)]


def test_a_scenario_runs_on_its_releases_and_all_adds_to_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("default", "gdb", "sid"):
        (tmp_path / "molecule" / name).mkdir(parents=True)
        (tmp_path / "molecule" / name / "molecule.yml").touch()
    monkeypatch.setattr(run_tests, "RELEASES", {"default": ("12", "13"), "sid": ("testing",)})
    monkeypatch.setattr(run_tests, "MORE_RELEASES", {"default": ("testing",)})
    usual = [(part.name, part.release) for part in molecule_parts(tmp_path)]
    assert usual == [("default", "12"), ("default-13", "13"), ("gdb", "12"), ("sid", "testing")]
    more = {part.name for part in molecule_parts(tmp_path, everything=True)} - {name for name, _ in usual}
    assert more == {"default-testing"}


def test_a_run_of_everything_sets_a_variable_for_the_tests(tmp_path: Path) -> None:
    assert "RUMPLAB_TEST_ALL" not in run_tests.test_environment(tmp_path)
    assert run_tests.test_environment(tmp_path, everything=True)["RUMPLAB_TEST_ALL"] == "1"


def test_parts_can_be_interrupted_when_the_runner_starts_in_the_background() -> None:
    script = 'trap \'\' INT; exec "$0" "$@"'
    code = (
        "import sys, subprocess, run_tests; run_tests.main(['--list']);"
        "sys.exit(subprocess.run(['sh', '-c', 'kill -INT $$; exit 3']).returncode)"
    )
    argv = ["sh", "-c", script, str(run_tests.ROOT / "tools/python"), "-c", code]
    done = subprocess.run(argv, cwd=run_tests.ROOT, capture_output=True, timeout=60, check=False)
    assert done.returncode == 256 - signal.SIGINT


def test_part_that_does_not_end_is_ended_with_its_children(tmp_path: Path) -> None:
    process = subprocess.Popen(["sh", "-c", f"sleep 60 & echo $! >'{tmp_path}/child'; wait"], start_new_session=True)
    started = time.monotonic()
    log = tmp_path / "log"
    log.touch()
    assert run_tests.wait(process, "x", 0.5, log) is False
    assert time.monotonic() - started < 60
    child = int((tmp_path / "child").read_text())
    deadline = time.monotonic() + 5
    while Path(f"/proc/{child}").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text().split(")")[1]:
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()


def test_two_parts_run_at_once_and_results_keep_their_order() -> None:
    meeting = threading.Barrier(2, timeout=10)

    def run(part: Part) -> Result:
        meeting.wait()
        return Result(part.name, True, 0.0, 1, 0, 0)

    parts = [Part(name, ("true",), 1.0, "molecule") for name in "abcd"]
    assert [result.name for result in run_parallel(parts, run, lanes=2)] == list("abcd")


def test_an_interruption_ends_what_runs_and_starts_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    process = subprocess.Popen(["sleep", "60"], start_new_session=True)
    monkeypatch.setattr(run_tests, "RUNNING", {process})
    started = []

    def run(part: Part) -> Result:
        started.append(part.name)
        if part.name == "a":
            raise KeyboardInterrupt
        process.wait(20)
        return Result(part.name, False, 0.0, 0, 1, 0)

    parts = [Part(name, ("true",), 1.0, "molecule") for name in ("a", "b", "c", "d", "e")]
    with pytest.raises(KeyboardInterrupt):
        run_parallel(parts, run, lanes=2)
    assert process.wait(10) == -signal.SIGTERM
    assert "e" not in started


def test_excerpt_shows_the_first_error_and_the_end() -> None:
    lines = [f"line {number}" for number in range(300)]
    lines[100] = "fatal: [host]: FAILED!"
    shown = excerpt("\n".join(lines)).split("\n")
    assert "    fatal: [host]: FAILED!" in shown
    assert shown[-1] == "    line 299"
    assert len(shown) < 80


def test_excerpt_without_an_error_is_the_end() -> None:
    shown = excerpt("\n".join(str(number) for number in range(300))).split("\n")
    assert shown[-1] == "    299"
    assert 40 < len(shown) < 80


ONE_LINE = """\
# deb http://commented/ bookworm main
deb http://mirror.example/debian bookworm main contrib # with a remark
deb-src http://mirror.example/debian bookworm main
deb [arch=amd64 signed-by=/x] https://other.example/ stable main
"""
DEB822 = """\
# A remark
Types: deb deb-src
URIs: http://mirror.example/debian/
Suites: bookworm bookworm-updates
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 URIs: none

Types: deb
Enabled: no
URIs: http://disabled.example
Suites: bookworm
Components: main

Types: deb
URIs: http://mirror.example/security
Suites: bookworm-security
Components: main
"""
MAIN = ("main",)


def test_one_line_sources() -> None:
    assert parse_one_line(ONE_LINE) == [
        Source("http://mirror.example/debian", "bookworm", ("main", "contrib")),
        Source("https://other.example", "stable", MAIN),
    ]


def test_deb822_sources() -> None:
    assert parse_deb822(DEB822) == [
        Source("http://mirror.example/debian", "bookworm", MAIN),
        Source("http://mirror.example/debian", "bookworm-updates", MAIN),
        Source("http://mirror.example/security", "bookworm-security", MAIN),
    ]


def test_sources_are_translated_to_another_release_as_far_as_offered() -> None:
    sources = parse_deb822(DEB822)
    found = sources_for("trixie", "bookworm", sources, lambda source: "security" not in source.suite)
    assert [source.line() for source in found] == [
        "deb http://mirror.example/debian trixie main",
        "deb http://mirror.example/debian trixie-updates main",
    ]


def test_the_codename_of_testing_comes_from_its_release_file() -> None:
    text = "Hash: SHA256\n\nSuite: testing\nCodename: nextone\nDate: Fri, 30 Oct 2026 08:08:01 UTC\n"
    assert parse_release(text) == ("nextone", "2026-10")
    assert parse_release("Codename: ../x\nDate: today\n") == ("", "")
    source = Source("http://mirror.example/debian", "nextone", MAIN)
    months = {Recipe("testing", (source,), (), edition=month).digest() for month in ("2026-10", "2026-11")}
    assert len(months) == 2, "its image is built again each month"
    assert debootstrap_argv(Recipe("testing", (source,), ()), Path("/tree"))[3] == "nextone"


def test_no_sources_without_the_release_itself() -> None:
    found = sources_for("trixie", "bookworm", parse_deb822(DEB822), lambda source: source.suite != "trixie")
    assert found == ()


def test_the_digest_of_a_recipe_changes_with_its_inputs() -> None:
    source = Source("http://mirror.example/debian", "bookworm", MAIN)
    recipe = Recipe("12", (source,), ())
    assert recipe.digest() == Recipe("12", (source,), ()).digest()
    others = [
        Recipe("13", (source,), ()),
        Recipe("12", (source, source), ()),
        Recipe("12", (source,), ("x",)),
    ]
    assert recipe.digest() not in {other.digest() for other in others}
    argv = debootstrap_argv(recipe, Path("/tree"))
    assert argv[:2] == ["debootstrap", "--variant=minbase"]
    assert argv[3:6] == ["bookworm", "/tree", "http://mirror.example/debian"]
    assert image_files(recipe)["etc/apt/sources.list"] == (0o644, source.line() + "\n")


def test_failing_command_is_named_with_its_output() -> None:
    with pytest.raises(host.Failed, match=r"exit 3 from: .*\ntold") as caught:
        host.run([sys.executable, "-c", "print('told'); raise SystemExit(3)"], limit=30)
    assert "exit 3" in str(caught.value)


def test_missing_command_and_endless_command_are_named() -> None:
    with pytest.raises(host.Failed, match="no-such-command is not installed"):
        host.run(["no-such-command"], limit=5)
    with pytest.raises(host.Failed, match=r"no end after 0 s: sleep 60"):
        host.run(["sleep", "60"], limit=0.2)


def test_mtu_is_that_of_the_default_route(tmp_path: Path) -> None:
    (tmp_path / "eth1").mkdir()
    (tmp_path / "eth1" / "mtu").write_text("1400\n")
    table = "Iface\tDestination\tGateway\neth0\t000200C0\t0\neth1\t00000000\t010200C0\n"
    assert host.default_mtu(table, tmp_path) == 1400
    assert host.default_mtu(table.rpartition("eth1")[0], tmp_path) is None


def test_certificates_of_the_host_are_copied_anew(tmp_path: Path) -> None:
    theirs, cache = tmp_path / "theirs", tmp_path / "cache"
    theirs.mkdir()
    (theirs / "a.crt").write_text("a")
    run_tests.prepare_cache(cache, theirs)
    (theirs / "a.crt").rename(theirs / "b.crt")
    mounted = (cache / "certificates").stat().st_ino
    run_tests.prepare_cache(cache, theirs)
    assert (cache / "certificates").stat().st_ino == mounted, "a running container mounts this directory"
    assert [path.name for path in (cache / "certificates").iterdir()] == ["b.crt"]
    assert (cache / "built").is_dir()


def test_a_path_with_a_space_gets_a_link_without_one(tmp_path: Path) -> None:
    root = tmp_path / "lab ü x"
    (root / ".venv").mkdir(parents=True)
    named = run_tests.venv_for_ansible(root, tmp_path)
    assert " " not in str(named)
    assert named.resolve() == (root / ".venv").resolve()
    plain = tmp_path / "plain"
    assert run_tests.venv_for_ansible(plain, tmp_path) == plain / ".venv"
