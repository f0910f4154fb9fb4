"""What every command shares: JSON or text, errors in one line, exit codes by name."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Coroutine, Mapping, Sequence
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ai_infra.app.command import who
from ai_infra.core.errors import Exit

if TYPE_CHECKING:
    from ai_infra.tasks.task import TaskView

T = TypeVar("T")

#: what JSON leaves as it is and a terminal acts on: C1 controls, separators, changes of direction
_UNPRINTED = re.compile("[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufeff]")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


def run_async(work: Coroutine[Any, Any, T]) -> T:
    """The only place where a command enters the event loop."""
    import asyncio

    return asyncio.run(work)


async def while_somebody_reads(work: Coroutine[Any, Any, T]) -> T:
    """Do what prints now and then.

    BrokenPipeError as soon as the reader of a pipe has gone, not at the next line.
    """
    import asyncio

    working = asyncio.ensure_future(work)
    gone = asyncio.Event()

    def leave() -> None:
        gone.set()
        working.cancel()

    loop = asyncio.get_running_loop()
    fd = _pipe_of(sys.stdout)
    if fd is not None:
        loop.add_reader(
            fd, leave
        )  # the writing end of a pipe has nothing to read: it wakes for an error only
    try:
        return await working
    except asyncio.CancelledError:
        if gone.is_set():
            raise BrokenPipeError from None
        raise
    finally:
        if fd is not None:
            loop.remove_reader(fd)


def _pipe_of(stream: Any) -> int | None:
    try:
        fd: int = stream.fileno()
        return fd if stat.S_ISFIFO(os.fstat(fd).st_mode) else None
    except (OSError, ValueError):
        return None


def by_whom(reason: str) -> str:
    """A reason, with who gave it and when: whoever meets it later knows whom to ask."""
    said = f"{who()}, {datetime.now().astimezone():%d %b %H:%M}"
    return f"{reason} ({said})" if reason else f"by {said}"


def exit_of(views: Sequence[TaskView]) -> Exit:
    """0 if every task is COMPLETED."""
    return Exit.OK if all(view.state == "COMPLETED" for view in views) else Exit.FAILED


def show_task(view: TaskView, as_json: bool) -> None:
    """Print one task in detail."""
    if as_json:
        print_json(view)
        return
    from ai_infra.dashboard.tables import task_detail

    show(task_detail(view, width()))


def print_json(value: object) -> None:
    """One JSON document on stdout."""
    click.echo(json_text(value, indent=2))


def json_text(value: object, indent: int | None = None) -> str:
    """JSON as a terminal may be given it: what could move its cursor is escaped."""
    text = json.dumps(plain(value), indent=indent, ensure_ascii=False)
    return _UNPRINTED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


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


def say(text: str) -> None:
    """A word beside what a command prints."""
    click.echo(f"ai-infra: {text}", err=True)


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
