"""`rumplab build` on C programs, run as a user runs it: the cache, errors, interruptions, parallel builds."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from support.building import RUMPRUN_GCC, Toolchain, make_toolchain, output_of, write
from support.labfixture import LabPrefix, host_tool
from support.running import until
from support.staging import in_user_name_space

from rumplab.host import process

HELLO = '#include <stdio.h>\nint main(void) { puts("hello"); return 0; }\n'
UP_TO_DATE = "up to date"


@pytest.fixture
def toolchain(empty_lab: LabPrefix, tmp_path: Path) -> Toolchain:
    return make_toolchain(empty_lab, tmp_path / "toolchain")


@pytest.fixture
def hello(tmp_path: Path) -> Path:
    """The directory of a C program."""
    return write(tmp_path / "hello", {"hello.c": HELLO})


def built(toolchain: Toolchain, *arguments: str | Path, settings: Mapping[str, str] | None = None) -> bool:
    """Build, and return whether a tool ran; check that the output says the same."""
    toolchain.calls()
    result = toolchain.build(*arguments, settings=settings)
    assert result.returncode == 0, result.stderr
    calls = toolchain.calls()
    assert (UP_TO_DATE in result.stdout) == (not calls)
    assert not toolchain.left()
    return bool(calls)


def test_a_c_program(toolchain: Toolchain, hello: Path) -> None:
    result = toolchain.build("hello.c", where=hello)
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{hello}/program.bin: built in ")
    assert output_of(hello / "program.bin") == "hello\n"
    assert sorted(os.listdir(hello)) == ["hello.c", "program.bin"]
    compiling, baking = toolchain.calls()
    work = toolchain.cache / "rumplab" / "build"
    assert compiling.startswith(f"x86_64-linux-gnu-gcc -g -o {work}/")
    assert compiling.endswith(f"work/program {hello}/hello.c")
    assert baking == "rumprun-bake hw_generic program.bin program"
    assert not toolchain.left()


def test_the_debugger_finds_sources_and_symbols(toolchain: Toolchain, hello: Path) -> None:
    assert built(toolchain, hello, "-o", hello / "program.bin")
    argv = [host_tool("gdb"), "-nx", "-batch", "-ex", "info line main", "-ex", "list main", str(hello / "program.bin")]
    shown = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=True).stdout
    assert f'Line 2 of "{hello}/hello.c"' in shown
    assert 'puts("hello")' in shown


def test_several_files_and_flags(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "a program",
        {
            "main.c": "int value(void);\nint main(void) { return value() - RESULT; }\n",
            "value.c": '#include "value.h"\nint value(void) { return VALUE; }\n',
            "include/value.h": "#define VALUE 7\n",
            "README": "",
        },
    )
    flags = {"CPPFLAGS": "-Iinclude -DRESULT='(3 + 4)'", "CFLAGS": "-O1"}
    assert built(toolchain, source, "-o", source / "p.bin", "--bake", "hw-virtio", settings=flags)
    assert output_of(source / "p.bin") == ""
    assert not built(toolchain, source, "-o", source / "p.bin", "--bake", "hw-virtio", settings=flags)


def test_report_as_json(toolchain: Toolchain, hello: Path) -> None:
    arguments = (hello, "-o", hello / "p.bin", "--json")
    first, second = (json.loads(toolchain.build(*arguments).stdout) for _ in range(2))
    assert first["state"] == "built"
    assert second["state"] == UP_TO_DATE
    for report in (first, second):
        assert report["program"] == str(hello / "p.bin")
        assert (report["kind"], report["work"]) == ("c", None)
        assert report["size"] == (hello / "p.bin").stat().st_size
        assert len(report["sha256"]) == 64 and report["seconds"] >= 0


def test_what_makes_a_build_necessary(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "src",
        {
            "main.c": '#include "../shared/a.h"\nint f(void);\nint main(void) { return f(); }\n',
            "f.c": "int f(void) { return 0; }\n",
            "notes.txt": "",
        },
    )
    write(tmp_path, {"shared/a.h": '#include "b.h"\n', "shared/b.h": "#define B 1\n"})
    output = tmp_path / "out.bin"

    def again(settings: Mapping[str, str] | None = None) -> bool:
        first = built(toolchain, source, "-o", output, settings=settings)
        assert not built(toolchain, source, "-o", output, settings=settings)
        return first

    time.sleep(0.1)
    assert again()
    for change in (
        lambda: (source / "f.c").write_text("int f(void) { return 1 - 1; }\n"),
        lambda: write(source, {"g.c": "int g;\n"}),
        lambda: (source / "g.c").unlink(),
        lambda: (tmp_path / "shared" / "b.h").write_text("#define B 2\n"),
        lambda: output.write_bytes(b"something else"),
        lambda: output.unlink(),
        lambda: toolchain.lab.component(
            "rump_toolchain",
            json.loads(toolchain.lab.descriptor("rump_toolchain").read_text())["paths"],
            stamp="1" * 64,
        ),
    ):
        change()
        # The build can't distinguish a change just before it starts from a change while it runs.
        time.sleep(0.1)
        assert again()
    assert again({"CFLAGS": "-O1"})
    assert again({"CPATH": str(tmp_path)})
    for change in (
        lambda: (source / "notes.txt").write_text("more"),
        lambda: os.utime(source / "f.c"),
        lambda: (source / "h.h").write_text("int unused;\n"),
    ):
        change()
        assert not built(toolchain, source, "-o", output, settings={"CPATH": str(tmp_path)})
    assert built(toolchain, source, "-o", output, "--bake", "hw_virtio", settings={"CPATH": str(tmp_path)})


def test_a_library_that_is_linked_in(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path / "src", {"main.c": "int lib(void);\nint main(void) { return lib(); }\n"})
    flags = {"LDFLAGS": "-Llib", "LDLIBS": "-lmine"}

    def archive(value: int) -> None:
        write(source / "lib", {"lib.txt": f"int lib(void) {{ return {value}; }}\n"})
        build = "gcc -x c -c -o mine.o lib.txt && rm -f libmine.a && ar rc libmine.a mine.o"
        subprocess.run(["sh", "-c", build], cwd=source / "lib", timeout=60, check=True)

    archive(0)
    assert built(toolchain, source, "-o", tmp_path / "p", settings=flags)
    assert not built(toolchain, source, "-o", tmp_path / "p", settings=flags)
    archive(5)
    assert built(toolchain, source, "-o", tmp_path / "p", settings=flags)
    assert subprocess.run([tmp_path / "p"], timeout=20, check=False).returncode == 5


@pytest.mark.parametrize("libraries", ["mine.a", "-L . -l mine", "-L. -l:mine.a"])
def test_the_ways_to_name_a_library(toolchain: Toolchain, tmp_path: Path, libraries: str) -> None:
    """Each path is relative to the program's directory, whatever the current directory is."""
    source = write(tmp_path / "src", {"main.c": "int lib(void);\nint main(void) { return lib(); }\n"})
    settings = {"LDLIBS": libraries}

    def archive(value: int) -> None:
        write(source, {"lib.txt": f"int lib(void) {{ return {value}; }}\n"})
        build = "gcc -x c -c -o mine.o lib.txt && rm -f *.a && ar rc mine.a mine.o && cp mine.a libmine.a"
        subprocess.run(["sh", "-c", build], cwd=source, timeout=60, check=True)
        time.sleep(0.1)

    for value in (0, 5):
        archive(value)
        assert built(toolchain, source, "-o", tmp_path / "p", settings=settings)
        assert not built(toolchain, source, "-o", tmp_path / "p", settings=settings)
        assert subprocess.run([tmp_path / "p"], timeout=20, check=False).returncode == value


