"""rumplab build on a host whose archive has only newer compilers, without manual installation or a container."""

from __future__ import annotations

from typing import Any

import pytest
from fixtures.upstream.driving import PREFIX, Lab

USER = "runuser -u rumplab --"
# By its full path, since rows of other tests, in their own prefixes, change the link in PATH.
RUMPLAB = f"{PREFIX}/rumplab/bin/rumplab"
C = '#include <stdio.h>\nint main(void) { puts("hello by " __VERSION__); return 0; }\n'
GO = 'package main\n\nfunc main() {\n\tprintln("hello from Go")\n}\n'


@pytest.fixture
def lab(host: Any) -> Lab:
    """The container."""
    return Lab(host)


def test_the_toolchain_calls_the_labs_compiler_by_its_place_in_the_store(lab: Lab) -> None:
    compiler = lab.descriptor("gcc", PREFIX)["tree"]
    for name in ("gcc", "g++"):
        assert f"exec {compiler}/bin/{name}-9 " in lab.sh(f"cat {PREFIX}/rump_toolchain/libexec/rumplab/{name}")
    assert "gcc-9.3.0" in lab.sh(f"cat {PREFIX}/rump_toolchain/.uses.json")
    assert "multiple definition" not in lab.log("rump_toolchain", PREFIX)


@pytest.mark.parametrize(
    ("source", "text", "said"), [("hello.c", C, "hello by 9.3.0"), ("app/main.go", GO, "hello from Go")]
)
def test_a_program_is_built_staged_and_run(lab: Lab, host: Any, source: str, text: str, said: str) -> None:
    work = lab.sh("mktemp -d /var/tmp/program.XXXXXX")
    script = 'mkdir -p "$1/app"; printf %s "$2" >"$1/$3"; chown -R rumplab "$1"; chmod 755 "$1"'
    lab.sh(script, work, text, source)
    user = f"{USER} env HOME={work} GOPATH={work}/go"
    wanted = source if source.endswith(".c") else "app"
    for command in (f"build {wanted} -o hello.bin", "stage hello.bin -o hello.img"):
        done = host.run(f"cd {work} && {user} timeout 240 {RUMPLAB} {command}")
        assert done.rc == 0, done.stdout + done.stderr
    ran = host.run(f"cd {work} && {user} timeout 90 {RUMPLAB} run hello.img --accel tcg --exit-device")
    assert said in ran.stdout, ran.stdout + ran.stderr
    lab.sh('rm -r "$1"', work)
