"""JSON paths: `a.b[0].c`, and what equal means for JSON values."""

from __future__ import annotations

import re
from typing import Any

PATH = re.compile(r"(?:\.?[^.\[\]]+|\[\d+\])+")  #: what a path looks like
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


def value_at(document: Any, where: str) -> Any:
    """The value at `a.b[0].c`. Raises LookupError."""
    position = 0
    while position < len(where):
        step = _STEP.match(where, position)
        if step is None:
            raise LookupError(f"{where!r} is no path like a.b[0].c")
        name, index = step.groups()
        try:
            document = document[name] if index is None else _list(document)[int(index)]
        except (TypeError, ValueError, LookupError) as exc:
            raise LookupError(f"nothing at {where[: step.end()]!r}") from exc
        position = step.end()
    return document


def _list(value: Any) -> list[Any]:
    """`value`, if it is a list; a text has letters, but no values."""
    if isinstance(value, list):
        return value
    raise LookupError


def same(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0, but true is not 1."""
    match one, other:
        case (bool(), _) | (_, bool()):
            return one is other
        case dict(), dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case list(), list():
            return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)