def test_a_header_that_is_a_symbolic_link(toolchain: Toolchain, tmp_path: Path) -> None:
    write(tmp_path / "src", {"main.c": '#include "v.h"\nint main(void) { return V; }\n'})
    write(tmp_path, {"1.h": "#define V 1\n", "2.h": "#define V 2\n"})
    link = tmp_path / "src" / "v.h"
    for value in (1, 2):
        link.unlink(missing_ok=True)
        link.symlink_to(tmp_path / f"{value}.h")
        time.sleep(0.1)
        assert built(toolchain, tmp_path / "src", "-o", tmp_path / "p")
        assert not built(toolchain, tmp_path / "src", "-o", tmp_path / "p")
        assert subprocess.run([tmp_path / "p"], timeout=20, check=False).returncode == value


@pytest.mark.parametrize("settings", [{"DEPENDENCIES_OUTPUT": "noted"}, {"CFLAGS": "-MMD"}])
def test_settings_that_hide_what_the_compiler_reads(
    toolchain: Toolchain, tmp_path: Path, settings: dict[str, str]
) -> None:
    source = write(tmp_path / "src", {"main.c": '#include "v.h"\nint main(void) { return V; }\n'})
    for value in (1, 2):
        write(source, {"v.h": f"#define V {value}\n"})
        time.sleep(0.1)
        assert built(toolchain, source, "-o", tmp_path / "p", settings=settings)
        assert subprocess.run([tmp_path / "p"], timeout=20, check=False).returncode == value
    assert sorted(os.listdir(source)) == ["main.c", "v.h"]


