"""Run the parts of the test suite, and print the sums. ./test calls this program.

The other parts continue after a part has failed. The output of a part goes to build/test-logs/NAME.log; if the part
fails, an excerpt is printed. The last lines of the output are the skipped tests with their reasons, and then the total:
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
# The Debian releases of scenarios that don't run on the usual one only, and the releases that --all adds.
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
    """One command of the suite.

    A part with `junit` writes a JUnit file, whose tests are counted. A part with `release` starts when the Docker
    engine runs and has the image of that release. `silence` is the limit of its Watchdog, in seconds.
    """

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


class Watchdog:
    """Detects a part that hangs: it writes no output for `silence` seconds of a machine without other load.

    On a machine whose load is larger than the number of its cores, everything takes longer by that ratio, so that a
    second counts less by that ratio. A part that always writes output is over after `OUTPUT_FACTOR` times `silence`.
    """

    OUTPUT_FACTOR = 8

    def __init__(self, silence: float, cores: int) -> None:
        self.silence, self.cores = silence, cores
        self.silent = self.whole = 0.0
        self.size = 0

    def is_over(self, seconds: float, load: float, size: int) -> bool:
        """Add `seconds` that passed at that load, with the log's current size; return whether the part hangs."""
        own = seconds * min(1.0, self.cores / max(load, 0.01))
        self.silent = 0.0 if size != self.size else self.silent + own
        self.whole += own
        self.size = size
        return self.silent > self.silence or self.whole > self.OUTPUT_FACTOR * self.silence


def sources(root: Path) -> Iterator[Path]:
    """Yield the files of the checkout, relative to it, without built and fetched files."""
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
        # What runs on a host: mypy itself knows no Python that old.
        part("vermin", str(BIN / "vermin"), "--target=3.9-", "--violations", "--no-tips", "src", "plugins", "roles"),
        part("shellcheck", "shellcheck", "--external-sources", *shell),
        part("codespell", str(BIN / "codespell")),
        part("markdown", str(BIN / "pymarkdown"), "scan", *markdown),
        part("docs", str(BIN / "python"), "tests/support/docs_examples.py"),
    ]


def unit_parts() -> list[Part]:
    """Return three parts: the unit tests, those of them that need a Docker engine with an image, and tests/fuzz."""
    pytest = (str(BIN / "pytest"), "tests/unit", "-m")
    return [
        Part("unit", (*pytest, "not engine"), 10 * MINUTE, "unit", junit=True),
        Part("engine", (*pytest, "engine"), 10 * MINUTE, "unit", junit=True, release=USUAL),
        # With --all, one test reads a million inputs without output.
        Part("fuzz", (str(BIN / "pytest"), "tests/fuzz"), 30 * MINUTE, "unit", junit=True),
    ]


def chaos_parts(everything: bool = False) -> list[Part]:
    """Return the part that runs tests/chaos: for a minute, or with --all for an hour and 500 kills."""
    much = ("--minutes", "60", "--kills", "500") if everything else ("--minutes", "1")
    return [Part("chaos", (PYTHON, "-m", "chaos", *much), 10 * MINUTE, "chaos")]


def upstream_parts() -> list[Part]:
    """Return the part that tries the source edits on real checkouts, if RUMPLAB_UPSTREAM names their directory."""
    directory = os.environ.get("RUMPLAB_UPSTREAM")
    if not directory:
        return []
    argv = (PYTHON, "tests/upstream/anchors.py", directory)
    return [Part("anchors", argv, 5 * MINUTE, "upstream")]


def scenario_part(name: str, release: str) -> Part:
    """Return the part of a Molecule scenario on a Debian release. On its first release, it has the scenario's name."""
    label = name if release == RELEASES.get(name, (USUAL,))[0] else f"{name}-{release}"
    argv = (str(BIN / "molecule"), "test", "--scenario-name", name)
    return Part(label, argv, 20 * MINUTE, "molecule", True, release, {"RUMPLAB_DEBIAN": release})


def molecule_parts(root: Path, everything: bool = False) -> list[Part]:
    """Return the parts of all scenarios, on each of their releases."""
    names = sorted(path.parent.name for path in (root / "molecule").glob("*/molecule.yml"))
    # The longest scenario starts first, so that it doesn't run alone at the end.
    names.sort(key=lambda name: name != "default")
    return [
        scenario_part(name, release)
        for name in names
        for release in RELEASES.get(name, (USUAL,)) + (MORE_RELEASES.get(name, ()) if everything else ())
    ]


def choose(parts: list[Part], names: list[str], fast: bool) -> list[Part]:
    """Return the parts with these names or groups, or all. Raise host.Failed for an unknown name."""
    known = {part.name for part in parts} | {part.group for part in parts}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise host.Failed(f"no part is called {' or '.join(unknown)}; ./test --list names them")
    if names:
        parts = [part for part in parts if part.name in names or part.group in names]
    return [part for part in parts if not (fast and part.release)]


def count(junit: Path) -> tuple[int, int, int]:
    """Return the numbers of passed, failed and skipped tests in a JUnit file, or zeros without the file."""
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
    """Return the reasons of skipped tests in a JUnit file, each with its number of tests."""
    if not junit.is_file():
        return ()
    skipped = ElementTree.parse(junit).getroot().iter("skipped")
    counted = Counter(" ".join((one.get("message") or "no reason given").split()) for one in skipped)
    return tuple(f"{number} x {reason}" for reason, number in counted.items())


