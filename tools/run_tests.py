"""Run the parts of the test suite one after the other and add them up: what ./test starts.

A failing part doesn't stop the later ones. Each part's output goes to build/test-logs/NAME.log; the end of it
is shown when the part fails. The last lines say what was skipped and why, and the very last one is the total, alone:
`N passed, N failed, N skipped`.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import base_images
import host

ROOT = Path(__file__).resolve().parent.parent
BIN = ROOT / ".venv" / "bin"
# The Python of .venv, which finds the packages of this checkout.
PYTHON = str(ROOT / "tools" / "python")
LOGS = ROOT / "build" / "test-logs"
HEARTBEAT = 60.0
LOOK = 2.0
MINUTE = 60.0
LANES = 2
# The releases of Debian that a scenario runs on, where these aren't just the usual one; then those that --all adds.
USUAL = "12"
RELEASES: dict[str, tuple[str, ...]] = {
    "default": (USUAL, "13"),
    "boxes": (USUAL, base_images.TESTING),
    "gcc": (USUAL, "13"),
}
MORE_RELEASES: dict[str, tuple[str, ...]] = {"default": (base_images.TESTING,)}
RUNNING: set[subprocess.Popen[bytes]] = set()
SHELL = re.compile(rb"#!\s*(?:/usr/bin/env\s+)?(?:/bin/)?(?:sh|bash|dash)\b|# shellcheck shell=")
ERROR = re.compile(r"^(?:\[ERROR\]|fatal:|failed:|CRITICAL Ansible|=+ (?:FAILURES|ERRORS) =+$)")
PRUNED = {"build", "__pycache__"}
KEPT = {".ci", ".config", ".devcontainer", ".github"}


@dataclass(frozen=True)
class Part:
    """One command of the suite. `junit` marks a part that leaves a JUnit file to count tests from, `release` one that
    runs after there is a Docker engine and the image of that release. `silence` is a Patience's."""

    name: str
    argv: tuple[str, ...]
    silence: float
    group: str
    junit: bool = False
    release: str = ""
    environment: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Result:
    name: str
    ok: bool
    seconds: float
    passed: int
    failed: int
    skipped: int
    reasons: tuple[str, ...] = ()


class Patience:
    """Tells a part that hangs from one that is slow: by how long it says nothing, in seconds of a machine of its own.

    Where a machine has more to do than its cores can, everything takes that much longer, so that a second counts for as
    much less. What talks on and on is given up on too, but only after `TALKING` times that long.
    """

    TALKING = 8

    def __init__(self, silence: float, cores: int) -> None:
        self.silence, self.cores = silence, cores
        self.silent = self.whole = 0.0
        self.size = 0

    def is_over(self, seconds: float, load: float, size: int) -> bool:
        """Take note of `seconds` that have passed at that load, and of the size of the log by now."""
        own = seconds * min(1.0, self.cores / max(load, 0.01))
        self.silent = 0.0 if size != self.size else self.silent + own
        self.whole += own
        self.size = size
        return self.silent > self.silence or self.whole > self.TALKING * self.silence


def sources(root: Path) -> Iterator[Path]:
    """The files of the checkout, without what is built or fetched."""
    for directory, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name in KEPT or not (name in PRUNED or name.startswith(".")))
        for name in sorted(files):
            yield Path(directory, name).relative_to(root)


def is_shell(path: Path) -> bool:
    with path.open("rb") as stream:
        return bool(SHELL.match(stream.read(80)))


def lint_parts(root: Path) -> list[Part]:
    files = list(sources(root))
    python = tuple(str(path) for path in files if path.suffix == ".py")
    shell = tuple(str(path) for path in files if (root / path).is_file() and is_shell(root / path))
    markdown = tuple(str(path) for path in files if path.suffix == ".md")

    def part(name: str, *argv: str) -> Part:
        return Part(name, argv, 10 * MINUTE, "lint")

    return [
        part("ansible-lint", str(BIN / "ansible-lint"), "--offline"),
        part("yamllint", str(BIN / "yamllint"), "--strict", "."),
        part("ruff", str(BIN / "ruff"), "check", "."),
        part("ruff-format", str(BIN / "ruff"), "format", "--check", "."),
        part("mypy", str(BIN / "mypy"), *python),
        part("shellcheck", "shellcheck", "--external-sources", *shell),
        part("codespell", str(BIN / "codespell")),
        part("markdown", str(BIN / "pymarkdown"), "scan", *markdown),
        part("docs", str(BIN / "python"), "tests/support/docs_examples.py"),
    ]