def test_hidden_files_are_no_sources(toolchain: Toolchain, hello: Path) -> None:
    write(hello, {"._hello.c": "\0\5\26\7"})
    assert built(toolchain, hello, "-o", hello / "p")
    assert output_of(hello / "p") == "hello\n"


def test_sources_are_not_overwritten(toolchain: Toolchain, hello: Path, tmp_path: Path) -> None:
    """Under any of their names. The build knows the headers only after the compiler has read them."""
    write(hello, {"hello.h": ""})
    (tmp_path / "link").symlink_to(hello)
    (tmp_path / "other").symlink_to(hello / "hello.c")
    for output, status, said in (
        (tmp_path / "link" / "hello.c", 1, "link/hello.c is one of the program's sources"),
        (tmp_path / "other", 1, "other is one of the program's sources"),
        (hello / "hello.h", 2, "hello.h has the name of a source"),
        (tmp_path / "link", 1, "link exists and is not a file"),
    ):
        result = toolchain.build(hello, "-o", output)
        assert result.returncode == status
        assert said in result.stderr
    assert sorted(os.listdir(hello)) == ["hello.c", "hello.h"]
    assert (hello / "hello.c").read_text() == HELLO
    assert (tmp_path / "link").is_symlink() and not toolchain.calls()


def test_a_header_that_changes_while_it_is_compiled(toolchain: Toolchain, tmp_path: Path) -> None:
    """The unikernel contains the older header, so the next build must compile again."""
    source = write(tmp_path / "src", {"main.c": '#include "v.h"\nint main(void) { return V; }\n'})
    header = write(tmp_path, {"include/v.h": "#define V 1\n"}) / "include" / "v.h"
    toolchain.provide(bake=f'echo "#define V 2" > {header}; cp "$3" "$2"')
    flags = {"CPPFLAGS": f"-I{header.parent}"}
    assert built(toolchain, source, "-o", tmp_path / "p", settings=flags)
    assert built(toolchain, source, "-o", tmp_path / "p", settings=flags)
    assert subprocess.run([tmp_path / "p"], timeout=20, check=False).returncode == 2