def add_up(part: Part, ok: bool, seconds: float, junit: Path) -> Result:
    """Return the result of a part. A linter or scenario counts as one test; of a pytest run, only its tests count."""
    passed, failed, skipped = count(junit) if part.junit else (0, 0, 0)
    if part.group != "unit" or not passed + failed + skipped or (not ok and not failed):
        passed, failed = passed + ok, failed + (not ok)
    return Result(part.name, ok, seconds, passed, failed, skipped, reasons(junit) if part.junit else ())


def say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')}  {text}", flush=True)


def excerpt(log: str, before: int = 5, after: int = 45, end: int = 15) -> str:
    """Return the lines around the first error of a log, if there is one, and its last lines."""
    lines = log.splitlines()
    first = next((number for number, line in enumerate(lines) if ERROR.search(line)), len(lines))
    shown = lines[max(first - before, 0) : first + after]
    left = max(first + after, len(lines) - end)
    if first == len(lines):
        shown, left = [], max(len(lines) - before - after, 0)
    return "\n".join("    " + line for line in [*shown, *lines[left:]])


def wait(process: subprocess.Popen[bytes], name: str, silence: float, log: Path) -> bool:
    """Wait for the end of a part, and print its time each minute. End the process group of a part that hangs.

    Return whether the exit status is 0.
    """
    started = looked = said = time.monotonic()
    watchdog = Watchdog(silence, os.cpu_count() or 1)
    try:
        while True:
            try:
                return process.wait(min(LOOK, silence)) == 0
            except subprocess.TimeoutExpired:
                now = time.monotonic()
                if watchdog.is_over(now - looked, os.getloadavg()[0], log.stat().st_size):
                    say(f"{name}: no output for {silence / MINUTE:.0f} min (load deducted), so it was ended")
                    return False
                looked = now
                if now - said >= HEARTBEAT:
                    said = now
                    say(f"{name}: {(now - started) / MINUTE:.0f} min")
    finally:
        if process.poll() is None:
            end_group(process)


def end_group(process: subprocess.Popen[bytes]) -> None:
    for number, seconds in ((signal.SIGTERM, 20), (signal.SIGKILL, 10)):
        try:
            os.killpg(process.pid, number)
            process.wait(seconds)
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
        destroy_scenario(part, environment)
    result = add_up(part, ok, time.monotonic() - started, junit)
    if not ok:
        say(f"{part.name} FAILED; from {log.relative_to(ROOT)}:")
        print(excerpt(log.read_text("utf-8", "replace")), flush=True)
    return result


def destroy_scenario(part: Part, environment: dict[str, str]) -> None:
    """Remove the containers of a scenario. Molecule removes them after a failure, but not when it is killed."""
    argv = [str(BIN / "molecule"), "destroy", "--scenario-name", part.argv[-1]]
    # If this fails, `docker ps` still lists the containers, and the other parts continue.
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


def run_parallel(
    parts: list[Part], run: Callable[[Part], Result], prepare: Callable[[], None] = lambda: None, lanes: int = LANES
) -> list[Result]:
    """Run parts in their order, `lanes` at a time. An exception ends the running parts, and starts no more.

    Parts without `release` start while `prepare` makes the engine and the images for the others. Most parts wait most
    of the time for a container, a guest or Ansible, so that two parallel parts hardly slow each other down.
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
    """Return the variable that gives a part its own Molecule directory: a scenario may run on two releases at once."""
    return {"MOLECULE_EPHEMERAL_DIRECTORY": str(cache / "molecule" / part.name)}


def prepare_cache(cache: Path, certificates: Path = Path("/usr/local/share/ca-certificates")) -> None:
    """Make the directories that containers mount: built artefacts, and the certificates that the host has added."""
    (cache / "built").mkdir(parents=True, exist_ok=True)
    # Lab users of all containers write trees there. With the sticky bit, they can't remove each other's.
    (cache / "built").chmod(0o1777)
    # The directory isn't made again, because containers of another run may have mounted it.
    (cache / "certificates").mkdir(exist_ok=True)
    for old in (cache / "certificates").iterdir():
        if not (certificates / old.name).exists():
            old.unlink()
    for certificate in certificates.glob("*.crt"):
        shutil.copy(certificate, cache / "certificates")


def venv_for_ansible(root: Path, cache: Path) -> Path:
    """Return a path of the virtual environment that needs no quoting: Ansible doesn't quote the path of its Python."""
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
        # Output must reach the log at once, because Watchdog decides by the size of the log.
        "PYTHONUNBUFFERED": "1",
        **({"RUMPLAB_TEST_ALL": "1"} if everything else {}),
        "PATH": os.pathsep.join([str(BIN), os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"]),
        "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"),
        "RUMPLAB_TEST_CACHE": str(cache),
    }


def docker_host(environment: dict[str, str]) -> dict[str, str]:
    """Return DOCKER_HOST for the current Docker context, because Docker's Python client ignores contexts."""
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
            """Start the Docker engine and make the images, if a part needs them."""
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

        return results + run_parallel(others, run, prepare)


def report(results: list[Result]) -> str:
    """Return the table, the reasons of skipped tests, and the totals as the last line."""
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
        "--all", action="store_true", help="also long repetitions, and `default` on one more release; takes hours"
    )
    parser.add_argument(
        "--list",
        action="store_true",
        help="print the parts and their groups, and run none; makes .venv if it is missing",
    )
    arguments = parser.parse_args(argv)
    # On SIGTERM, exit through the `finally` clauses, which end the tests, the containers and a started engine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    # A shell starts background jobs with SIGINT ignored, and tests that send SIGINT would then wait for ever.
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
