"""What a task waits for, in words: upstreams, a lock, a pause, a rate, its time. Pure."""

from __future__ import annotations

from datetime import datetime

from ai_infra.dashboard.words import clock, duration
from ai_infra.tasks.task import OPEN, State, TaskView

MAX_NAMED = 5


def kept_back(task: TaskView, now: datetime) -> str:
    """What keeps a task that waits for no upstream from running; "" where nothing special does."""
    if task.state is State.PENDING:
        return f"due {due(task.due_at, now)}" if task.due_at is not None else ""
    if task.state is not State.READY:
        return ""
    kind, _, name = task.kept_by.partition(" ")
    match kind:
        case "lock":
            return f"lock {name}, held by {task.kept_why}" if task.kept_why else f"lock {name}, just freed"
        case "flow":
            return f"workflow paused: {task.kept_why}"
        case "agent":
            return f"{task.agent} paused: {task.kept_why}"
        case "rate":
            return f"rate of {task.agent}, next {due(task.due_at, now)}"
        case _:
            return ""


def waits_for(task: TaskView, now: datetime) -> str:
    """Why an open task does not run, in one line; "" for one that runs."""
    if task.state is State.BLOCKED:
        named = ", ".join(task.waits[:MAX_NAMED]) + (" …" if len(task.waits) > MAX_NAMED else "")
        return f"waits for {task.open_needs} of {len(task.spec.needs)} upstreams: {named}"
    if task.state is State.PENDING and task.attempt:
        at = kept_back(task, now)
        return f"waits to be tried again{f' ({at})' if at else ''} after: {task.error or 'a failed attempt'}"
    if task.state is State.PENDING:
        at = kept_back(task, now)
        return f"waits for its time: {at}" if at else "held until its submit is complete"
    if task.state is State.READY:
        what = kept_back(task, now) or f"a free worker of {task.agent}"
        return f"waits for {what}" if task.kept_by[:4] not in ("flow", "agen") else what
    return ""


def deadline_words(task: TaskView, now: datetime) -> str:
    """How long an open task has left, or had; "" for one without a deadline."""
    at = task.spec.deadline_at
    if at is None:
        return ""
    return due(at, now) if task.state in OPEN else _when(at, now)


def due(at: datetime | None, now: datetime) -> str:
    """ "in 5m00s, at 08:00:00"; "now" for what has passed."""
    if at is None:
        return ""
    left_s = (at - now).total_seconds()
    return f"in {duration(left_s)}, at {_when(at, now)}" if left_s > 0 else "now"


def _when(at: datetime, now: datetime) -> str:
    here, today = at.astimezone(), now.astimezone().date()
    if here.date() == today:
        return clock(at)
    return f"{here:%d %b %H:%M}" if here.year == today.year else f"{here:%d %b %Y %H:%M}"
