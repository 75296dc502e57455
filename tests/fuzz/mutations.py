"""Functions that damage valid samples. The result depends only on the random numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from random import Random
from typing import Any

Mutation = Callable[[Random, Sequence[bytes]], bytes]
# The largest size of an input, in bytes. A reader with quadratic run time exceeds the time limit at this size.
LONGEST = 1 << 16
# One of so many inputs repeats a piece up to LONGEST. It is rare, because these inputs take the most time.
RARE = 400
# A nesting depth at which a recursive reader exceeds Python's recursion limit.
DEPTH = 20_000
BYTES = (0x00, 0x01, 0x7F, 0x80, 0xFF, 0x0A, 0x20, 0x22, 0x5C)
EXTREMES = (0, 1, 2, -1, -2, 1 << 31, (1 << 31) - 1, 1 << 63, 1 << 16, 1 << 30, 0xFFFF, 0x10, 0x200)
# Replacements for words and numbers.
WORDS = (
    *(b"0", b"-1", b"1", b"65536", b"4294967296", b"18446744073709551616", b"9" * 5000, b"1e400", b"NaN", b"0x10", b""),
    *(b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\xc2\xb2", b"\xd9\xa3", b"\xe2\x80\xa8", b"\xef\xbb\xbf", b"\x1b[2J"),
    *(b"../../x", b"/", b".", b"..", b"a" * 300, b"\r\n", b"\n\n", b"\t", b" ", b'"', b"'", b"\\", b"%s{}", b"true"),
)
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 7, 1 << 16, 1 << 31, 1 << 63, 1 << 70, -(1 << 63), 0.5, 1e308, -0.0),
    *(float("inf"), float("-inf"), float("nan"), "", " ", "\0", "a\0b", "\ud800", "²", "٣", "\u2028", "\x1b[2J", "\n"),
    *("x" * 300, "../../x", "/", ".", "..", "-1", "0", "1", "None", [], {}, [[]], [None], [{}], {"": None}, {"a": 1}),
    *([1, 2], ["x", "y"], {"name": "x"}, [1] * 50, "a:b", "10.0.0.1", "10.0.0.1/33", "255.255.255.255", "::1"),
)
TRICKS = (
    b"9" * 5000,
    b"-" + b"1" * 4000,
    b"1e999",
    b"[" * DEPTH,
    b'{"a":' * DEPTH,
    b"[" * DEPTH + b"]" * DEPTH,
    b'"\\ud800"',
    b'"' + b"x" * 5000,
    b"nul",
)


def number(random: Random, count: int) -> int:
    """Return a random integer from 0 up to `count` - 1, or 0 if `count` is 0. It is faster than Random.randrange."""
    return int(random.random() * count)


def one(random: Random, among: Sequence[Any]) -> Any:
    return among[int(random.random() * len(among))]


def damaged(random: Random, data: bytearray, other: bytes, words: Sequence[bytes]) -> None:
    """Damage `data` in place, once."""
    at = number(random, len(data))
    kind = number(random, 12)
    size = 1 << number(random, 7)
    if kind < 2 and data:
        data[at] ^= 1 << number(random, 8)
    elif kind == 2 and data:
        data[at] = one(random, BYTES)
    elif kind < 5 and data:
        # A field, such as a size, a count or an offset.
        width = one(random, (2, 4, 4, 8))
        at -= at % 2
        value = one(random, EXTREMES) if random.random() < 0.7 else number(random, 2 * len(data))
        order = "little" if random.random() < 0.6 else "big"
        data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, order)
    elif kind == 5:
        del data[at : at + size]
    elif kind == 6:
        data[at:at] = one(random, words)
    elif kind == 7:
        data[at : at + number(random, 12)] = one(random, words)
    elif kind == 8:
        # Often at the end, as in a file that is still being written, or was truncated.
        del data[at if random.random() < 0.5 else max(len(data) - size, 0) :]
    elif kind == 9:
        place = number(random, len(other))
        data[at : at + size] = other[place : place + size]
    elif kind == 10:
        data[at:at] = data[at : at + size] * (1 + number(random, 3))
    else:
        place = number(random, len(other))
        data[at:] = other[place:]


def repeated(random: Random, data: bytes, words: Sequence[bytes]) -> bytes:
    """Return `data` with one of its pieces, or two words, repeated up to LONGEST."""
    at = number(random, len(data))
    piece = data[at : at + 1 + number(random, 16)] if random.random() < 0.5 else one(random, words) + one(random, words)
    count = LONGEST // max(len(piece), 1)
    return data[:at] + piece * count + (data[at:] if random.random() < 0.5 else b"")


def binary(words: Sequence[bytes] = WORDS) -> Mutation:
    """Return a mutation for binary formats: it changes bits, bytes, fields and pieces, and inserts `words`."""

    def mutation(random: Random, samples: Sequence[bytes]) -> bytes:
        sample, other = one(random, samples), one(random, samples)
        if number(random, RARE) == 0:
            return repeated(random, sample, words)[:LONGEST]
        data = bytearray(sample)
        for _ in range(1 + number(random, 4)):
            damaged(random, data, other, words)
        return bytes(data[:LONGEST])

    return mutation


def text(*words: bytes) -> Mutation:
    """Return a mutation for text formats: it changes lines and words. `words` are the format's keywords."""
    known = (*words, *words, *WORDS)
    raw = binary(known)

    def mutation(random: Random, samples: Sequence[bytes]) -> bytes:
        if random.random() < 0.5:
            return raw(random, samples)
        sample, other = one(random, samples), one(random, samples)
        lines, others = sample.split(b"\n"), other.split(b"\n")
        for _ in range(1 + number(random, 3)):
            at, kind = number(random, len(lines)), number(random, 5)
            if kind == 0:
                lines[at:at] = [one(random, others)] * (1 + number(random, 3))
            elif kind == 1 and len(lines) > 1:
                del lines[at]
            elif kind == 2:
                lines[at] += one(random, known)
            elif kind == 3:
                parts = lines[at].split(b" ")
                parts[number(random, len(parts))] = one(random, known)
                lines[at] = b" ".join(parts)
            else:
                lines[at] = one(random, known) + lines[at]
        return b"\n".join(lines)[:LONGEST]

    return mutation


