"""Tables: the session, tasks and workflows, one a line, fitted to a width. Pure.

Without colour the words say the same. One task in detail and a workflow's tree, which this module names as
well, are in detail.py and tree.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from ai_infra.dashboard.detail import task_detail
from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.header import header
from ai_infra.dashboard.ink import Line, Page, Style, ink
from ai_infra.dashboard.tree import progress, workflow_tree
from ai_infra.dashboard.undone import undo_word
from ai_infra.dashboard.waiting import kept_back
from ai_infra.dashboard.windows import windows
from ai_infra.dashboard.words import duration, state_line, task_line
from ai_infra.supervisor.snapshot import Snapshot
from ai_infra.tasks.task import ACTIVE, TERMINAL, State, TaskView, WorkflowView

__all__ = ["status_table", "task_detail", "task_table", "workflow_table", "workflow_tree"]


def status_table(snapshot: Snapshot, width: int = 80) -> Page:
    """What `ai-infra status` prints."""
    return Page((*header(snapshot, width), Line(), *windows(snapshot, width)))


def task_table(tasks: Sequence[TaskView], width: int = 80, *, now: datetime | None = None) -> Page:
    """One task a line, in the order given."""
    at = now or datetime.now(UTC)

    def column(
        title: str,
        cell: Callable[[TaskView], Line],
        *,
        goes: int = 0,
        right: bool = False,
        shrink_to: int | None = None,
    ) -> Column:
        cells = [cell(task) for task in tasks]
        return Column(title=title, cells=cells, priority=goes, right=right, shrink_to=shrink_to)

    columns = [
        column("id", lambda t: ink(t.id)),
        column("state", lambda t: task_line(t)),
        column("name", lambda t: ink(t.name, Style.BOLD), shrink_to=10),
        column("agent", lambda t: ink(t.agent), goes=2),
        column("attempt", _attempt, goes=4, right=True),
        column("took", lambda t: ink(duration(_took_s(t, at))), goes=3, right=True),
        column("age", lambda t: ink(duration((at - t.created_at).total_seconds())), goes=5, right=True),
        column("workflow", lambda t: ink(t.spec.workflow or "", Style.DIM), goes=6),
        column("waits for", lambda t: ink(kept_back(t, at), Style.WARN), goes=1, shrink_to=14),
        column("deadline", lambda t: ink(_left(t, at), Style.DIM), goes=4),
        column("error", _error, goes=1, shrink_to=14),
    ]
    return Page(tuple(grid(columns, width) if tasks else [ink("no tasks", Style.DIM)]))


def _attempt(task: TaskView) -> Line:
    return ink(f"{task.attempt}/{task.last_attempt}" if task.attempt else "")


def _error(task: TaskView) -> Line:
    """A task that succeeded in the end is not reproached with what went before."""
    return ink("" if task.state is State.COMPLETED else task.error or "", Style.BAD)


def _left(task: TaskView, now: datetime) -> str:
    """What is left of an open task's deadline."""
    at = task.spec.deadline_at
    if at is None or task.state in TERMINAL:
        return ""
    return duration(max(0.0, (at - now).total_seconds()))


def _took_s(task: TaskView, now: datetime) -> float | None:
    """How long the last attempt ran, or has run so far."""
    if task.started_at is None or task.state not in ACTIVE | TERMINAL:
        return None
    return ((task.finished_at or now) - task.started_at).total_seconds()


def workflow_table(workflows: Sequence[WorkflowView], width: int = 80) -> Page:
    """One workflow a line, in the order given."""

    def column(
        title: str, cell: Callable[[WorkflowView], Line], *, goes: int = 0, shrink_to: int | None = None
    ) -> Column:
        cells = [cell(view) for view in workflows]
        return Column(title=title, cells=cells, priority=goes, shrink_to=shrink_to)

    columns = [
        column("id", lambda v: ink(v.header.id)),
        column("name", lambda v: ink(v.header.name, Style.BOLD), shrink_to=12),
        column("state", lambda v: state_line(v.state)),
        column("done", lambda v: progress(v, 10), goes=1),
        column("paused", lambda v: ink(v.paused, Style.WARN), shrink_to=12),
        column("failed", lambda v: ink(v.counts.get(State.FAILED) or "", Style.BAD), goes=2),
        column("undo", lambda v: ink(undo_word(v), Style.WARN), goes=2),
        column("by", lambda v: ink(v.header.submitted_by, Style.DIM), goes=4),
        column("description", lambda v: ink(v.header.description), goes=3, shrink_to=16),
    ]
    return Page(tuple(grid(columns, width) if workflows else [ink("no workflows", Style.DIM)]))
