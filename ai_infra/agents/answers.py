"""Answers: what an agent does about a message without a model, by its type and the action it names.

Code answers what code can: whether the agent is there, what it does, which tasks it has; it runs commands as
a task of its own, takes a task over, and shows a note. Everything else is refused, and the reason says why.
"""

from __future__ import annotations

import shlex
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ai_infra.core import ids
from ai_infra.core.errors import AiInfraError, Conflict, ConnectorError
from ai_infra.core.process import Process
from ai_infra.messages.envelope import Envelope, MessageType
from ai_infra.messages.views import Verdict
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.handoff import hand_over
from ai_infra.tasks.task import TERMINAL, TaskSpec, TaskView

HANDOFF_S = 60.0  #: for the worker that has the task to stop it
LISTED = 20
LISTED_CHARS = 300  #: of an error in a list
TAIL_CHARS = 4000


@dataclass(frozen=True, kw_only=True)
class Reply:
    """What an agent says to a message."""

    verdict: Verdict
    reason: str
    data: Any = None  #: of the answer, if one is wanted
    task: ids.TaskId | None = None  #: the answer follows when this task has ended


def refused(reason: str) -> Reply:
    """It will not be done, and why."""
    return Reply(verdict=Verdict.REFUSED, reason=reason)


def accepted(reason: str, data: Any = None) -> Reply:
    """It is done."""
    return Reply(verdict=Verdict.ACCEPTED, reason=reason, data=data)


class Answers:
    """The answers of one life of an agent."""

    def __init__(self, process: Process, engine: Engine) -> None:
        self._process, self._engine = process, engine
        self._me = ids.AgentName(process.name)
        self._by_type: Mapping[MessageType, Callable[[Envelope], Awaitable[Reply]]] = {
            MessageType.QUERY: self._query,
            MessageType.TASK: self._task,
            MessageType.HANDOFF: self._handoff,
            MessageType.HEARTBEAT: self._ping,
        }
        self._actions: Mapping[str, Callable[[Envelope], Awaitable[Reply]]] = {
            "ping": self._ping,
            "status": self._status,
            "tasks": self._tasks,
        }

    async def answer(self, envelope: Envelope) -> Reply:
        """Do what a message asks for, or refuse it. May be called again with the same message.

        Raises ConnectorError: Redis is away, or refuses.
        """
        answer = self._by_type.get(envelope.type)
        if answer is None:
            return refused(self._why_not(envelope))
        try:
            return await answer(envelope)
        except ConnectorError:
            raise
        except AiInfraError as exc:  # no such task, a command that cannot be, a task that is over
            return refused(str(exc))

    async def ended(self, task: ids.TaskId) -> Reply:
        """What is said when the task of a message has ended."""
        view = await self._engine.get(task)
        return accepted(f"{task} is {view.state}", _told(view))

    # -- by type --------------------------------------------------------------------------------------------

    async def _query(self, envelope: Envelope) -> Reply:
        action = envelope.payload.action
        if action is None and not envelope.response_wanted:
            return accepted(f"shown in the window of {self._me}; no model is configured that would act on it")
        answer = self._actions.get(action or "")
        return await answer(envelope) if answer is not None else refused(self._why_not(envelope))

    async def _task(self, envelope: Envelope) -> Reply:
        """Run the commands as a task of ours; its id follows from the message's, so there is one of it."""
        if not envelope.payload.run:
            return refused("it names no commands: a message of type task needs them in payload.run")
        spec = self._spec(envelope)
        try:
            await self._engine.submit([spec])
        except Conflict:
            await self._engine.get(spec.id)  # it is there, and was handed over since
        return Reply(verdict=Verdict.ACCEPTED, reason=f"submitted as task {spec.id}", task=spec.id)

    async def _handoff(self, envelope: Envelope) -> Reply:
        task = envelope.payload.task_id
        if task is None:
            return refused("it names no task: a message of type handoff needs it in payload.task_id")
        view = await hand_over(self._engine, ids.TaskId(task), self._me, HANDOFF_S)
        return accepted(f"{task} is {self._me}'s now, {view.state}", _told(view))

    # -- by action ------------------------------------------------------------------------------------------

    async def _ping(self, envelope: Envelope) -> Reply:
        return accepted("here", {"agent": self._me, "worker": self._process.worker})

    async def _status(self, envelope: Envelope) -> Reply:
        counts = (await self._engine.counts()).get(self._me)
        queue = {n: getattr(counts, n, 0) for n in ("ready", "active", "blocked", "delayed", "failed")}
        told = {key: value for key, value in self._process.payload().items() if value is not None}
        busy = f"works on {told['task_name']}" if "task_name" in told else "idle"
        return accepted(f"{busy}, {queue['ready']} tasks wait", {"agent": self._me, **told, "queue": queue})

    async def _tasks(self, envelope: Envelope) -> Reply:
        views = await self._engine.list_tasks(agent=self._me, limit=LISTED)
        listed = [
            {"id": v.id, "name": v.name, "state": v.state.value, "error": (v.error or "")[:LISTED_CHARS]}
            for v in views
        ]
        return accepted(f"the newest {len(listed)} tasks" if listed else "no tasks", listed)

    # -- parts ----------------------------------------------------------------------------------------------

    def _spec(self, envelope: Envelope) -> TaskSpec:
        first = envelope.payload.run[0]
        words = first if isinstance(first, str) else shlex.join(first)
        name = "".join(c if c.isprintable() else " " for c in words).strip()[:60]
        return TaskSpec(
            id=task_of(envelope),
            name=name or "task",
            agent=self._me,
            run=envelope.payload.run,
            priority=envelope.priority,
            max_attempts=1,  # whoever asked decides what a failure means
            description=f"asked for by {envelope.source} in message {envelope.id}",
        )

    def _why_not(self, envelope: Envelope) -> str:
        if envelope.type is MessageType.RESULT:
            return f"{self._me} waits for no answer"
        if envelope.type is MessageType.LEARN:
            return f"{self._me} has no memory configured to learn with"
        action = envelope.payload.action
        what = f"the action {action!r}" if action else "prose"
        return (
            f"no model is configured for {self._me}, so it does not understand {what}; "
            f"it answers the actions {', '.join(self._actions)}, runs commands (type task) and takes tasks "
            "over (type handoff)"
        )


def task_of(envelope: Envelope) -> ids.TaskId:
    """The id of the task that a message of type `task` becomes."""
    return ids.TaskId(f"t-{envelope.id.removeprefix('m-')}"[:80])


def _told(view: TaskView) -> dict[str, Any]:
    """A task as an answer tells of it."""
    told: dict[str, Any] = {"task": view.id, "agent": view.agent, "state": view.state.value}
    if view.state in TERMINAL:
        result = view.result or {}
        told["error"] = view.error if view.state != "COMPLETED" else None
        told["exit_codes"] = result.get("exit_codes", [])
        told["output_tail"] = str(result.get("output_tail", ""))[-TAIL_CHARS:]
    return told
