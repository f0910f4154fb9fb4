"""Markdown: small pieces of a document out of untrusted text. Pure.

Text from a repository can be anything; what comes out of here is shown as text by a Markdown reader and
stays easy to read on a terminal, so only what could become a link, an image, HTML or a table border is
escaped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any


def text(value: object) -> str:
    """Plain text inside a paragraph, a list or a cell."""
    said = " ".join(str(value).split())
    said = re.sub(r"([\\`*<|])", r"\\\1", said)
    return said.replace("](", "]\\(").replace("![", "!\\[")


def code(value: object) -> str:
    """A code span; a table border inside is escaped, as tables want it."""
    said = " ".join(str(value).split()).replace("|", "\\|")
    if not said:
        return ""
    fence = "`" * (max((len(run) for run in re.findall(r"`+", said)), default=0) + 1)
    pad = " " if said.startswith("`") or said.endswith("`") else ""
    return f"{fence}{pad}{said}{pad}{fence}"


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """The lines of a table; numbers stand to the right. Cells must be safe already, see cell()."""
    body = [list(row) for row in rows]
    if not body:
        return []
    right = [
        all(isinstance(row[n], (int, float)) or row[n] is None for row in body) for n in range(len(columns))
    ]
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---:" if r else "---" for r in right) + "|"]
    return lines + ["| " + " | ".join(_number(value) for value in row) + " |" for row in body]


def block(value: str) -> list[str]:
    """A code block, fenced so that nothing in it can end it."""
    fence = "`" * max(3, max((len(run) for run in re.findall(r"`+", value)), default=0) + 1)
    return [f"{fence}text", *value.splitlines(), fence]


def cell(column: str, value: Any) -> object:
    """A value for a table: paths and names as code, numbers as numbers."""
    if value is None or isinstance(value, (int, float)):
        return value
    return code(value) if column in ("path", "file", "name", "others") else text(value)


def _number(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.1f}" if isinstance(value, float) else str(value)
