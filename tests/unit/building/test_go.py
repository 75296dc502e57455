"""`rumplab build` on Go programs: how it calls go (with a stand-in that records), and the result with the host's Go."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.building import RUMPRUN_GCC, Toolchain, fake_goroot, make_toolchain, output_of, real_go, write
from support.labfixture import LabPrefix, host_tool

MAIN = 'package main\n\nimport "fmt"\n\nfunc main() { fmt.Println("hello") }\n'
# A stand-in for go: it records its directory, files and environment, and makes an archive with a C function.
RECORDING = """\
{ pwd; ls -R ..; cat *.go; env; } > "$GO_SEEN"
printf '%s' '#include <stdio.h>
int gomaincaller(char **arguments) { printf("caller of %s\\n", *arguments ? "a program" : "nothing"); return 0; }
' > seen.c
gcc -c seen.c && ar rc "$5" seen.o
"""


@pytest.fixture
def toolchain(empty_lab: LabPrefix, tmp_path: Path) -> Toolchain:
    return make_toolchain(empty_lab, tmp_path / "toolchain")


@pytest.fixture
def recording(toolchain: Toolchain, tmp_path: Path) -> Toolchain:
    """A toolchain whose go is RECORDING."""
    action = RECORDING.replace("$GO_SEEN", str(tmp_path / "seen"))
    toolchain.provide_go(action, fake_goroot(tmp_path / "goroot"))
    return toolchain


@pytest.fixture
def real(toolchain: Toolchain) -> Toolchain:
    """A toolchain with the host's Go, called without -a: it compiles a standard package only if it has to."""
    go, goroot = real_go()
    action = f'for word; do shift; [ "$word" = -a ] || set -- "$@" "$word"; done; exec {go} "$@"'
    toolchain.provide_go(action, goroot)
    return toolchain