def test_a_source_that_changes_there_and_back(toolchain: Toolchain, hello: Path) -> None:
    """The compiler reads other content than the build hashes before and after it."""
    source = hello / "hello.c"
    swap = f'sed -i s/hello/other/ {source}; gcc "$@"; sed -i s/other/hello/ {source}'
    toolchain.provide(compile_action=swap)
    assert built(toolchain, hello, "-o", hello / "p")
    assert output_of(hello / "p") == "other\n"
    assert source.read_text() == HELLO
    toolchain.provide()
    assert built(toolchain, hello, "-o", hello / "p")
    assert output_of(hello / "p") == "hello\n"
    assert not built(toolchain, hello, "-o", hello / "p")


def test_warnings_are_shown_and_noise_is_not(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path, {"w.c": "int main(void) { int unused; return 0; }\n"}) / "w.c"
    toolchain.provide(bake='echo "!!! NOTE: experimental"; cp "$3" "$2"')
    result = toolchain.build(source, "-o", tmp_path / "p", settings={"CFLAGS": "-Wall"})
    assert result.returncode == 0
    assert f"{source}:1:" in result.stderr and "[-Wunused-variable]" in result.stderr
    assert "NOTE" not in result.stderr
    result = toolchain.build(source, "-o", tmp_path / "p", "-v")
    assert result.returncode == 0
    assert "NOTE: experimental" in result.stderr
    assert "rumprun-bake hw_generic program.bin program" in result.stderr


def test_a_compile_error(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path, {"bad.c": "int main(void)\n{\n\treturn x;\n}\n"}) / "bad.c"
    older = tmp_path / "p"
    older.write_text("older")
    result = toolchain.build(source, "-o", older)
    assert result.returncode == 1
    assert result.stderr.startswith("rumplab build: step compile failed (exit status 1):\n")
    assert f"{source}:3:16: error: 'x' undeclared" in result.stderr
    assert older.read_text() == "older"
    assert not toolchain.left()
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["bad.c", "p"]


@pytest.mark.parametrize(
    ("text", "flags", "said", "remedy"),
    [
        ("#include <no/such.h>\nint main(void) { return 0; }\n", "", "no/such.h", "there is no header no/such.h"),
        ("int main(void) { return 0; }\n", "-lnosuch", "-lnosuch", "there is no library nosuch for the unikernel"),
        ("int g(void);\nint main(void) { return g(); }\n", "", "undefined reference", "no linked library defines g"),
    ],
)
def test_an_error_names_what_is_missing(
    toolchain: Toolchain, tmp_path: Path, text: str, flags: str, said: str, remedy: str
) -> None:
    write(tmp_path / "src", {"main.c": text})
    result = toolchain.build(tmp_path / "src", "-o", tmp_path / "p", settings={"LDLIBS": flags})
    assert result.returncode == 1
    assert said in result.stderr
    assert remedy in result.stderr.splitlines()[-1]


LOCALISED = """\
case "${LANGUAGE:-${LC_ALL:-${LC_MESSAGES:-$LANG}}}" in
C) echo 'main.c:1:10: fatal error: no/such.h: No such file or directory' >&2;;
*) echo 'main.c:1:10: schwerwiegender Fehler: no/such.h: Datei oder Verzeichnis nicht gefunden' >&2;;
esac
exit 1"""


@pytest.mark.parametrize("settings", [{"LC_ALL": "de_DE.UTF-8"}, {"LC_ALL": "", "LANG": "de_DE", "LANGUAGE": "de"}])
def test_a_remedy_is_given_whatever_the_callers_language(
    toolchain: Toolchain, hello: Path, settings: dict[str, str]
) -> None:
    toolchain.provide(compile_action=LOCALISED)
    result = toolchain.build(hello, "-o", hello / "p", settings=settings)
    assert result.returncode == 1
    assert "there is no header no/such.h for the unikernel" in result.stderr.splitlines()[-1]


