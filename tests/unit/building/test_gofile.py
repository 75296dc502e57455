"""The head of a Go file: package, imports, build constraints, cgo settings."""

from __future__ import annotations

import pytest

from rumplab.building.gofile import GoFile, read_head, satisfied, selected, tags

HEAD = """\
// Copyright.

// +build rumprun linux,!cgo
// +build amd64

/* Package main. import "wrong" */
package main // import "also.wrong/x"

import "fmt"
import (
	"os"
	. "example.org/dot"
	_ `example.org/blank`; alias "example.org/alias" // "not this"
	/* "nor this" */
)

// #cgo LDFLAGS: -lnot

// #cgo rumprun !amd64 CFLAGS: -DX="1"
// #cgo LDFLAGS: -L${SRCDIR}/lib -lfoo
// int x;
import "C"

var text = `import "late"`
import "later"
"""
RUMPRUN = tags("rumprun", "amd64", 5)


def test_head() -> None:
    head = read_head(HEAD)
    assert head.package == "main"
    assert head.imports == (*("fmt", "os", "example.org/dot", "example.org/blank", "example.org/alias", "C"),)
    assert head.constraints == ("rumprun linux,!cgo", "amd64")
    assert [(item.alternatives, item.verb, item.value) for item in head.cgo] == [
        (("rumprun", "!amd64"), "CFLAGS", '-DX="1"'),
        ((), "LDFLAGS", "-L${SRCDIR}/lib -lfoo"),
    ]
    assert head.uses_cgo


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ('package a\n/*\n#cgo LDFLAGS: -lm\n*/\nimport "C"\n', [("LDFLAGS", "-lm")]),
        ('package a\n/* #cgo pkg-config: zlib */\nimport "C"\n', [("pkg-config", "zlib")]),
        ('package a\nimport (\n// #cgo LDFLAGS: -lm\n"C"\n"fmt"\n)\n', [("LDFLAGS", "-lm")]),
        ('package a\n// #cgo LDFLAGS: -lm\n\nimport "C"\n', []),
        ('package a\n// #cgo LDFLAGS: -lm\nimport "fmt"\nimport "C"\n', []),
    ],
)
def test_settings_of_cgo_stand_right_above_its_import(text: str, settings: list[tuple[str, str]]) -> None:
    assert [(item.verb, item.value) for item in read_head(text).cgo] == settings


@pytest.mark.parametrize("text", ["", "\x00\xff", "package", 'import "x"', '"unterminated', "/* open", "\ufeff"])
def test_a_file_that_is_not_go_is_left_to_the_compiler(text: str) -> None:
    assert read_head(text).package is None


def test_a_byte_order_mark_and_carriage_returns() -> None:
    head = read_head('\ufeff// +build linux\r\n\r\npackage main\r\nimport "fmt"\r\n')
    assert (head.package, head.imports, head.constraints) == ("main", ("fmt",), ("linux",))


def test_a_blank_line_must_follow_the_build_lines() -> None:
    assert read_head("// +build linux\npackage main\n").constraints == ()
    assert read_head("// +build linux\n// text\n\npackage main\n").constraints == ("linux",)
    assert read_head("package main\n// +build linux\n\n").constraints == ()


@pytest.mark.parametrize(
    ("alternatives", "holds"),
    [
        ([], True),
        (["rumprun"], True),
        (["linux"], False),
        (["linux", "amd64"], True),
        (["rumprun,amd64"], True),
        (["rumprun,!amd64"], False),
        (["!linux,cgo"], True),
        (["go1.5"], True),
        (["go1.6"], False),
        (["ignore"], False),
    ],
)
def test_tags(alternatives: list[str], holds: bool) -> None:
    assert satisfied(alternatives, RUMPRUN) == holds


@pytest.mark.parametrize(
    ("name", "chosen"),
    [
        ("main.go", True),
        ("x_rumprun.go", True),
        ("x_linux.go", False),
        ("x_amd64.go", True),
        ("x_arm.go", False),
        ("x_rumprun_amd64.go", True),
        ("x_linux_amd64.go", False),
        ("x_rumprun_arm.go", False),
        ("linux.go", True),
        ("x_linux_tool.go", True),
        ("x_linux.tool.go", False),
    ],
)
def test_a_file_name_can_name_a_system(name: str, chosen: bool) -> None:
    assert selected(name, GoFile("main", (), (), ()), RUMPRUN) == chosen


def test_every_build_line_must_hold() -> None:
    head = read_head("// +build rumprun linux\n// +build ignore\n\npackage main\n")
    assert not selected("main.go", head, RUMPRUN)
