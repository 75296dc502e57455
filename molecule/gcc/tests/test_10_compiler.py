"""The lab's GCC 9, which converge has fetched from the archive of the host's apt: its programs run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fixtures.upstream.driving import PREFIX, Lab

BIN = f"{PREFIX}/gcc/bin"
PLAIN = '#include <stdio.h>\nint main(void) { return puts("fine") < 0; }\n'
THREADS = """#include <pthread.h>
#include <stdio.h>
static void *run(void *p) { puts(p); return p; }
int main(void) { pthread_t t; return pthread_create(&t, 0, run, "fine") || pthread_join(t, 0); }
"""
MATH = """#include <math.h>
#include <stdio.h>
int main(int n, char **v) { return sqrt(n + 3) == 2 ? puts("fine") < 0 : 1; }
"""
OPENMP = """#include <stdio.h>
int main(void) {
    int n = 0;
#pragma omp parallel for reduction(+:n)
    for (int i = 0; i < 9; i++) n += i;
    return n == 36 ? puts("fine") < 0 : 1;
}
"""
CXX98 = """#include <iostream>
#include <vector>
int main() { std::vector<int> v(3, 4); std::cout << (v[2] == 4 ? "fine" : "bad") << std::endl; }
"""
CXX17 = """#include <iostream>
#include <stdexcept>
#include <string>
#include <thread>
int main() {
    std::string s;
    std::thread t([&] { try { throw std::runtime_error("fine"); } catch (const std::exception &e) { s = e.what(); } });
    t.join();
    std::cout << s << std::endl;
}
"""
# By file: the compiler, its options, the source. Each program prints "fine".
PROGRAMS = {
    "plain.c": ("gcc-9", "-O2", PLAIN),
    # Implicit int, and a function without a declaration.
    "old.c": ("gcc-9", "-std=gnu89", 'main() { puts("fine"); return 0; }\n'),
    "common.c": ("gcc-9", "-O -fcommon", PLAIN + "int twice; int twice;\n"),
    "math.c": ("gcc-9", "-lm", MATH),
    "threads.c": ("gcc-9", "-pthread", THREADS),
    "static.c": ("gcc-9", "-static", PLAIN),
    "lto.c": ("gcc-9", "-O2 -flto", PLAIN),
    "openmp.c": ("gcc-9", "-fopenmp", OPENMP),
    "old.cc": ("g++-9", "-std=gnu++98", CXX98),
    "new.cc": ("g++-9", "-std=c++17 -O2 -pthread", CXX17),
}


@pytest.fixture
def lab(host: Any) -> Lab:
    """The container."""
    return Lab(host)


@pytest.fixture
def work(lab: Lab) -> Iterator[str]:
    """A directory."""
    path = lab.sh("mktemp -d /tmp/gcc.XXXXXX")
    yield path
    lab.sh('rm -r "$1"', path)


def compiled(lab: Lab, work: str, name: str, directory: str = BIN) -> str:
    """Compile one of the programs, and return what it prints; no other compiler is on PATH."""
    tool, options, text = PROGRAMS[name]
    script = f'cd "$1"; printf %s "$2" >{name}; "$3/{tool}" -o program {name} {options}; ./program'
    return lab.sh(script, work, text, directory)


def test_it_came_from_the_archive_that_the_hosts_own_apt_names(lab: Lab) -> None:
    described = lab.descriptor("gcc", PREFIX)
    assert (described["state"], described["source"], described["version"]) == ("installed", "upstream", "9.3.0")
    archives = lab.sh('apt-get update --print-uris | sed -n "s,^\'\\(.*\\)/dists/.*,\\1,p" | sort -u').splitlines()
    origins = described["origin"].split(", ")
    assert len(origins) == 10
    assert all(any(origin.startswith(f"{archive}/pool/") for archive in archives) for origin in origins)


def test_the_host_got_no_compiler_for_it(host: Any) -> None:
    for tool in ("cc", "gcc", "g++", "cpp", "cc1"):
        assert host.run(f"command -v {tool}").rc != 0


@pytest.mark.parametrize("name", sorted(PROGRAMS))
def test_what_it_compiles_runs(lab: Lab, work: str, name: str) -> None:
    assert compiled(lab, work, name) == "fine"


def test_what_it_links_needs_nothing_but_libc(lab: Lab, work: str) -> None:
    compiled(lab, work, "new.cc")
    needed = lab.sh('readelf -d "$1/program" | sed -n "s/.*NEEDED.*\\[\\(.*\\)\\]/\\1/p"', work).splitlines()
    assert [name for name in needed if not name.startswith(("libc.", "libm.", "libpthread.", "ld-linux"))] == []
    assert lab.sh('readelf -d "$1/program" | grep -ciE "rpath|runpath" || true', work) == "0"


def test_a_shared_library_throws_and_is_caught(lab: Lab, work: str) -> None:
    library = '#include <stdexcept>\nvoid fail() { throw std::runtime_error("caught"); }\n'
    program = (
        "#include <cstdio>\n#include <exception>\nvoid fail();\n"
        "int main() { try { fail(); } catch (std::exception &e) { std::puts(e.what()); } }\n"
    )
    script = (
        'cd "$1"; printf %s "$2" >l.cc; printf %s "$3" >p.cc; "$4/g++-9" -shared -fPIC -o libl.so l.cc; '
        '"$4/g++-9" -o p p.cc -L. -ll -Wl,-rpath,.; ./p'
    )
    assert lab.sh(script, work, library, program, BIN) == "caught"


def test_its_library_path_reaches_neither_the_linker_nor_what_a_build_runs(lab: Lab, work: str) -> None:
    """cc1 runs with the library path; the assembler, a script found on PATH, prints the path that it gets."""
    script = (
        'cd "$1"; mkdir bin; real=$(command -v as); '
        'printf \'#!/bin/sh\\necho "path=$LD_LIBRARY_PATH" >>"%s/said"\\nexec %s "$@"\\n\' "$1" "$real" >bin/as; '
        'chmod 755 bin/as; echo "int main(void) { return 0; }" >x.c; '
        'env -u LD_LIBRARY_PATH PATH="$1/bin:$PATH" "$2/gcc-9" -o x x.c; '
        'LD_LIBRARY_PATH=/somebody/elses PATH="$1/bin:$PATH" "$2/gcc-9" -o x x.c; cat said'
    )
    assert lab.sh(script, work, BIN).splitlines() == ["path=", "path=/somebody/elses"]


@pytest.mark.parametrize("name", ["lto.c", "new.cc"])
def test_a_tree_that_was_moved_works(lab: Lab, work: str, name: str) -> None:
    lab.sh('cp -RL "$1/gcc" "$2/somewhere else"', PREFIX, work)
    assert compiled(lab, work, name, f"{work}/somewhere else/bin") == "fine"
    assert lab.sh('grep -rIl "$1/work" "$1/gcc/" || true', PREFIX) == ""


def test_the_tools_beside_it(lab: Lab, work: str) -> None:
    script = (
        'cd "$1"; echo "int f(void) { return 1; }" >f.c; "$2/gcc-9" -flto -c f.c; "$2/gcc-ar-9" rcs libf.a f.o; '
        '"$2/gcc-nm-9" libf.a; echo "MACRO" | "$2/cpp-9" -P -DMACRO=replaced'
    )
    said = lab.sh(script, work, BIN)
    assert "T f" in said and said.endswith("replaced")


def test_its_licences_are_in_the_tree(lab: Lab) -> None:
    found = lab.sh(f"cd {PREFIX}/gcc/share/doc && ls */copyright").split()
    assert {"gcc-9-base/copyright", "libgmp10/copyright", "libmpfr6/copyright"} <= set(found)


def test_status_names_it(host: Any) -> None:
    report = json.loads(host.check_output(f"runuser -u rumplab -- {PREFIX}/rumplab/bin/rumplab status --json"))
    (row,) = [row for row in report["components"] if row["name"] == "gcc"]
    assert (row["state"], row["version"]) == ("installed", "9.3.0")