def test_what_the_caller_set_for_other_programs_reaches_no_compiler(toolchain: Toolchain, hello: Path) -> None:
    toolchain.provide(compile_action="env >&2; exit 1")
    settings = {"LD_PRELOAD": "libnosuch.so.0", "MAKEFLAGS": "-j9", "GIT_DIR": "/x", "CPATH": "/mine"}
    said = toolchain.build(hello, "-o", hello / "p", "-v", settings=settings).stderr
    assert "\nCPATH=/mine\n" in said
    for name in set(settings) - {"CPATH"}:
        assert f"\n{name}=" not in said


def test_a_bake_that_fails_is_named(toolchain: Toolchain, hello: Path) -> None:
    toolchain.provide(bake='for n in $(seq 100); do echo ">> ERROR: $n"; done; exit 3')
    result = toolchain.build(hello, "-o", hello / "p")
    assert result.returncode == 1
    lines = result.stderr.splitlines()
    assert lines[:2] == ["rumplab build: step bake failed (exit status 3):", ">> ERROR: 1"]
    assert lines[-1] == "(60 more lines; -v shows all)"
    toolchain.provide(bake="kill -9 $$")
    assert "step bake failed (ended by SIGKILL)" in toolchain.build(hello, "-o", hello / "p").stderr
    toolchain.provide(bake='echo text > "$2"')
    assert "made no ELF program" in toolchain.build(hello, "-o", hello / "p").stderr
    assert not (hello / "p").exists()


def test_a_failed_build_keeps_its_work_directory(toolchain: Toolchain, hello: Path) -> None:
    toolchain.provide(bake="exit 1")
    result = toolchain.build(hello, "-o", hello / "p", "--keep-work")
    assert result.returncode == 1
    (work,) = toolchain.left()
    assert f"the work directory is {work};" in result.stderr
    assert output_of(Path(work, "program")) == "hello\n"


def test_keep_work(toolchain: Toolchain, hello: Path) -> None:
    result = toolchain.build(hello, "-o", hello / "p", "--keep-work")
    (work,) = toolchain.left()
    assert f"the work directory is {work};" in result.stderr
    assert Path(work, "program").exists()
    (hello / "hello.c").write_text(HELLO.replace("hello", "again"))
    assert built(toolchain, hello, "-o", hello / "p")


def test_dry_run_is_shell_that_builds_the_same(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path / 'it\'s $HOME "here"', {"a b.c": HELLO, "-c.c": "int c;\n"})
    output = source / "out put.bin"
    result = toolchain.build(source, "-o", output, "--dry-run", settings={"CFLAGS": "-DQ='\"q $x\"'"})
    assert (result.returncode, result.stderr, toolchain.calls()) == (0, "", [])
    assert not output.exists() and not toolchain.cache.exists()
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\n" + result.stdout)
    subprocess.run([host_tool("shellcheck"), "--exclude", "SC2016", str(script)], timeout=60, check=True)
    subprocess.run(["sh", str(script)], cwd="/", timeout=60, check=True)
    assert output_of(output) == "hello\n"
    assert len(toolchain.calls()) == 2
    assert sorted(os.listdir(source)) == ["-c.c", "a b.c", "out put.bin"]


