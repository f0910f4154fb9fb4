"""Views: what the engine answers with, and how the server's replies are read.

Replies are positional lists (see `view`, `beat`, `counts` in connectors/engine/); nothing else in this
package knows their order.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.tasks.spec import load_header, load_spec
from ai_infra.tasks.task import Claim, State, TaskView, WorkflowView, workflow_state
from ai_infra.tasks.undo import undoing


@dataclass(frozen=True, kw_only=True)
class Notice:
    """Something a sleeping worker is woken for. Kinds may be added: ignore those you do not know."""

    kind: Literal["task", "cancel"] | str
    claim: Claim | None = None  #: of "task"
    task: TaskId | None = None  #: of "cancel"
    reason: str = ""


@dataclass(frozen=True, kw_only=True)
class Beat:
    """What a process learns from its heartbeat."""

    at: datetime  #: server time
    cancelled: tuple[TaskId, ...]  #: tasks this worker holds that somebody asked to end
    lost: tuple[TaskId, ...]  #: tasks it thought it held and does not any more: stop working on them
    suspects: tuple[str, ...]  #: processes that most of the live ones find silent
    paused: str = ""  #: why the agent of this worker begins no task; "" while it goes on


@dataclass(frozen=True, kw_only=True)
class BeatView:
    """The last heartbeat of a process."""

    payload: Mapping[str, Any]
    at: datetime
    age_s: float


@dataclass(frozen=True, kw_only=True)
class CancelVerdict:
    """What a cancel did."""

    cancelled: tuple[TaskId, ...]  #: ended by this call, dependants included
    requested: tuple[TaskId, ...]  #: running; their workers were told


@dataclass(frozen=True, kw_only=True)
class AgentCounts:
    """How an agent's queue stands, and how the last hour went."""

    ready: int
    active: int
    blocked: int
    delayed: int  #: PENDING: held, or waiting for a retry
    completed: int
    failed: int
    cancelled: int
    idle_workers: int
    paused: str  #: why it begins no task; "" while it goes on
    rate_per_minute: float  #: it begins at most so many tasks a minute; 0: no limit
    hour_done: int
    hour_failed: int
    hour_retried: int
    hour_mean_wait_s: float | None  #: ready until started; None: nothing ended
    hour_mean_duration_s: float | None  #: started until ended


@dataclass(frozen=True, kw_only=True)
class Event:
    """One move of a task."""

    id: str  #: of its entry, which several moves of one call share: pass the last one back to go on after it
    task: TaskId
    workflow: WorkflowId | None
    name: str
    agent: AgentName
    from_state: State | None  #: None: it came into being
    to_state: State
    attempt: int
    worker: WorkerId | None
    reason: str
    at: datetime


def read_time(text: str | int | None) -> datetime | None:
    """The same, where there may be none."""
    return None if text is None else datetime.fromtimestamp(int(text) / 1000, UTC)


def read_instant(text: str | float) -> datetime:
    """A server instant in ms."""
    return datetime.fromtimestamp(int(text) / 1000, UTC)


def read_claim(reply: Sequence[Any], worker: WorkerId) -> Claim:
    """From `as_claim`."""
    attempt, fence, state, spec = reply
    return Claim(spec=load_spec(spec), attempt=attempt, fence=fence, worker=worker, state=State(state))


def read_view(row: Sequence[Any]) -> TaskView:
    """From `view`."""
    spec, state, attempt, worker, created, ready, started, finished, error, result, *rest = row
    waits, excused, deaths, kept_by, kept_why, due = rest
    return TaskView(
        spec=load_spec(spec),
        state=State(state),
        attempt=int(attempt),
        worker=worker,
        created_at=read_instant(created),
        ready_at=read_time(ready),
        started_at=read_time(started),
        finished_at=read_time(finished),
        error=error,
        result=None if result is None else json.loads(result),
        open_needs=len(waits),
        waits=tuple(waits),
        excused=int(excused),
        deaths=int(deaths),
        kept_by=kept_by,
        kept_why=kept_why,
        due_at=read_instant(float(due)) if due else None,
    )


def _pairs(flat: Sequence[Any]) -> dict[str, int]:
    return {flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2)}


def read_workflow(row: Sequence[Any]) -> WorkflowView:
    """From `workflow` (with tasks) and `workflow_row` (without)."""
    counts = {State(name): count for name, count in _pairs(row[1]).items() if count}
    stage, undone_state, why = row[3]
    tasks = tuple(read_view(r) for r in row[4]) if len(row) > 4 else ()
    return WorkflowView(
        header=load_header(row[0]),
        tasks=tasks,
        state=State(undone_state) if stage else workflow_state(counts),
        counts=counts,
        paused=row[2],
        undo=undoing(stage, why, tasks),
    )


def read_counts(row: Sequence[Any]) -> AgentCounts:
    """From `counts`, without the name."""
    n = _pairs(row[0])
    done, failed, retried, wait_ms, run_ms = row[2]
    ended = done + failed + retried
    return AgentCounts(
        ready=row[3],
        active=row[4],
        blocked=n.get("BLOCKED", 0),
        delayed=n.get("PENDING", 0),
        completed=n.get("COMPLETED", 0),
        failed=n.get("FAILED", 0),
        cancelled=n.get("CANCELLED", 0),
        idle_workers=row[1],
        paused=row[5],
        rate_per_minute=round(60_000 / float(row[6]), 6) if float(row[6]) else 0.0,
        hour_done=done,
        hour_failed=failed,
        hour_retried=retried,
        hour_mean_wait_s=wait_ms / ended / 1000 if ended else None,
        hour_mean_duration_s=run_ms / ended / 1000 if ended else None,
    )


def read_events(entry_id: str, flat: Sequence[str]) -> list[Event]:
    """From an entry of the event stream: a field for each move of one call, in order."""
    return [_read_event(entry_id, text) for text in flat[1::2]]


def _read_event(entry_id: str, text: str) -> Event:
    task, workflow, name, agent, from_state, to_state, attempt, worker, reason = text.split("\x1f", 8)
    return Event(
        id=entry_id,
        task=TaskId(task),
        workflow=WorkflowId(workflow) if workflow else None,
        name=name,
        agent=AgentName(agent),
        from_state=State(from_state) if from_state else None,
        to_state=State(to_state),
        attempt=int(attempt),
        worker=WorkerId(worker) if worker else None,
        reason=reason,
        at=read_instant(entry_id.split("-")[0]),
    )


def read_beats(reply: Sequence[Any]) -> dict[str, BeatView]:
    """From `beats`."""
    now = int(reply[0])
    return {
        name: BeatView(payload=json.loads(payload), at=read_instant(at), age_s=(now - int(at)) / 1000)
        for name, at, payload in reply[1:]
    }
