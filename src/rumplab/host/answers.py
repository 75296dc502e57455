"""What other programs answer, and what stands in files that they or people have written: it may have any form."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator
from typing import Any

from rumplab.errors import RumplabError

# What comes of taking something for what it isn't: a number for a list, a huge one for a size, a nest for a value.
UNFIT = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)


@contextlib.contextmanager
def understood(what: str) -> Iterator[None]:
    """RumplabError where the block can't take `what`, the answer of a program, for what it should be."""
    try:
        yield
    except UNFIT as error:
        raise RumplabError(
            f"{what} is of a form that this tool doesn't know ({type(error).__name__}: {error}); is it a newer program?"
        ) from error


def typed(value: Any, *kinds: type) -> Any:
    """`value` if it is of one of `kinds`, where a truth value is no number; TypeError otherwise."""
    if type(value) not in kinds:
        names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in kinds)
        raise TypeError(f"{json.dumps(value)[:60]} is not of type {names}")
    return value


# By the annotation of a dataclass's field. What is of another dataclass is checked where that is made.
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
    """TypeError or ValueError for a dataclass, made of what a file says, with a field that isn't of its own type."""
    for item in dataclasses.fields(one):
        value = getattr(one, item.name)
        try:
            if item.type in KINDS:
                typed(value, *KINDS[str(item.type)])
                # Also of numbers that are too large to be one.
                if item.type == "float" and not math.isfinite(value):
                    raise ValueError(f"{value} is no number")
            elif item.type == TEXTS:
                for text in typed(value, list, tuple):
                    typed(text, str)
        except UNFIT as error:
            raise TypeError(f"'{item.name}': {error}") from error
