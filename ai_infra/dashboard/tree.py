"""The tree of a workflow: each task once, under the upstream it waits for longest. Pure.

A DAG is no tree: what else a task needs is written after its name. Neither a chain of thousands of tasks
nor a cycle (which the engine never accepts) can break the drawing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ai_infra.core.ids import TaskId
from ai_infra.dashboard.ink import Line, Page, Style, ink, join
from ai_infra.dashboard.undone import undo_lines, undo_word
from ai_infra.dashboard.waiting import deadline_words, kept_back
from ai_infra.dashboard.words import bar, duration, state_line, task_line
from ai_infra.tasks.task import ACTIVE, TERMINAL, State, TaskView, WorkflowView

MAX_DEPTH = 8  #: of indentation; deeper tasks stand below each other
_URGENT = (State.IN_PROGRESS, State.ASSIGNED, State.FAILED, State.READY, State.PENDING, State.BLOCKED)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a task stands in the tree."""

    task: TaskView
    before: str  #: branches before its name
    below: str  #: branches that go on below it
    also: str  #: what else it needs, in words


def workflow_tree(
    view: WorkflowView, width: int = 80, *, height: int | None = None, now: datetime | None = None
) -> Page:
    """The workflow's head, and a line per task with its error below; within `height` lines, if given."""
    at = now or datetime.now(UTC)
    drawn = [(place.task, _task_lines(place, at, width)) for place in _placed(view.tasks)]
    lines = [workflow_head(view, width, at), *undo_lines(view, width)]
    if height is None or len(lines) + sum(len(of_task) for _, of_task in drawn) <= height:
        return Page((*lines, *(line for _, of_task in drawn for line in of_task)))
    kept = _kept(drawn, max(0, height - 1 - len(lines)))
    lines += [line for i, (_, of_task) in enumerate(drawn) if i in kept for line in of_task]
    lines.append(ink(f"… {len(drawn) - len(kept)} more tasks", Style.DIM))
    return Page(tuple(lines[:height]))


def workflow_head(view: WorkflowView, width: int, now: datetime) -> Line:
    """Name, state, how much is done, for how long."""
    failed = view.counts.get(State.FAILED, 0)
    parts = [
        ink(view.header.name, Style.BOLD),
        state_line(view.state),
        ink(f"paused: {view.paused}" if view.paused and view.state not in TERMINAL else "", Style.WARN),
        progress(view),
        ink(f"{failed} failed" if failed else "", Style.BAD),
        ink("" if view.tasks else undo_word(view), Style.WARN),  # with its tasks more is said below
        ink(duration(_took_s(view, now))),
        ink(view.header.id, Style.DIM),
    ]
    return join(parts).cut(width)


def progress(view: WorkflowView, width: int = 20) -> Line:
    """A bar, and how many of how many have ended."""
    ended, total = sum(view.counts.get(state, 0) for state in TERMINAL), sum(view.counts.values())
    style = Style.BAD if view.counts.get(State.FAILED) else Style.GOOD
    return join([ink(bar(ended, total, width), style), ink(f"{ended}/{total}")], " ")


def _took_s(view: WorkflowView, now: datetime) -> float | None:
    if not view.tasks:
        return None
    ends = [task.finished_at for task in view.tasks]
    end = max((at for at in ends if at is not None), default=now) if view.ended else now
    return (end - min(task.created_at for task in view.tasks)).total_seconds()


