"""Following a workflow: its tree drawn in place on a terminal, a line per move anywhere else."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from ai_infra.core.errors import ConnectorUnavailable
from ai_infra.dashboard.ink import Style, ink, join, wants_colour
from ai_infra.dashboard.logs import print_out
from ai_infra.dashboard.screen import Block
from ai_infra.dashboard.tree import workflow_head, workflow_tree
from ai_infra.dashboard.undone import undo_lines
from ai_infra.dashboard.words import clock, duration, task_line
from ai_infra.tasks.task import TERMINAL, State, TaskView, WorkflowView

T = TypeVar("T")
Read = Callable[[], Awaitable[WorkflowView]]
Changes = Callable[[float], Awaitable[object]]

TICK_S = 1.0  #: running durations on a terminal grow so often
LOOK_S = 5.0  #: elsewhere: the longest wait for a change
PAUSE_S = 0.1  #: between two looks, however much happens
PATIENCE_S = 60.0  #: so long a silent Redis is waited for
_AWAY_RETRY_S = 0.5


class View(Protocol):
    """How a workflow is shown while it runs."""

    def show(self, view: WorkflowView) -> None:
        """It may have changed."""

    def finish(self, view: WorkflowView) -> None:
        """It ended, or nobody waits for it any longer."""

    def say(self, text: str) -> None:
        """Something about the following itself."""


async def follow_workflow(
    read: Read,
    changes: Changes,
    stop: asyncio.Event | None = None,
    *,
    tty: bool | None = None,
    colour: bool | None = None,
    view: View | None = None,
) -> WorkflowView:
    """Show the workflow until it ends or `stop` is set; the last view of it.

    `changes(seconds)` returns at any move of a task, at the latest after that time.
    Raises ConnectorUnavailable when Redis stays silent for PATIENCE_S.
    """
    on_terminal = sys.stdout.isatty() if tty is None else tty
    coloured = wants_colour(on_terminal) if colour is None else colour
    view = view or (TreeView(colour=coloured) if on_terminal else MovesView(colour=coloured))
    tick_s = TICK_S if on_terminal else LOOK_S
    while True:
        found = await patiently(read, view.say)
        if found.ended or (stop is not None and stop.is_set()):
            view.finish(found)
            return found
        view.show(found)
        await _wait(changes, tick_s, stop)


async def patiently(read: Callable[[], Awaitable[T]], say: Callable[[str], None]) -> T:
    """Read, waiting for a Redis that is away: it is started again meanwhile.

    Raises ConnectorUnavailable when it stays silent for PATIENCE_S.
    """
    deadline = time.monotonic() + PATIENCE_S
    said = False
    while True:
        try:
            return await read()
        except ConnectorUnavailable:
            if time.monotonic() > deadline:
                raise
            if not said:
                say("Redis does not answer; the work goes on when it is back")
                said = True
            await asyncio.sleep(_AWAY_RETRY_S)


async def _wait(changes: Changes, seconds: float, stop: asyncio.Event | None) -> None:
    """Until something moves, the time is up, or `stop`."""
    waits = [asyncio.ensure_future(_changed(changes, seconds))]
    if stop is not None:
        waits.append(asyncio.ensure_future(_set(stop)))
    try:
        ended, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    for wait in ended:
        wait.result()
    await asyncio.sleep(PAUSE_S)


async def _changed(changes: Changes, seconds: float) -> None:
    with contextlib.suppress(ConnectorUnavailable):  # the next read waits for it
        await changes(seconds)


async def _set(event: asyncio.Event) -> None:
    await event.wait()


class TreeView:
    """The tree, drawn in place; at the end all of it."""

    def __init__(self, block: Block | None = None, *, colour: bool = True) -> None:
        self._block = block or Block(sys.stdout.fileno(), colour=colour)

    def show(self, view: WorkflowView) -> None:
        """Draw as much as the terminal has room for."""
        width, height = self._block.size
        self._block.draw(workflow_tree(view, width, height=height).lines)

    def finish(self, view: WorkflowView) -> None:
        """Draw all of it."""
        self._block.draw(workflow_tree(view, self._block.size[0]).lines)

    def say(self, text: str) -> None:
        """Instead of the tree, until it can be read again."""
        self._block.draw([ink(text, Style.WARN)])


class MovesView:
    """A line for every task that moved."""

    def __init__(self, emit: Callable[[str], None] | None = None, *, colour: bool = False) -> None:
        self._emit, self._colour = emit or print_out, colour
        self._seen: Mapping[str, tuple[State, int]] | None = None
        self._paused = ""

    def show(self, view: WorkflowView) -> None:
        """Print what moved since the last look; at the first look, what is not waiting."""
        if self._seen is None:
            self._head(view)
        if view.paused != self._paused:
            self._paused = view.paused
            self._emit(f"paused: {view.paused}" if view.paused else "goes on")
        seen = self._seen or {}
        for task in view.tasks:
            before = seen.get(task.id)
            waits = task.attempt == 0 and task.state in (State.BLOCKED, State.READY, State.PENDING)
            if before != (task.state, task.attempt) and not waits:
                self._emit(move_text(task, colour=self._colour))
        self._seen = {task.id: (task.state, task.attempt) for task in view.tasks}

    def finish(self, view: WorkflowView) -> None:
        """The last moves, and how it ended."""
        self.show(view)
        self._head(view)
        for line in undo_lines(view, 200):
            self._emit(line.text(colour=self._colour))

    def say(self, text: str) -> None:
        """A line of its own."""
        self._emit(text)

    def _head(self, view: WorkflowView) -> None:
        self._emit(workflow_head(view, 200, datetime.now(UTC)).text(colour=self._colour))


def move_text(task: TaskView, *, colour: bool = False) -> str:
    """What a task just did, in one line."""
    at = {State.IN_PROGRESS: task.started_at}.get(task.state, task.finished_at) or datetime.now(UTC)
    took = task.finished_at - task.started_at if task.finished_at and task.started_at else None
    parts = [
        ink(clock(at), Style.DIM),
        task_line(task),
        ink(task.name, Style.BOLD),
        ink(task.agent, Style.DIM),
        ink("will be tried again" if task.state is State.PENDING else ""),
        ink(duration(took.total_seconds()) if took is not None and task.state in TERMINAL else ""),
        ink(f"attempt {task.attempt} of {task.last_attempt}" if task.attempt > 1 else "", Style.WARN),
        ink(task.error.partition("\n")[0] if task.error and task.state is not State.COMPLETED else ""),
    ]
    return join(parts).text(colour=colour)
