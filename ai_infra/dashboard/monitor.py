"""The monitor window: the session, its tasks and events, drawn again as they change; runs for days."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from ai_infra.core.errors import AiInfraError
from ai_infra.dashboard.header import banner, header
from ai_infra.dashboard.ink import Line, Style, ink, join, wants_colour
from ai_infra.dashboard.logs import entry_line
from ai_infra.dashboard.machine import Machine
from ai_infra.dashboard.screen import Screen
from ai_infra.dashboard.tree import workflow_head
from ai_infra.dashboard.windows import windows
from ai_infra.dashboard.words import clock, duration, state_line
from ai_infra.supervisor.snapshot import Snapshot
from ai_infra.tasks.task import TERMINAL, State, TaskView, WorkflowView

ROOMY_LINES = 10  #: left below the table: enough for titles and empty lines


@dataclass(frozen=True, kw_only=True)
class MonitorData:
    """What one frame shows."""

    snapshot: Snapshot
    tasks: tuple[TaskView, ...] = ()  #: running now, and those that ended last
    workflows: tuple[WorkflowView, ...] = ()  #: in progress, newest first
    events: tuple[Mapping[str, Any], ...] = ()  #: log entries, oldest first (logs.Recent)
    machine: Machine | None = None


Read = Callable[[], Awaitable[MonitorData]]


async def run_monitor(
    read: Read, stop: asyncio.Event, *, refresh_s: float = 2.0, screen: Screen | None = None
) -> None:
    """Draw until `stop`. When `read` fails, the last frame stays under a banner with the reason."""
    screen = screen or Screen(sys.stdout.fileno(), colour=wants_colour(sys.stdout.isatty()))
    data: MonitorData | None = None
    with screen, _resizes() as resized:
        while not stop.is_set():
            trouble = ""
            try:
                data = await read()
            except AiInfraError as exc:
                trouble = str(exc)
            screen.draw(frame(data, *screen.size, trouble=trouble))
            await _pause(refresh_s, stop, resized)
            resized.clear()


@contextlib.contextmanager
def _resizes() -> Iterator[asyncio.Event]:
    """An event that is set whenever the window changes its size."""
    resized, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGWINCH, resized.set)
    try:
        yield resized
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)


async def _pause(seconds: float, *events: asyncio.Event) -> None:
    """Sleep until one of the events is set, at most so long."""
    waits = [asyncio.create_task(event.wait(), name="monitor") for event in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


def frame(data: MonitorData | None, width: int, height: int, *, trouble: str = "") -> list[Line]:
    """At most `height` lines of at most `width` cells; what matters most comes first. Pure."""
    red = banner([trouble], width) if trouble else []
    if data is None:
        return (red or [ink("reading …", Style.DIM)])[:height]
    at = datetime.fromtimestamp(data.snapshot.at, UTC)
    top = [*red, *_clocked(header(data.snapshot, width, data.machine), at, width)]
    table = windows(data.snapshot, width, data.tasks)
    roomy = height - len(top) - len(table) > ROOMY_LINES
    lines = [*top, *([Line()] if roomy else []), *table]
    room = height - len(lines)
    flows = [workflow_head(view, width, at) for view in data.workflows]
    ended = [_ended(task, at, width) for task in _last_ended(data.tasks)]
    lines += _section("workflows", flows, room // 3, roomy)
    lines += _section("ended last", ended, room // 3, roomy)
    lines += _section(
        "events", [entry_line(e, width) for e in data.events], height - len(lines), roomy, last=True
    )
    return lines[:height]


def _clocked(lines: list[Line], at: datetime, width: int) -> list[Line]:
    """The time in the corner: a frame that stands still is seen to."""
    now = ink(clock(at), Style.DIM)
    return [lines[0].pad(width - now.width - 1) + ink(" ") + now, *lines[1:]] if width > 40 else lines


def _section(title: str, lines: Sequence[Line], room: int, roomy: bool, *, last: bool = False) -> list[Line]:
    """A title and as many lines as fit, the first or the last ones; nothing where none fits."""
    head = [Line(), ink(title, Style.DIM)] if roomy else []
    fit = room - len(head)
    if not lines or fit < 1:
        return []
    return [*head, *(lines[-fit:] if last else lines[:fit])]


def _last_ended(tasks: Sequence[TaskView]) -> list[TaskView]:
    ended = [task for task in tasks if task.state in TERMINAL and task.finished_at is not None]
    return sorted(ended, key=lambda task: task.finished_at or task.created_at, reverse=True)


def _ended(task: TaskView, now: datetime, width: int) -> Line:
    finished = task.finished_at or now
    took_s = (finished - task.started_at).total_seconds() if task.started_at else None
    error = task.error if task.error and task.state is not State.COMPLETED else ""
    parts = [
        ink(clock(finished), Style.DIM),
        state_line(task.state),
        ink(task.name, Style.BOLD),
        ink(task.agent, Style.DIM),
        ink(duration(took_s)),
        ink(error.partition("\n")[0], Style.BAD),
    ]
    return join(parts).cut(width)
