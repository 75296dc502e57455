"""A Go program that prints the results of the runtime's findnull(), linked with the file string1.go of a Go tree."""

from __future__ import annotations

# This file is compiled together with the runtime's string1.go. The program's arrays hold 510 bytes and 254 pairs.
# println() writes to stderr.
HARNESS = """
package main

const _MaxMem = uintptr(1<<10 - 1)

func try(name string, call func() int) {
	defer func() {
		if recover() != nil {
			println(name, "panic")
		}
	}()
	println(name, call())
}

func bytes(null int) *byte {
	made := make([]byte, 510)
	for place := range made {
		made[place] = 'x'
	}
	if null >= 0 {
		made[null] = 0
	}
	return &made[0]
}

func main() {
	try("nil", func() int { return findnull(nil) })
	try("at 0", func() int { return findnull(bytes(0)) })
	try("at 1", func() int { return findnull(bytes(1)) })
	try("at 255", func() int { return findnull(bytes(255)) })
	try("at 508", func() int { return findnull(bytes(508)) })
	try("at 509", func() int { return findnull(bytes(509)) })
	try("none", func() int { return findnull(bytes(-1)) })
	pairs := make([]uint16, 254)
	for place := range pairs {
		pairs[place] = 'x'
	}
	try("pairs none", func() int { return findnullw(&pairs[0]) })
	pairs[100] = 0
	try("pairs at 100", func() int { return findnullw(&pairs[0]) })
}
"""
FOUND = ["nil 0", "at 0 0", "at 1 1", "at 255 255", "at 508 508", "at 509 509"]
PAIRS = ["pairs none panic", "pairs at 100 100"]
UPSTREAMS = [*FOUND, "none panic", *PAIRS]
BOUNDED = [*FOUND, "none 0", *PAIRS]


def of_main(string1: str) -> str:
    """Return the text of the runtime's file, moved to the program's package."""
    return string1.replace("package runtime", "package main")
