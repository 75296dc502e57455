"""Checks data from outside the tool: other programs' output, and files that programs or people wrote. Such data may
be malformed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from rumplab.errors import RumplabError

# The exceptions that code raises when it parses malformed data: a number in place of a list, a number that is too large
# for a size, or values that are nested too deeply.
MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def parsing(what: str) -> Iterator[None]:
    """Turns an exception of MALFORMED that the block raises into a RumplabError, which names `what`, a program's
    output."""
    try:
        yield
    except MALFORMED as error:
        raise RumplabError(
            f"{what} has a format that this tool doesn't know ({type(error).__name__}: {error}); is the program newer?"
        ) from error


def typed(value: Any, *kinds: type) -> Any:
    """Returns `value` if its type is one of `kinds`; raises TypeError otherwise. A bool is not an int here."""
    if type(value) not in kinds:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{json.dumps(value)[:60]} is not of type {names}")
    return value


# The types that each annotation of a dataclass's field allows. A field whose annotation is another dataclass isn't
# listed: that dataclass is checked where it is made.
KINDS: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (float, int),
    "str | None": (str, type(None)),
    "int | None": (int, type(None)),
}
TEXTS = "tuple[str, ...]"


def check_fields(one: Any) -> None:
    """Raises TypeError if a field of `one` doesn't have its annotated type. `one` is a dataclass made from a file."""
    for item in dataclasses.fields(one):
        value = getattr(one, item.name)
        try:
            if item.type in KINDS:
                typed(value, *KINDS[str(item.type)])
                # isfinite raises OverflowError for an int that is too large for a float.
                if item.type == "float" and not math.isfinite(value):
                    raise ValueError(f"{value} is not a finite number")
            elif item.type == TEXTS:
                for text in typed(value, list, tuple):
                    typed(text, str)
        except MALFORMED as error:
            raise TypeError(f"'{item.name}': {error}") from error
