"""Undo: taking back what the completed tasks of a workflow did.

When a task of an atomic workflow fails for good or is cancelled, the engine (undo.lua) cancels the rest; when
the last running one has ended, it runs the `undo` commands of every completed task: the last that completed
comes first, one after the other, and one that fails does not stop the others. The same on demand, for any
workflow that has ended. A task that failed itself is undone only with `undo_on_failure`: by default a step
leaves nothing behind when it fails.

The undo task is written here when its step is submitted, and kept with it, so that the engine needs nobody
when the time comes. It runs where its step ran, with the same limits, locks and environment.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from ai_infra.core.ids import TaskId
from ai_infra.tasks.spec import dump_spec, undo_id
from ai_infra.tasks.task import MAX_PRIORITY, OPEN, TERMINAL, NeedsRule, State, TaskSpec, TaskView, Undoing

_GIVEN_UP = "its undo was cancelled"
UNDOABLE, HALF_UNDOABLE = "u", "uf"  #: marks of undo.lua


def undo_spec(spec: TaskSpec) -> TaskSpec:
    """The task that undoes `spec`.

    Its last need is its own id, a place for the undo task that goes before it, which only the engine knows.
    """
    return replace(
        spec,
        id=undo_id(spec.id),
        name=f"undo-{spec.name}",
        description=f"undo {spec.name}",
        run=spec.undo,
        expect=(),
        needs=(*spec.needs, spec.id, undo_id(spec.id)),
        needs_rule=NeedsRule.ALL_DONE,
        priority=MAX_PRIORITY,
        not_before=None,
        deadline_at=None,
        when=None,
        undo=(),
        undo_on_failure=False,
        undo_of=spec.id,
    )


def undo_payload(spec: TaskSpec) -> str:
    """Its stored form; `fill_place` of undo.lua fills the place."""
    return dump_spec(undo_spec(spec))


def undoing(stage: str, why: str, tasks: Sequence[TaskView]) -> Undoing | None:
    """How far the undoing is, by the tasks of the workflow; `stage` as undo.lua has it."""
    if not stage:
        return None
    undos = {task.spec.undo_of: task for task in tasks if task.spec.undo_of is not None}
    names = {task.id: task.name for task in tasks}

    def those(states: frozenset[State]) -> tuple[str, ...]:
        return tuple(_name(of, names) for of, task in undos.items() if of and task.state in states)

    steps = [task for task in tasks if task.spec.undo_of is None]
    without = [task for task in steps if task.id not in undos]
    to_come = [task.name for task in without if _is_to_undo(task)]
    stays = {task.name: reason for task in steps if (reason := _kept(task, undos.get(task.id)))}
    if stage == "made" and all(task.state in TERMINAL for task in tasks):  # a person ended it
        stays, to_come = stays | dict.fromkeys(to_come, _GIVEN_UP), []
    return Undoing(
        why=why,
        begun=stage == "made",
        undone=those(frozenset({State.COMPLETED})),
        waiting=(*those(OPEN), *to_come),
        not_undone=stays,
        half_done=tuple(task.name for task in without if _is_half_done(task) and not _is_to_undo(task)),
    )


def _name(task: TaskId, names: dict[TaskId, str]) -> str:
    return names.get(task, task)


def _kept(task: TaskView, undo: TaskView | None) -> str:
    """Why the effect of a task stays; "" when it does not, or there is none."""
    if undo is not None:
        first = (undo.error or "").strip().partition("\n")[0]
        if undo.state is State.FAILED:
            return f"its undo failed: {first}"
        return _GIVEN_UP if undo.state is State.CANCELLED else ""
    done = task.state is State.COMPLETED and not _was_skipped(task)
    return "has no undo" if done and not task.spec.undo else ""


def _was_skipped(task: TaskView) -> bool:
    return (task.result or {}).get("skipped") is True


def _is_to_undo(task: TaskView) -> bool:
    """Whether it ended so that its undo commands are run: what `cs` says in undo.lua."""
    if task.state is State.COMPLETED:
        return bool(task.spec.undo) and not _was_skipped(task)
    return task.spec.undo_on_failure and _is_half_done(task)


def _is_half_done(task: TaskView) -> bool:
    return task.state in (State.FAILED, State.CANCELLED) and task.started_at is not None
