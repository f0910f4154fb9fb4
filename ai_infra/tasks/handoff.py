"""Handing a task over: another agent owns it from then on, with its number of attempts and all that needs it.

A task that waits moves in one call. One that runs is stopped at its worker first, as when that process
drains: asked, then killed after the grace; the run counts against no limit, and the task goes to the other
agent in the call that gives it back, so it is never in two hands. Should the worker die instead, that moves
it as well.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from ai_infra.core.errors import Conflict, DeadlinePassed
from ai_infra.core.ids import AgentName, TaskId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.spec import dump_spec
from ai_infra.tasks.task import ACTIVE, TERMINAL, TaskView
from ai_infra.tasks.undo import undo_payload

_ASK_AGAIN_S = 2.0  #: a notice may be lost with its connection


async def hand_over(engine: Engine, task: TaskId, agent: AgentName, timeout_s: float) -> TaskView:
    """Make `agent` the owner of a task that has not ended; the task as it stands then. Twice is safe.

    Raises Conflict (it has ended, or is being cancelled), NotFound, DeadlinePassed (its worker did not stop
    it in time; it is still handed over when it does).
    """
    try:
        async with asyncio.timeout(timeout_s):
            after = await engine.last_event_id()
            while not await _hand_over(engine, task, agent):
                after = await _next_move(engine, task, after)
    except TimeoutError:
        raise DeadlinePassed(
            f"task {task} still runs after {timeout_s:g} s; it goes to {agent} when its worker stops it"
        ) from None
    return await engine.get(task)


async def _hand_over(engine: Engine, task: TaskId, agent: AgentName) -> bool:
    """Whether it is done; else its worker was asked to stop it."""
    view = await engine.get(task)
    moved = replace(view.spec, agent=agent)
    undo = undo_payload(moved) if moved.undo else ""
    words = (task, view.spec.agent, agent, dump_spec(moved), undo)
    try:
        return bool(await engine.connection.call("handoff", *words) == "done")
    except Conflict:
        now = await engine.get(task)
        if now.spec.agent == view.spec.agent or now.state in TERMINAL:
            raise
        return False  # somebody else has handed it over in between: look again


async def _next_move(engine: Engine, task: TaskId, after: str) -> str:
    """Wait until the task moves, or it is time to ask again; where the events end then."""
    deadline = asyncio.get_running_loop().time() + _ASK_AGAIN_S
    while (left_s := deadline - asyncio.get_running_loop().time()) > 0:
        events = await engine.events(after, block_s=left_s)
        if not events:
            break
        after = events[-1].id
        if any(event.task == task and event.to_state not in ACTIVE for event in events):
            break
    return after