def test_the_real_compilers_name_and_environment(toolchain: Toolchain, hello: Path, tmp_path: Path) -> None:
    """The tools find each other on PATH; the build removes their TMPDIR when it ends."""
    seen = tmp_path / "seen"
    look = f'{{ command -v {RUMPRUN_GCC}; echo "$TMPDIR"; }} > {seen}'
    toolchain.provide(gcc=RUMPRUN_GCC, bake=look + '; cp "$3" "$2"')
    assert built(toolchain, hello, "-o", hello / "p")
    path, temporary = seen.read_text().splitlines()
    assert path == str(toolchain.directory / "bin" / RUMPRUN_GCC)
    assert temporary.startswith(str(toolchain.cache)) and not Path(temporary).exists()


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (["absent"], 1, "absent: no such file or directory; name the directory of a program"),
        (["empty"], 1, "empty has no .go and no .c file; name the directory of a program"),
        (["empty", "--c"], 1, "empty has no C file"),
        (["text.txt"], 1, "text.txt is neither a directory nor a .go or .c file"),
        (["hello", "--bake", "hw_none"], 2, "'hw_none' is no configuration of this toolchain; it has: hw_generic"),
        (["hello", "--bake", "_private"], 2, "'_private' is no configuration"),
        (["hello", "--bake", "a;b"], 2, "'a;b' is no configuration"),
        (["hello", "-o", "no/such/p"], 1, "no/such is not a directory; create it or choose another place with -o"),
        (["hello", "-o", "empty"], 1, "empty exists and is not a file; choose another name with -o"),
        (["hello", "-o", "hello/hello.c"], 1, "hello.c is one of the program's sources"),
        (["hello\n"], 2, "has a control character in it"),
        ([], 2, "the following arguments are required: DIR|FILE"),
    ],
)
def test_refusals(
    toolchain: Toolchain, hello: Path, tmp_path: Path, arguments: list[str], status: int, said: str
) -> None:
    write(tmp_path, {"text.txt": ""})
    (tmp_path / "empty").mkdir()
    result = toolchain.build(*arguments, where=tmp_path)
    assert result.returncode == status
    assert said in result.stderr
    assert not toolchain.calls() and not toolchain.cache.exists()


def test_no_toolchain(empty_lab: LabPrefix, hello: Path) -> None:
    result = empty_lab.tool("build", hello)
    assert result.returncode == 3
    assert "rump_toolchain is not provisioned; run: ./provision --tags rump_toolchain" in result.stderr
    empty_lab.component("rump_toolchain", {}, state="deferred", reason="no answer from the archive")
    result = empty_lab.tool("build", hello)
    assert result.returncode == 3
    assert "rump_toolchain is deferred (no answer from the archive); remove that cause, then run:" in result.stderr


def test_a_toolchain_of_another_kind(toolchain: Toolchain, hello: Path) -> None:
    toolchain.provide(gcc="cc")
    result = toolchain.build(hello)
    assert result.returncode == 1
    assert "is not named MACHINE-SYSTEM-gcc, like x86_64-rumprun-netbsd-gcc" in result.stderr


def test_an_unusable_cache_directory_is_refused(toolchain: Toolchain, hello: Path, tmp_path: Path) -> None:
    result = toolchain.build(hello, "-o", hello / "p", settings={"XDG_CACHE_HOME": str(tmp_path / "with blank")})
    assert result.returncode == 1
    assert "set XDG_CACHE_HOME to such a path" in result.stderr
    write(tmp_path, {"file": ""})
    result = toolchain.build(hello, "-o", hello / "p", settings={"XDG_CACHE_HOME": str(tmp_path / "file")})
    assert result.returncode == 1
    assert "set XDG_CACHE_HOME to a directory that you can write to" in result.stderr


def waiting_bake(toolchain: Toolchain, tmp_path: Path) -> Path:
    """Make the bake wait for ever; return the file in which it writes its pid and its child's pid."""
    started = tmp_path / "started"
    toolchain.provide(bake=f"sleep 600 & echo $$ $! > {started}.new; mv {started}.new {started}; wait")
    return started


def all_ended(pids: str) -> bool:
    """Return whether all these processes have ended."""
    return all(process.started(int(pid)) is None for pid in pids.split())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing(
    toolchain: Toolchain, hello: Path, tmp_path: Path, number: signal.Signals
) -> None:
    started = waiting_bake(toolchain, tmp_path)
    child = toolchain.start(hello, "-o", hello / "p")
    until(started.exists)
    child.send_signal(number)
    child.communicate(timeout=30)
    assert child.returncode == 128 + number
    until(lambda: all_ended(started.read_text()))
    assert os.listdir(hello) == ["hello.c"]
    assert not toolchain.left()
    toolchain.provide()
    assert built(toolchain, hello, "-o", hello / "p")