def places(value: Any, at: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path, as keys and indexes, of a JSON value and of every value in it."""
    yield at
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*at, key))


def value_at(value: Any, path: Sequence[Any]) -> Any:
    for key in path:
        value = value[key]
    return value


GONE = object()


def replaced(value: Any, path: Sequence[Any], new: Any) -> Any:
    """Return a copy of `value` with `new` at `path`, or without that key if `new` is GONE."""
    if not path:
        return None if new is GONE else new
    copy = value.copy()
    key = path[0]
    if len(path) == 1 and new is GONE:
        del copy[key]
    else:
        copy[key] = replaced(value[key], path[1:], new)
    return copy


def document(*more: Any) -> Mutation:
    """Return a mutation for JSON: it changes values to other types or to `more`, or changes bytes."""
    raw = binary((*WORDS, *TRICKS, b"[", b"]", b"{", b"}", b":", b",", b"null"))
    hostile = (*HOSTILE, *more, *more)
    parsed: dict[bytes, tuple[Any, list[tuple[Any, ...]]]] = {}

    def known(sample: bytes) -> tuple[Any, list[tuple[Any, ...]]]:
        if sample not in parsed:
            value = json.loads(sample)
            parsed[sample] = value, list(places(value))
        return parsed[sample]

    def mutation(random: Random, samples: Sequence[bytes]) -> bytes:
        if random.random() < 0.3:
            return raw(random, samples)
        value, paths = known(one(random, samples))
        path = one(random, paths)
        kind = number(random, 12)
        if kind < 8:
            value = replaced(value, path, one(random, hostile))
        elif kind == 8:
            value = replaced(value, path, GONE)
        elif kind == 9:
            value = replaced(value, path, value_at(value, one(random, paths)))
        elif kind == 10:
            value = replaced(value, path, [value_at(value, path)])
        else:
            # Insert a trick as raw text, because json.dumps can't write some of them, such as deep nesting.
            data = json.dumps(replaced(value, path, "@")).encode()
            return data.replace(b'"@"', one(random, TRICKS), 1) if number(random, 20) == 0 else data
        if number(random, 3) == 0:
            inner = list(places(value))
            value = replaced(value, one(random, inner), one(random, hostile))
        return json.dumps(value).encode()

    return mutation