def unit_parts() -> list[Part]:
    """The unit tests; those of them that need an engine with an image in it, which come when it is made; tests/fuzz."""
    pytest = (str(BIN / "pytest"), "tests/unit", "-m")
    return [
        Part("unit", (*pytest, "not engine"), 10 * MINUTE, "unit", junit=True),
        Part("engine", (*pytest, "engine"), 10 * MINUTE, "unit", junit=True, release=USUAL),
        # With --all, one test has a million inputs.
        Part("fuzz", (str(BIN / "pytest"), "tests/fuzz"), 30 * MINUTE, "unit", junit=True),
    ]


def chaos_parts(everything: bool = False) -> list[Part]:
    """Kills, power cuts, full disks and damage at random: a minute of them, or an hour and a number of kills."""
    much = ("--minutes", "60", "--kills", "500") if everything else ("--minutes", "1")
    return [Part("chaos", (PYTHON, "-m", "chaos", *much), 10 * MINUTE, "chaos")]


def upstream_parts() -> list[Part]:
    """Whether the source edits fit real checkouts: only for whoever has some, and says where."""
    directory = os.environ.get("RUMPLAB_UPSTREAM")
    if not directory:
        return []
    argv = (PYTHON, "tests/upstream/anchors.py", directory)
    return [Part("anchors", argv, 5 * MINUTE, "upstream")]


def scenario_part(name: str, release: str) -> Part:
    """A Molecule scenario on a release of Debian. The usual one, or a scenario's only one, has the plain name."""
    label = name if release == RELEASES.get(name, (USUAL,))[0] else f"{name}-{release}"
    argv = (str(BIN / "molecule"), "test", "--scenario-name", name)
    return Part(label, argv, 20 * MINUTE, "molecule", True, release, {"RUMPLAB_DEBIAN": release})


def molecule_parts(root: Path, everything: bool = False) -> list[Part]:
    """Every scenario, on each of its releases."""
    names = sorted(path.parent.name for path in (root / "molecule").glob("*/molecule.yml"))
    # The longest first, so that nothing long is left for one lane alone.
    names.sort(key=lambda name: name != "default")
    return [
        scenario_part(name, release)
        for name in names
        for release in RELEASES.get(name, (USUAL,)) + (MORE_RELEASES.get(name, ()) if everything else ())
    ]


def choose(parts: list[Part], names: list[str], fast: bool) -> list[Part]:
    """The parts asked for, by name or by group; raise host.Failed for a name that is neither."""
    known = {part.name for part in parts} | {part.group for part in parts}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise host.Failed(f"no part is called {' or '.join(unknown)}; ./test --list names them")
    if names:
        parts = [part for part in parts if part.name in names or part.group in names]
    return [part for part in parts if not (fast and part.release)]


def count(junit: Path) -> tuple[int, int, int]:
    """Passed, failed and skipped tests of a JUnit file; none where there is no such file."""
    if not junit.is_file():
        return 0, 0, 0
    passed = failed = skipped = 0
    for case in ElementTree.parse(junit).getroot().iter("testcase"):
        if case.find("failure") is not None or case.find("error") is not None:
            failed += 1
        elif case.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    return passed, failed, skipped


def reasons(junit: Path) -> tuple[str, ...]:
    """Why tests of a JUnit file were skipped, each reason with its number of tests."""
    if not junit.is_file():
        return ()
    skipped = ElementTree.parse(junit).getroot().iter("skipped")
    counted = Counter(" ".join((one.get("message") or "no reason given").split()) for one in skipped)
    return tuple(f"{number} x {reason}" for reason, number in counted.items())


def add_up(part: Part, ok: bool, seconds: float, junit: Path) -> Result:
    """A tool or a scenario counts as one, tests one each; a pytest run counts only as its tests."""
    passed, failed, skipped = count(junit) if part.junit else (0, 0, 0)
    if part.group != "unit" or not passed + failed + skipped or (not ok and not failed):
        passed, failed = passed + ok, failed + (not ok)
    return Result(part.name, ok, seconds, passed, failed, skipped, reasons(junit) if part.junit else ())


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def excerpt(log: str, before: int = 5, after: int = 45, end: int = 15) -> str:
    """What explains a failure: the surroundings of the first error, if the log names one, and the end."""
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if ERROR.search(line)), len(lines))
    shown = lines[max(first - before, 0) : first + after]
    left = max(first + after, len(lines) - end)
    if first == len(lines):
        shown, left = [], max(len(lines) - before - after, 0)
    return "\n".join("    " + line for line in [*shown, *lines[left:]])