def test_a_build_that_was_killed(toolchain: Toolchain, hello: Path, tmp_path: Path) -> None:
    """Its tools run on for a while: the next build waits for them, then removes their files."""
    started = tmp_path / "started"
    toolchain.provide(bake=f"touch {started}; sleep 2; touch stale")
    child = toolchain.start(hello, "-o", hello / "p")
    until(started.exists)
    child.kill()
    child.communicate(timeout=30)
    assert toolchain.left()
    toolchain.provide()
    result = toolchain.build(hello, "-o", hello / "p", "--keep-work")
    assert result.returncode == 0, result.stderr
    assert f"waiting for another build of {hello}/p" in result.stderr
    (work,) = toolchain.left()
    assert "stale" not in os.listdir(work)
    assert output_of(hello / "p") == "hello\n"


def test_two_builds_at_once(toolchain: Toolchain, hello: Path) -> None:
    toolchain.provide(bake='sleep 1; cp "$3" "$2"')
    both = [toolchain.start(hello, "-o", hello / "p") for _ in range(2)]
    said = "".join(child.communicate(timeout=60)[0] for child in both)
    assert [child.returncode for child in both] == [0, 0]
    assert said.count("built in") == 1 and said.count(UP_TO_DATE) == 1
    assert len(toolchain.calls()) == 2


def test_a_record_that_is_damaged(toolchain: Toolchain, hello: Path) -> None:
    assert built(toolchain, hello, "-o", hello / "p")
    (record,) = toolchain.cache.rglob("record.json")
    for content in (record.read_text()[:-9], "[]", '{"schema": 1}', "\xff"):
        record.write_text(content, encoding="latin-1")
        assert built(toolchain, hello, "-o", hello / "p")


def in_disk(toolchain: Toolchain, disk: Path, options: str, output: Path, cache: Path) -> tuple[int, str]:
    """Build `hello` with a tmpfs with these mount `options` at `disk`; return the status, and the output
    followed by the files that are left."""
    disk.mkdir()
    argv = shlex.join(toolchain.lab.argv("build", "hello", "-o", output))
    script = f"mount -t tmpfs -o {options} tmpfs {disk} && {argv}; code=$?; find {disk} -type f -size +0; exit $code"
    environment = toolchain.environment({"XDG_CACHE_HOME": str(cache)})
    return in_user_name_space(["sh", "-c", script], environment, disk.parent)


def test_a_directory_that_is_not_writable(toolchain: Toolchain, hello: Path, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    status, said = in_disk(toolchain, disk, "ro", disk / "p", toolchain.cache)
    assert (status, said) == (1, f"rumplab build: {disk} is not writable; choose another place with -o\n")
    assert not toolchain.calls()


@pytest.mark.parametrize("full", ["output", "cache"])
def test_a_disk_that_fills(toolchain: Toolchain, hello: Path, tmp_path: Path, full: str) -> None:
    """One of the two directories is too small, the other isn't."""
    disk = tmp_path / "disk"
    toolchain.provide(bake='{ cat "$3"; head -c 8000000 /dev/zero; } > "$2"')
    output = (disk if full == "output" else hello) / "p"
    status, said = in_disk(toolchain, disk, "size=4m", output, disk if full == "cache" else toolchain.cache)
    assert status == 1
    assert "No space left on device" in said
    assert "free some space there" in said.splitlines()[-1]
    assert os.listdir(hello) == ["hello.c"]


def test_nothing_but_the_verb_is_loaded(toolchain: Toolchain, hello: Path) -> None:
    """To find a program unchanged takes little longer than to start Python."""
    assert built(toolchain, hello, "-o", hello / "p")
    code = "import sys; from rumplab.cli import main; main.main(sys.argv[1:]); print(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code, "build", str(hello), "-o", str(hello / "p")],
        env=toolchain.environment(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    unwanted = {"yaml", "rumplab.commands.run", "rumplab.machine.qemu_argv", "ssl", "asyncio"}
    assert not unwanted & set(result.stdout.split())
