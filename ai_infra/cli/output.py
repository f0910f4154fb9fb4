"""What every command shares: JSON or text, errors in one line, exit codes by name."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from enum import Enum
from typing import Any, TypeVar

import click

T = TypeVar("T")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The only place where a command enters the event loop."""
    import asyncio

    return asyncio.run(work)


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json.dumps(plain(value), indent=2, ensure_ascii=False))


def plain(value: object) -> Any:
    """Dataclasses, enums and times as JSON has them; times as ISO 8601 in UTC."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, Mapping):
        return {str(plain(key)): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    return value


def show(page: object) -> None:
    """Print a page of the dashboard; in colour where somebody looks and NO_COLOR is not set."""
    click.echo(page.text(colour=in_colour()))  # type: ignore[attr-defined]  # every page has text()


def in_colour() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def width() -> int:
    """Columns to draw in: the terminal's, or 120 where there is none."""
    return shutil.get_terminal_size((120, 40)).columns


def examples(*lines: str) -> Callable[[T], T]:
    """End a command's help with examples; a test runs each of them with --help appended."""

    def add(command: T) -> T:
        text = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        command.epilog = text  # type: ignore[attr-defined]  # a click command
        return command

    return add
