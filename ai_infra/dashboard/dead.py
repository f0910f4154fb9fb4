"""Dead letters, one a line. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ai_infra.dashboard.clean import clean
from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.ink import Page, Style, ink
from ai_infra.dashboard.words import duration
from ai_infra.tasks.task import TaskView


def dead_table(tasks: Sequence[TaskView], width: int = 80, *, now: datetime | None = None) -> Page:
    """What `ai-infra task dead-letters list` prints: why each failed, its last line, and how to go on."""
    if not tasks:
        return Page((ink("no dead letters", Style.DIM),))
    at = now or datetime.now(UTC)
    ages = [duration((at - task.finished_at).total_seconds()) if task.finished_at else "" for task in tasks]
    columns = [
        Column(title="id", cells=[ink(task.id) for task in tasks]),
        Column(title="name", cells=[ink(task.name, Style.BOLD) for task in tasks], shrink_to=10),
        Column(title="agent", cells=[ink(task.agent) for task in tasks], priority=1),
        Column(title="runs", cells=[ink(task.attempt) for task in tasks], priority=4, right=True),
        Column(title="failed", cells=[ink(age) for age in ages], priority=2, right=True),
        Column(title="reason", cells=[ink(task.error or "", Style.BAD) for task in tasks], shrink_to=20),
        Column(
            title="its last line",
            cells=[ink(_last_line(t), Style.DIM) for t in tasks],
            priority=3,
            shrink_to=16,
        ),
    ]
    hint = f"run one again: ai-infra task retry {tasks[0].id}"
    return Page((*grid(columns, width), ink(hint, Style.DIM).cut(width)))


def _last_line(task: TaskView) -> str:
    lines = str((task.result or {}).get("output_tail") or "").split("\n")
    return clean(next((line for line in reversed(lines) if line.strip()), "")[:200])
