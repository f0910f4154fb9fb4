"""Moves of tasks as they happen: a line each, followed for as long as somebody looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ai_infra.core.ids import AgentName, TaskId, WorkflowId
from ai_infra.dashboard.ink import Line, Style, ink, join
from ai_infra.dashboard.live import patiently
from ai_infra.dashboard.words import clock, state_line, state_word
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import TERMINAL, TaskView
from ai_infra.tasks.views import Event

BLOCK_S = 60.0  #: the longest sleep in Redis without a move
BATCH = 500  #: entries read at once
_TRIES = 5  #: to read a task while nothing moves
_MOVE_CELLS = 27  #: "in progress → ✓ completed" and a little more

Show = Callable[[Event], None]
Say = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Which moves to show; None: whatever it is."""

    task: TaskId | None = None
    workflow: WorkflowId | None = None
    agent: AgentName | None = None

    def has(self, event: Event) -> bool:
        """Whether this move is one of them."""
        return (
            self.task in (None, event.task)
            and self.workflow in (None, event.workflow)
            and self.agent in (None, event.agent)
        )


async def follow_moves(engine: Engine, wanted: Wanted, show: Show, say: Say) -> TaskView | None:
    """Show every move from now on; of a single task first its state, and return it when it has ended.

    A Redis that is away is waited for, and what moved meanwhile is shown then. Raises ConnectorUnavailable
    when it stays away (see live.PATIENCE_S).
    """
    last, view = await _begin(engine, wanted.task)
    if view is not None:
        show(as_it_stands(view))
    while view is None or view.state not in TERMINAL:
        events, missed = await patiently(lambda after=last: _next(engine, after), say)  # type: ignore[misc]
        if missed:
            say("moves came faster than they were read; some are not shown")
        for event in events:
            if wanted.has(event):
                show(event)
        last = events[-1].id if events else last
        if wanted.task is not None and (not events or any(e.task == wanted.task for e in events)):
            view = await patiently(lambda: engine.get(wanted.task or TaskId("")), say)
    return view


async def _next(engine: Engine, after: str) -> tuple[list[Event], bool]:
    """The next moves, and whether some before them are lost: the stream holds the newest ones only."""
    events = await engine.events(after, BLOCK_S, BATCH)
    lags = len(events) >= BATCH and after != "0-0"
    return events, lags and await engine.has_forgotten(after)


async def _begin(engine: Engine, task: TaskId | None) -> tuple[str, TaskView | None]:
    """The end of the stream, and the task as it stands there."""
    last = await engine.last_event_id()
    if task is None:
        return last, None
    for _ in range(_TRIES):
        view, before, last = await engine.get(task), last, await engine.last_event_id()
        if last == before:
            break
    return before, view


def as_it_stands(view: TaskView) -> Event:
    """A task's state as a move from that state to itself."""
    moments = (view.created_at, view.ready_at, view.started_at, view.finished_at)
    return Event(
        id="",
        task=view.id,
        workflow=view.spec.workflow,
        name=view.name,
        agent=view.agent,
        from_state=view.state,
        to_state=view.state,
        attempt=view.attempt,
        worker=view.worker,
        reason=view.error or "",
        at=max(at for at in moments if at is not None),
    )


def move_line(event: Event) -> Line:
    """When, which task, from what to what, why; not cut."""
    before = state_word(event.from_state) if event.from_state else "new"
    arrow = ink("" if event.from_state == event.to_state else f"{before} → ", Style.DIM)
    return join(
        [
            ink(clock(event.at), Style.DIM),
            ink(event.task, Style.DIM),
            (arrow + state_line(event.to_state)).pad(_MOVE_CELLS),
            ink(event.name, Style.BOLD),
            ink(event.agent, Style.DIM),
            ink(f"attempt {event.attempt}" if event.attempt else "", Style.DIM),
            ink(event.reason.partition("\n")[0]),
        ]
    )