@pytest.fixture(scope="session")
def gocache(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Settings with which the tests share Go's build cache."""
    return {"GOCACHE": str(tmp_path_factory.mktemp("gocache"))}


def test_the_three_commands(recording: Toolchain, tmp_path: Path) -> None:
    recording.provide(gcc=RUMPRUN_GCC)
    source = write(tmp_path / "gopath" / "src" / "example.org" / "app", {"main.go": MAIN})
    settings = {"GOPATH": str(tmp_path / "gopath"), "GOFLAGS": "-mod=mod", "CGO_CFLAGS": "-O1", "CXX": "c++"}
    result = recording.build(source, "-o", tmp_path / "p", settings=settings)
    assert result.returncode == 0, result.stderr
    go, link, bake = recording.calls()
    work = go.split("-o ")[1].split("/program.a")[0]
    assert go == f"go build -buildmode=c-archive -a -o {work}/program.a ."
    assert link == f"{RUMPRUN_GCC} -g -o program main.c program.a"
    assert bake == "rumprun-bake hw_generic program.bin program"
    seen = (tmp_path / "seen").read_text()
    assert seen.startswith(f"{work}/gopath/src/example.org/app\n")
    assert f"//line {source}/main.go:1\n{MAIN}" in seen
    assert "//export gomaincaller" in seen
    environment = dict(line.split("=", 1) for line in seen.splitlines() if "=" in line)
    assert {
        "CC": RUMPRUN_GCC,
        "CXX": "x86_64-rumprun-netbsd-g++",
        "CGO_ENABLED": "1",
        "GOOS": "rumprun",
        "GOARCH": "amd64",
        "GOROOT": str(tmp_path / "goroot"),
        "GOPATH": f"{work}/gopath",
        "GO15VENDOREXPERIMENT": "1",
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_CFLAGS": "-O1",
        "TMPDIR": f"{work}/tmp",
    }.items() <= environment.items()
    assert environment["PATH"].startswith(f"{recording.directory}/bin:")
    assert output_of(tmp_path / "p") == "caller of a program\n"
    assert os.listdir(source) == ["main.go"]


def test_dry_run_is_shell_that_builds_the_same(recording: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "it's here",
        {"main.go": '\ufeff// #include "a.h"\npackage main\nimport "./sub"\nimport "C"\n', "sub/x.go": "package sub\n"},
    )
    write(source, {"a.h": "", "data/x": ""})
    result = recording.build(".", "--dry-run", where=source)
    assert (result.returncode, result.stderr, recording.calls()) == (0, "", [])
    script = tmp_path / "script.sh"
    script.write_text("#!/bin/sh\n" + result.stdout)
    subprocess.run([host_tool("shellcheck"), str(script)], timeout=60, check=True)
    subprocess.run(["sh", str(script)], cwd="/", timeout=60, check=True)
    assert output_of(source / "program.bin") == "caller of a program\n"
    by_hand = (tmp_path / "seen").read_text()
    assert [call.split()[0] for call in recording.calls()] == ["go", "x86_64-linux-gnu-gcc", "rumprun-bake"]
    (source / "program.bin").unlink()
    assert recording.build(".", where=source).returncode == 0
    work = by_hand.splitlines()[0].split("/local/")[0]
    by_verb = (tmp_path / "seen").read_text()
    ours = by_verb.splitlines()[0].split("/local/")[0]
    before = "\n".join(by_hand.replace(work, "WORK").split("\nfunc rumplabstrings")[0].splitlines())
    assert by_verb.replace(ours, "WORK").startswith(before)


def test_libraries_of_cgo_go_to_the_link(recording: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "src",
        {
            "main.go": (
                "package main\n// #cgo LDFLAGS: -L ${SRCDIR}/lib -lmine\n// #cgo linux LDFLAGS: extra.a\n"
                '// #cgo windows LDFLAGS: -lnever\nimport "C"\n'
            ),
            "other_windows.go": 'package main\n// #cgo LDFLAGS: -lnever\nimport "C"\n',
            "extra.txt": "int extra;\n",
            "lib/mine.txt": "int mine;\n",
        },
    )
    for name, archive in (("extra.txt", "extra.a"), ("lib/mine.txt", "lib/libmine.a")):
        compiling = f"gcc -x c -c -o x.o {name} && ar rc {archive} x.o && rm x.o"
        subprocess.run(["sh", "-c", compiling], cwd=source, timeout=60, check=True)
    arguments = (source, "-o", tmp_path / "p")
    result = recording.build(*arguments, settings={"CGO_LDFLAGS": "-L 'other lib' -lm"})
    assert result.returncode == 0, result.stderr
    assert " program.a -L" + f"{source}/other lib -lm -L{source}/lib" in recording.calls()[1]
    result = recording.build(*arguments)
    assert result.returncode == 0, result.stderr
    assert recording.calls()[1].endswith(f"main.c program.a -L{source}/lib -lmine {source}/extra.a")
    assert "up to date" in recording.build(*arguments).stdout
    assert not recording.calls()
    with (source / "lib" / "libmine.a").open("ab") as library:
        library.write(b"\n")
    recording.build(*arguments)
    assert len(recording.calls()) >= 2


@pytest.mark.parametrize(
    ("files", "argument", "said"),
    [
        ({"a.go": "package a\n"}, ".", "is package a, not main: it is a library"),
        ({"a.go": "package a\n", "b.go": "// +build ignore\n\npackage main\n"}, ".", "is package a, not main"),
        ({"a.go": "package a\n"}, "a.go", "a.go is package a, not main"),
        ({"a_windows.go": "package main\n"}, ".", "has no Go file for this system"),
        ({"a_test.go": "package main\n"}, ".", "has no Go file; name the directory"),
        (
            {"a.go": 'package main\n// #cgo pkg-config: zlib\nimport "C"\n'},
            ".",
            "a.go asks pkg-config for 'zlib', and pkg-config finds only the host's libraries",
        ),
        ({"a.go": 'package main\n// #cgo LDFLAGS: "-lm\nimport "C"\n'}, ".", "No closing quotation"),
    ],
)
def test_refusals(recording: Toolchain, tmp_path: Path, files: dict[str, str], argument: str, said: str) -> None:
    source = write(tmp_path / "src", files)
    result = recording.build(argument, where=source)
    assert result.returncode == 1
    assert said in result.stderr
    assert not recording.calls()


def test_no_go(toolchain: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path / "src", {"main.go": MAIN})
    result = toolchain.build(source)
    assert result.returncode == 3
    assert "go_builder is not provisioned; run: ./provision --tags go_builder" in result.stderr
    toolchain.provide_go("exit 1", tmp_path)
    result = toolchain.build(source)
    assert result.returncode == 1
    assert "VERSION does not contain Go's version; provision go_builder again" in result.stderr


def test_a_c_program_beside_go_files(recording: Toolchain, tmp_path: Path) -> None:
    source = write(tmp_path / "src", {"main.go": MAIN, "main.c": "int main(void) { return 0; }\n"})
    assert recording.build(source, "-o", tmp_path / "p", "--c").returncode == 0
    assert [call.split()[0] for call in recording.calls()] == ["x86_64-linux-gnu-gcc", "rumprun-bake"]


def test_a_single_file_and_one_of_our_own_name(recording: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "src",
        {"rumplab_caller.go": "// +build ignore\n\npackage main // one\n", "two.go": "package main // two\n"},
    )
    assert recording.build(source / "rumplab_caller.go", "-o", tmp_path / "p").returncode == 0
    seen = (tmp_path / "seen").read_text()
    assert "package main // one" in seen and "package main // two" not in seen
    assert "xrumplab_caller.go" in seen


def test_what_makes_a_build_necessary(recording: Toolchain, tmp_path: Path) -> None:
    source = write(
        tmp_path / "app",
        {
            "go.mod": "module example.org/app\n",
            "main.go": 'package main\nimport "example.org/app/lib"\nimport "example.org/dep"\n',
            "main_test.go": "package main\n",
            "lib/lib.go": "package lib\n",
            "vendor/example.org/dep/dep.go": "package dep\n",
        },
    )

    def built() -> bool:
        result = recording.build(source, "-o", tmp_path / "p")
        assert result.returncode == 0, result.stderr
        calls = recording.calls()
        assert ("up to date" in result.stdout) == (not calls)
        return bool(calls)

    assert built() and not built()
    for change in (
        {"lib/lib.go": "package lib // changed\n"},
        {"lib/more.go": "package lib\n"},
        {"vendor/example.org/dep/dep.go": "package dep // changed\n"},
        # The import now resolves to the vendor directory.
        {"vendor/example.org/app/lib/lib.go": "package lib\n"},
        {"asm.s": ""},
    ):
        write(source, change)
        assert built() and not built(), change
    write(source, {"main_test.go": "package main // changed\n", "unused/x.go": "package unused\n"})
    assert not built()


PROGRAM = {
    "go.mod": "module example.org/me/app\n",
    "main.go": """\
package main

// #cgo CFLAGS: -DFACTOR=2
// #cgo LDFLAGS: -L${SRCDIR}/lib -lmine -lm
// #include "help.h"
// #include "../beside/beside.h"
// int mine(void);
// static int inline_value(void) { return 4; }
import "C"

import (
	"fmt"
	"os"

	"example.org/dep"
	"example.org/me/app/internal/deep"
)

var os_args = os.Args

func main() {
	fmt.Println(deep.Name(), dep.Name(), C.help(3), C.BESIDE, C.mine(), C.inline_value())
	fmt.Println(os.Args[1:], os.Getenv("COLOUR"), os.Getenv("EMPTY") == "")
	if len(os.Args) > 2 {
		os.Exit(7)
	}
}
""",
    "internal/deep/deep.go": 'package deep\n\n//go:noinline\nfunc Name() string {\n\treturn "deep"\n}\n',
    "vendor/example.org/dep/dep.go": 'package dep\n\n//go:noinline\nfunc Name() string {\n\treturn "dep"\n}\n',
    "help.h": '#include "include/scale.h"\nint help(int);\n',
    "help.c": '#include "help.h"\n\nint help(int value)\n{\n\treturn SCALE(value) * FACTOR;\n}\n',
    "include/scale.h": "#define SCALE(value) ((value) * 10)\n",
    "../beside/beside.h": "#define BESIDE 5\n",
    "lib/mine.txt": "int mine(void) { return 6; }\n",
}


def test_a_real_program(toolchain: Toolchain, tmp_path: Path, gocache: dict[str, str]) -> None:
    """Go's archive, the caller and the C program link, and the result runs."""
    go, goroot = real_go()
    toolchain.provide_go(f'exec {go} "$@"', goroot)
    source = write(tmp_path / "app", PROGRAM)
    compiling = "gcc -x c -c -o mine.o mine.txt && ar rc libmine.a mine.o"
    subprocess.run(["sh", "-c", compiling], cwd=source / "lib", timeout=60, check=True)
    output = tmp_path / "p"
    result = toolchain.build("app", "-o", output, where=tmp_path, settings=gocache)
    assert (result.returncode, result.stderr) == (0, "")
    assert len([call for call in toolchain.calls() if call.startswith(("go ", "rumprun-bake "))]) == 2
    assert output_of(output, "one", COLOUR="blue", EMPTY="") == "deep dep 60 5 6 4\n[one] blue true\n"
    assert subprocess.run([output, "a", "b"], capture_output=True, timeout=30, check=False).returncode == 7

    # The debug information names the user's files, not the copies in the work directory.
    places = ["main.main", "'example.org/me/app/internal/deep.Name'", "help"]
    asked = [word for place in places for word in ("-ex", f"info line {place}")]
    argv = [host_tool("gdb"), "-nx", "-batch", *asked, "-ex", "list help", str(output)]
    shown = subprocess.run(argv, cwd="/", capture_output=True, text=True, timeout=60, check=True).stdout
    assert f'"{source}/main.go"' in shown
    assert f'Line 5 of "{source}/internal/deep/deep.go"' in shown
    assert "return SCALE(value) * FACTOR;" in shown

    unchanged = toolchain.build("app", "-o", output, where=tmp_path, settings=gocache)
    assert "up to date" in unchanged.stdout and not toolchain.calls()
    write(source, {"include/scale.h": "#define SCALE(value) ((value) * 100)\n"})
    changed = toolchain.build("app", "-o", output, where=tmp_path, settings=gocache)
    assert "built in" in changed.stdout
    assert output_of(output).startswith("deep dep 600 ")


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"main.go": "package main\n\nfunc main() { x }\n"}, ["{source}/main.go:3", "undefined: x"]),
        ({"main.go": "package main\n\nfunc main() { x( }\n"}, ["{source}/main.go:3", "step Go archive failed"]),
        (
            {"main.go": 'package main\n\nimport "example.org/no"\n\nfunc main() { no.X() }\n'},
            ["{source}/main.go:3: cannot find package", "'go mod vendor' or 'git clone'"],
        ),
        (
            {
                "go.mod": "module m\n",
                "main.go": 'package main\n\nimport "m/sub"\n\nfunc main() { sub.X() }\n',
                "sub/sub.go": "package sub\n\nfunc X() {\n\treturn 1\n}\n",
            },
            ["{source}/sub/sub.go:4"],
        ),
        (
            {"main.go": 'package main\n\n// #include <no/such.h>\nimport "C"\n\nfunc main() {}\n'},
            ["{source}/main.go:3:", "there is no header no/such.h for the unikernel"],
        ),
        (
            {"main.go": 'package main\n\nimport "C"\n\nfunc main() {}\n', "bad.c": "int f(void)\n{\n\treturn y;\n}\n"},
            ["{source}/bad.c:3:"],
        ),
        (
            {
                "go.mod": "module m\n",
                "main.go": 'package main\n\nimport "C"\nimport "m/sub"\n\nfunc main() { sub.X() }\n',
                "bad.c": "int one;\n",
                "sub/sub.go": 'package sub\n\nimport "C"\n\nfunc X() {}\n',
                "sub/bad.c": "int f(void)\n{\n\treturn y;\n}\n",
            },
            ["# m/sub\n{source}/sub/bad.c: In function", "{source}/sub/bad.c:3:"],
        ),
        (
            {
                "main.go": 'package main\n\nimport "C"\n\nfunc main() {}\n',
                "caller.go": 'package main\n\nimport "C"\n\n//export gomaincaller\nfunc gomaincaller() { main() }\n',
            },
            ["build adds gomaincaller() and the C main() that calls it: remove the program's own"],
        ),
        (
            # The package is beside the program, but neither in GOPATH nor in its module.
            {
                "go.mod": "module example.org/app\n",
                "main.go": 'package main\n\nimport "C"\nimport "example.org/lib"\n\nfunc main() { lib.X() }\n',
                "../lib/lib.go": "package lib\n\nfunc X() {}\n",
            },
            ['cannot find package "example.org/lib"'],
        ),
        (
            {
                "go.mod": "module example.org/app\n",
                "main.go": 'package main\n\nimport "C"\nimport "dep"\n\nfunc main() { dep.X() }\n',
                "../vendor/dep/dep.go": "package dep\n\nfunc X() {}\n",
            },
            ['cannot find package "dep"'],
        ),
        (
            {"main.go": 'package main\n\n// #cgo LDFLAGS: -lnosuch\nimport "C"\n\nfunc main() {}\n'},
            ["step stub link failed", "there is no library nosuch for the unikernel"],
        ),
    ],
)
def test_real_errors_name_the_users_files(
    real: Toolchain, tmp_path: Path, gocache: dict[str, str], files: dict[str, str], said: list[str]
) -> None:
    source = write(tmp_path / "it's src", files)
    result = real.build(source, "-o", tmp_path / "p", settings=gocache)
    assert result.returncode == 1
    for words in said:
        assert words.format(source=source) in result.stderr
    assert str(real.cache) not in result.stderr
    assert not (tmp_path / "p").exists()
    assert not real.left()


def test_a_real_single_file_with_relative_imports(real: Toolchain, tmp_path: Path, gocache: dict[str, str]) -> None:
    files = {
        "one.go": 'package main\n\nimport "./sub"\n\nfunc main() { println(sub.X) }\n',
        "two.go": "package main\n\nfunc main() {}\n",
        "sub/sub.go": "package sub\n\nconst X = 8\n",
    }
    source = write(tmp_path / "src", files)
    result = real.build(source / "one.go", "-o", tmp_path / "p", settings=gocache)
    assert result.returncode == 0, result.stderr
    done = subprocess.run([tmp_path / "p"], capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == "8\n"
