"""Build, stage, run and debug a Go program with the miniature toolchains."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from testinfra.host import Host

HOME = "/var/tmp/go-user"
MAIN = """package main

import "greet"

func main() {
	println("hello from Go")
	greet.Greet()
}
"""
GREET = """package greet

func Greet() {
	println("and from a package of GOPATH")
}
"""


def put(host: Host, path: str, text: str) -> None:
    """Write a file of the lab user's."""
    encoded = base64.b64encode(text.encode()).decode()
    script = f'mkdir -p "$(dirname {path})" && printf %s {encoded} | base64 -d >{path}'
    assert host.run("runuser -u rumplab -- sh -c %s", script).rc == 0


def rumplab(host: Host, command: str, seconds: int = 120) -> Any:
    """Run the runtime tool as the lab user, in that user's directory."""
    script = f"cd {HOME} && HOME={HOME} GOPATH={HOME}/go timeout {seconds} rumplab {command}"
    return host.run("runuser -u rumplab -- sh -c %s", script)


@pytest.fixture(scope="module")
def program(host: Host) -> str:
    """Build a unikernel from a program that imports a user's package; return its path."""
    assert host.run(f"install -d -o rumplab {HOME}").rc == 0
    put(host, f"{HOME}/app/main.go", MAIN)
    put(host, f"{HOME}/go/src/greet/greet.go", GREET)
    built = rumplab(host, "build app -o hello.bin")
    assert built.rc == 0, built.stdout + built.stderr
    return f"{HOME}/hello.bin"


def test_the_second_build_calls_no_tool(host: Host, program: str) -> None:
    before = host.run(f"stat -c %y {program}").stdout
    again = rumplab(host, "build app -o hello.bin")
    assert again.rc == 0, again.stderr
    assert "up to date" in again.stdout
    assert host.run(f"stat -c %y {program}").stdout == before


def test_it_boots_and_prints_what_go_printed(host: Host, program: str) -> None:
    staged = rumplab(host, "stage hello.bin -o hello.img --force")
    assert staged.rc == 0, staged.stderr
    ran = rumplab(host, "run hello.img --accel tcg", 60)
    assert "hello from Go" in ran.stdout, ran.stdout + ran.stderr
    assert "and from a package of GOPATH" in ran.stdout
    assert "rumprun: main() returned 0" in ran.stdout


def test_the_debugger_stops_in_the_users_go_source(host: Host, program: str) -> None:
    staged = rumplab(host, "stage hello.bin -o debugged.img --force")
    assert staged.rc == 0, staged.stderr
    started = rumplab(host, "run debugged.img --accel tcg --wait --detach --symbols hello.bin")
    assert started.rc == 0, started.stdout + started.stderr
    try:
        asked = "debug debugged main.go:6 --batch --ex 'bt 3' --ex 'info source'"
        seen = rumplab(host, asked)
        assert seen.rc == 0, seen.stdout + seen.stderr
        assert f"{HOME}/app/main.go:6" in seen.stdout
        assert "gomaincaller" in seen.stdout
        assert 'println("hello from Go")' in seen.stdout
    finally:
        assert rumplab(host, "stop debugged").rc == 0


def test_a_compile_error_names_the_users_own_file(host: Host, program: str) -> None:
    put(host, f"{HOME}/wrong/main.go", MAIN.replace("greet.Greet()", "grete.Greet()"))
    built = rumplab(host, "build wrong -o wrong.bin")
    assert built.rc == 1
    assert "step Go archive failed" in built.stderr
    assert f"{HOME}/wrong/main.go:7" in built.stderr
    assert not host.file(f"{HOME}/wrong.bin").exists


def test_the_toolchain_and_the_builder_are_shown(host: Host) -> None:
    status = json.loads(rumplab(host, "status --json").stdout)
    states = {row["name"]: row["state"] for row in status["components"]}
    assert {states[name] for name in ("go_bootstrap", "go_builder", "rump_toolchain")} == {"installed"}
