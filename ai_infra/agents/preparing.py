"""Preparing: what comes before an attempt's first command: what others handed in, texts filled with it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ai_infra.core.errors import NotFound
from ai_infra.core.ids import TaskId
from ai_infra.tasks.task import TaskSpec, TaskView

Upstreams = Callable[[Sequence[TaskId]], Awaitable[Sequence[TaskView | None]]]


class Looking(Protocol):
    """The part of the engine that is asked."""

    async def get(self, task: TaskId) -> TaskView: ...
    async def get_many(self, tasks: Sequence[TaskId]) -> list[TaskView]: ...


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """What is to be run."""

    spec: TaskSpec
    inputs: Mapping[str, Any] | None = None  #: of the upstreams; None: it has none
    undone: Mapping[str, Any] | None = (
        None  #: the step that an undo task takes back; None: not kept any longer
    )
    skipped: str | None = None  #: why it is not to be run at all


async def look_at(engine: Looking, tasks: Sequence[TaskId]) -> list[TaskView | None]:
    """The tasks as they stand; None for one that is not kept any longer."""
    try:
        return [*await engine.get_many(tasks)]
    except NotFound:
        return [await _find(engine, task) for task in tasks]


async def _find(engine: Looking, task: TaskId) -> TaskView | None:
    try:
        return await engine.get(task)
    except NotFound:
        return None


async def prepare(spec: TaskSpec, upstreams: Upstreams, ended: asyncio.Event) -> Prepared | None:
    """What to run, or None when the attempt was ended meanwhile.

    Raises late.NotFit: with what the upstreams handed in it cannot be run.
    """
    if spec.undo_of is None and not spec.inputs and spec.values is None:
        return Prepared(spec=spec)
    looked_at = (*(spec.needs if spec.inputs else ()), *([] if spec.undo_of is None else [spec.undo_of]))
    views = await _until_ended(upstreams(looked_at), ended) if looked_at else []
    if views is None:
        return None
    undone = None if spec.undo_of is None else _told(views[-1])
    if not spec.inputs and spec.values is None:
        return Prepared(spec=spec, undone=undone)
    from ai_infra.tasks.late import filled, inputs_of, names_for, skipped  # most tasks need none of it

    inputs = inputs_of(spec, views)
    names = names_for(spec, inputs)
    why = skipped(spec, names)
    if why is not None:
        return Prepared(spec=spec, skipped=why)
    return Prepared(spec=filled(spec, names), inputs=inputs if spec.inputs else None, undone=undone)


def _told(step: TaskView | None) -> dict[str, Any] | None:
    """What the commands that undo a step hear of it."""
    return None if step is None else {"task": step.id, "state": step.state.value, "result": step.result}


async def _until_ended(
    looking: Awaitable[Sequence[TaskView | None]], ended: asyncio.Event
) -> Sequence[TaskView | None] | None:
    look = asyncio.ensure_future(looking)
    stop = asyncio.create_task(ended.wait(), name="ended")
    _, pending = await asyncio.wait({look, stop}, return_when=asyncio.FIRST_COMPLETED)
    for task in pending:
        task.cancel()
    return look.result() if look.done() and not look.cancelled() else None