def wait(process: subprocess.Popen[bytes], name: str, silence: float, log: Path) -> bool:
    """Wait for the end, saying every minute that it goes on; end the whole process group of one that hangs."""
    started = looked = said = time.monotonic()
    patience = Patience(silence, os.cpu_count() or 1)
    try:
        while True:
            try:
                return process.wait(min(LOOK, silence)) == 0
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if patience.is_over(now - looked, os.getloadavg()[0], log.stat().st_size):
                    say(f"{name}: hangs (no word for {silence / MINUTE:.0f} min of a machine of its own); ended")
                    return False
                looked = now
                if now - said >= HEARTBEAT:
                    said = now
                    say(f"{name}: {(now - started) / MINUTE:.0f} min")
    finally:
        if process.poll() is None:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    for number, patience in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(patience)
            return
        except (ProcessLookupError, subprocess.TimeoutExpired):
            continue


def execute(part: Part, environment: dict[str, str]) -> Result:
    log, junit = LOGS / f"{part.name}.log", LOGS / f"{part.name}.xml"
    junit.unlink(missing_ok=True)
    environment = {**environment, **part.environment}
    if part.junit:
        environment["PYTEST_ADDOPTS"] = f"--junit-xml={shlex.quote(str(junit))} --color=no"
    say(part.name)
    started = time.monotonic()
    try:
        with log.open("wb") as output:
            process = subprocess.Popen(
                part.argv,
                cwd=ROOT,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            RUNNING.add(process)
            ok = wait(process, part.name, part.silence, log)
            RUNNING.discard(process)
    except FileNotFoundError as missing:
        log.write_text(f"{missing.filename} is not installed\n", "utf-8")
        ok = False
    if not ok and part.group == "molecule":
        take_away(part, environment)
    result = add_up(part, ok, time.monotonic() - started, junit)
    if not ok:
        say(f"{part.name} FAILED; from {log.relative_to(ROOT)}:")
        print(excerpt(log.read_text("utf-8", "replace")), flush=True)
    return result


def take_away(part: Part, environment: dict[str, str]) -> None:
    """Molecule removes its containers when a scenario fails, but not when it is ended."""
    argv = [str(BIN / "molecule"), "destroy", "--scenario-name", part.argv[-1]]
    # What doesn't get removed is named by the engine's own list; the other parts go on.
    with (LOGS / f"{part.name}.destroy.log").open("wb") as output, contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(
            argv,
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            timeout=3 * MINUTE,
            check=False,
        )


def side_by_side(
    parts: list[Part], run: Callable[[Part], Result], prepare: Callable[[], None] = lambda: None, lanes: int = LANES
) -> list[Result]:
    """Run parts in their order, a few at a time; an interruption ends those that run and starts no more.

    Those that need nothing begin while `prepare` makes what the others need. Most parts wait for a container, a guest
    or Ansible most of the time, so that two of them hardly slow each other down.
    """
    with ThreadPoolExecutor(lanes) as pool:
        early = [pool.submit(run, part) for part in parts if not part.release]
        try:
            prepare()
            late = [pool.submit(run, part) for part in parts if part.release]
            return [future.result() for future in early + late]
        except host.Failed as failure:
            say(str(failure))
            done = [future.result() for future in early]
            return done + [Result(part.name, False, 0.0, 0, 1, 0) for part in parts if part.release]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            for process in list(RUNNING):
                end_group(process)
            raise


def own_directory(part: Part, cache: Path) -> dict[str, str]:
    """Molecule's working directory of a part: a scenario may run on two releases at once."""
    return {"MOLECULE_EPHEMERAL_DIRECTORY": str(cache / "molecule" / part.name)}


def prepare_cache(cache: Path, certificates: Path = Path("/usr/local/share/ca-certificates")) -> None:
    """Make the directories that containers share: built artefacts, and the certificates the host adds."""
    (cache / "built").mkdir(parents=True, exist_ok=True)
    # Each container's lab user puts its own trees there; the sticky bit keeps them apart.
    (cache / "built").chmod(0o1777)
    # The directory stays: the containers of another run may have it mounted.
    (cache / "certificates").mkdir(exist_ok=True)
    for old in (cache / "certificates").iterdir():
        if not (certificates / old.name).exists():
            old.unlink()
    for certificate in certificates.glob("*.crt"):
        shutil.copy(certificate, cache / "certificates")


def venv_for_ansible(root: Path, cache: Path) -> Path:
    """The virtual environment by a path that needs no quotes, which Ansible doesn't give its own Python."""
    venv = root / ".venv"
    if shlex.quote(str(venv)) == str(venv):
        return venv
    link = cache / f"venv-{hashlib.sha256(bytes(root)).hexdigest()[:12]}"
    link.unlink(missing_ok=True)
    link.symlink_to(venv)
    return link


def test_environment(cache: Path, everything: bool = False) -> dict[str, str]:
    plain = {"NO_COLOR": "1", "PY_COLORS": "0", "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0"}
    return {
        **os.environ,
        **plain,
        # What is said stands in the log when it is said: silence is how a part that hangs is told.
        "PYTHONUNBUFFERED": "1",
        **({"RUMPLAB_TEST_ALL": "1"} if everything else {}),
        "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "RUMPLAB_TEST_CACHE": str(cache),
    }


def docker_host(environment: dict[str, str]) -> dict[str, str]:
    """The engine of the current context, which Docker's Python client doesn't look up by itself."""
    if "DOCKER_HOST" in environment:
        return {}
    done = host.run(["docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}"], limit=30)
    return {"DOCKER_HOST": done.stdout.strip()} if done.stdout.strip() else {}


def run_all(parts: list[Part], everything: bool) -> list[Result]:
    cache = Path(os.environ.get("RUMPLAB_TEST_CACHE") or Path.home() / ".cache" / "rumplab-test").resolve()
    LOGS.mkdir(parents=True, exist_ok=True)
    environment = test_environment(cache, everything)
    try:
        host.install_packages(host.UNIT_PACKAGES, say)
    except host.Failed as failure:
        say(str(failure))
        return [Result("preparation", False, 0.0, 0, 1, 0)]
    results = [execute(part, environment) for part in parts if part.group == "lint"]
    others = [part for part in parts if part.group != "lint"]
    with contextlib.ExitStack() as stack:

        def prepare() -> None:
            """Make what containers are made of, for whoever needs one."""
            releases = list(dict.fromkeys(part.release for part in others if part.release))
            if not releases:
                return
            prepare_cache(cache)
            environment["RUMPLAB_TEST_PYTHON"] = str(venv_for_ansible(ROOT, cache) / "bin" / "python")
            host.install_packages(host.IMAGE_PACKAGES, say)
            stack.enter_context(host.Engine(LOGS, say))
            environment.update(docker_host(environment))
            for release in releases:
                base_images.ensure(release, say)

        def run(part: Part) -> Result:
            more = own_directory(part, cache) if part.group == "molecule" else {}
            return execute(replace(part, environment={**part.environment, **more}), dict(environment))

        return results + side_by_side(others, run, prepare)


def report(results: list[Result]) -> str:
    """The table, what was skipped and why, and, as its last line, the totals."""
    width = max((len(result.name) for result in results), default=4)
    rows = [f"{'part':<{width}}  result  {'passed':>6} {'failed':>6} {'skipped':>7} {'seconds':>8}"]
    for r in results:
        verdict = "ok" if r.ok else "FAILED"
        rows.append(f"{r.name:<{width}}  {verdict:<6}  {r.passed:>6} {r.failed:>6} {r.skipped:>7} {r.seconds:>8.1f}")
    passed, failed, skipped = (sum(getattr(r, name) for r in results) for name in ("passed", "failed", "skipped"))
    skips = [f"skipped in {r.name}: {reason}" for r in results for reason in r.reasons]
    totals = f"{passed} passed, {failed} failed, {skipped} skipped"
    return "\n".join(["", *rows, "", *skips, *([""] if skips else []), totals])


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="./test", description="Lint, unit tests and Molecule scenarios.")
    parser.add_argument("parts", nargs="*", metavar="PART", help="a part or a group of --list; all unless given")
    parser.add_argument("--fast", action="store_true", help="without what needs a container")
    parser.add_argument(
        "--all", action="store_true", help="also what only repeats, and `default` on a further release; hours"
    )
    parser.add_argument("--list", action="store_true", help="name the parts and their groups, run nothing")
    arguments = parser.parse_args(argv)
    # Ended like this, it takes along what it started: tests, containers, an engine of its own.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A shell starts what it puts in the background with SIGINT ignored, and tests that send one would wait for ever.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        every = [*lint_parts(ROOT), *unit_parts(), *chaos_parts(arguments.all), *upstream_parts()]
        every += molecule_parts(ROOT, arguments.all)
        parts = choose(every, arguments.parts, arguments.fast)
        if arguments.list:
            print("\n".join(f"{part.group:<9} {part.name}" for part in parts))
            return 0
        results = run_all(parts, arguments.all)
    except host.Failed as failure:
        print(f"./test: {failure}", file=sys.stderr)
        return 1
    print(report(results), flush=True)
    return 0 if results and all(result.ok for result in results) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