def _task_lines(place: Place, now: datetime, width: int) -> list[Line]:
    task = place.task
    took = (task.finished_at or now) - task.started_at if task.started_at else None
    ran = took is not None and task.state in ACTIVE | TERMINAL
    parts = [
        ink(task.name, Style.BOLD),
        ink(task.agent, Style.DIM),
        task_line(task),
        ink(duration(took.total_seconds()) if took is not None and ran else ""),
        ink(f"attempt {task.attempt} of {task.last_attempt}" if task.attempt > 1 else "", Style.WARN),
        ink(kept_back(task, now), Style.WARN),
        ink(_deadline(task, now), Style.DIM),
        ink(place.also, Style.DIM),
    ]
    lines = [ink(place.before, Style.DIM) + join(parts)]
    if task.error and task.state is not State.COMPLETED:
        first = task.error.strip().partition("\n")[0]
        style = Style.BAD if task.state is State.FAILED else Style.WARN
        lines.append(ink(f"{place.below}  ", Style.DIM) + ink(first, style))
    return [line.cut(width) for line in lines]


def _deadline(task: TaskView, now: datetime) -> str:
    return (
        f"deadline {deadline_words(task, now)}"
        if task.spec.deadline_at and task.state not in TERMINAL
        else ""
    )


def _kept(drawn: Sequence[tuple[TaskView, list[Line]]], room: int) -> set[int]:
    """Which tasks to show when not all fit: first what runs or failed, then what is to come."""
    rank = {state: i for i, state in enumerate(_URGENT)}
    kept: set[int] = set()
    for i in sorted(range(len(drawn)), key=lambda i: (rank.get(drawn[i][0].state, len(rank)), i)):
        room -= len(drawn[i][1])
        if room < 0:
            break
        kept.add(i)
    return kept


def _placed(tasks: Sequence[TaskView]) -> Iterator[Place]:
    """Each task, in the order of the tree."""
    by_id = {task.id: task for task in tasks}
    depth = _depths(by_id)
    children: dict[str, list[TaskView]] = {}
    for task in tasks:
        children.setdefault(_parent(task, by_id, depth), []).append(task)
    stack = [(task, "", "") for task in reversed(children.get("", []))]
    while stack:
        task, prefix, below = stack.pop()
        yield Place(task=task, before=prefix, below=below, also=_also(task, by_id, depth))
        kids = children.get(task.id, [])
        for kid in reversed(kids):
            last = kid is kids[-1]
            deep = len(below) >= 3 * MAX_DEPTH
            branch, after = ("", "") if deep else ("└─ ", "   ") if last else ("├─ ", "│  ")
            stack.append((kid, below + branch, below + after))


def _depths(by_id: Mapping[TaskId, TaskView]) -> dict[TaskId, int]:
    """The length of the longest way to each task; upstreams outside the workflow do not count."""
    depth: dict[TaskId, int] = {}
    waiting = {task.id: len([n for n in task.spec.needs if n in by_id]) for task in by_id.values()}
    dependants: dict[TaskId, list[TaskId]] = {}
    for task in by_id.values():
        for need in task.spec.needs:
            dependants.setdefault(need, []).append(task.id)
    ready = [name for name, count in waiting.items() if count == 0]
    for name in ready:  # grows while we go
        depth.setdefault(name, 0)
        for dependant in dependants.get(name, []):
            depth[dependant] = max(depth.get(dependant, 0), depth[name] + 1)
            waiting[dependant] -= 1
            if waiting[dependant] == 0:
                ready.append(dependant)
    return {name: depth[name] for name in ready}


def _parent(task: TaskView, by_id: Mapping[TaskId, TaskView], depth: Mapping[TaskId, int]) -> str:
    """The deepest upstream; "" for a root, and for a task of a cycle."""
    known = [need for need in task.spec.needs if need in by_id]
    return max(known, key=lambda need: depth[need]) if known and task.id in depth else ""


def _also(task: TaskView, by_id: Mapping[TaskId, TaskView], depth: Mapping[TaskId, int]) -> str:
    if task.spec.undo_of is not None:
        return ""  # the one before it says all; the others have ended
    parent = _parent(task, by_id, depth)
    others = [by_id[n].name if n in by_id else str(n) for n in task.spec.needs if n != parent]
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    return f"and needs {', '.join(others[:4])}{more}" if others and parent else ""
