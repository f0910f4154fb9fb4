"""Looking: tasks and workflows as they stand, and waiting for what comes. Nothing here moves a task."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.wire import Word
from ai_infra.core.errors import ConnectorUnavailable, DeadlinePassed
from ai_infra.core.ids import AgentName, TaskId, WorkflowId, new_id
from ai_infra.tasks.calls import BLOCK_S, IDS_A_CALL, Calls, as_ms
from ai_infra.tasks.task import TERMINAL, State, TaskView, WorkflowView
from ai_infra.tasks.views import AgentCounts, Event, read_counts, read_events, read_view, read_workflow

_SCAN = 20_000  #: most tasks that a filtered listing looks at


class Looking(Calls):
    """The reading part of the engine."""

    async def get(self, task: TaskId) -> TaskView:
        """The task as it stands. Raises NotFound."""
        return (await self.get_many([task]))[0]

    async def get_many(self, tasks: Sequence[TaskId]) -> list[TaskView]:
        """The tasks as they stand, in order. Raises NotFound for the first that does not exist."""
        rows: list[Any] = []
        for first in range(0, len(tasks), IDS_A_CALL):
            rows += await self._call("get", *tasks[first : first + IDS_A_CALL])
        return [read_view(row) for row in rows]

    async def find_by_prefix(self, text: str, limit: int = 10) -> list[TaskId]:
        """Ids that begin with `text`, newest first, among the newest 20,000; just `text` when it is an id."""
        return [TaskId(t) for t in await self._call("find", text, limit, _SCAN)]

    async def list_tasks(
        self,
        *,
        state: State | None = None,
        agent: AgentName | None = None,
        workflow: WorkflowId | None = None,
        limit: int = 100,
    ) -> list[TaskView]:
        """Tasks, newest first; those of one terminal state by their end.

        Filters look at the newest 20,000 tasks (of that state): 80 ms of the server, should only the oldest
        fit.
        """
        rows = await self._call("list", state or "", agent or "", workflow or "", limit, max(limit, _SCAN))
        return [read_view(row) for row in rows]

    async def workflow(self, workflow: WorkflowId) -> WorkflowView:
        """A workflow with all its tasks. Raises NotFound."""
        return read_workflow(await self._call("workflow", workflow))

    async def wait_workflow(self, workflow: WorkflowId) -> WorkflowView:
        """Wait until nothing of a workflow is open, what undoes it included, and show it. Raises NotFound."""
        while not (view := await self.workflow(workflow)).ended:
            await self.wait([task.id for task in view.tasks if task.state not in TERMINAL])
        return view

    async def list_workflows(self, limit: int = 20) -> list[WorkflowView]:
        """Workflows, newest first, without their tasks."""
        return [read_workflow(row) for row in await self._call("workflows", limit)]

    async def paused_workflows(self) -> list[WorkflowView]:
        """Workflows that are paused, without their tasks; those that ended meanwhile included."""
        return [read_workflow(row) for row in await self._call("paused")]

    async def counts(self) -> dict[AgentName, AgentCounts]:
        """The queue and the last hour of every agent."""
        return {AgentName(row[0]): read_counts(row[1:]) for row in sorted(await self._call("counts"))}

    async def wait(self, tasks: Sequence[TaskId], timeout_s: float | None = None) -> list[TaskView]:
        """Wait until all have ended, and show them. Raises DeadlinePassed, and NotFound."""
        token = new_id("wait")
        box = Inbox(self.connection, f"box:{token}")
        pending: list[TaskId] = list(tasks)
        try:
            async with asyncio.timeout(timeout_s):
                while pending := await self._watch(token, pending):
                    await self._drain(box, set(pending))
        except TimeoutError:
            raise DeadlinePassed(
                f"{len(pending)} of {len(tasks)} tasks have not ended after {timeout_s:g} s, "
                f"among them {pending[0]}"
            ) from None
        finally:
            box.close()
            if pending:
                await self._unwatch(token, pending)
        return await self.get_many(tasks)

    async def _watch(self, token: str, tasks: Sequence[TaskId]) -> list[TaskId]:
        still_open: list[TaskId] = []
        for first in range(0, len(tasks), IDS_A_CALL):
            part = tasks[first : first + IDS_A_CALL]
            still_open += await self._call("watch", token, as_ms(3 * BLOCK_S), *part)
        return still_open

    async def _drain(self, box: Inbox, pending: set[TaskId]) -> None:
        """Read ended tasks until none is left, or the watch should be renewed."""
        renew_at = asyncio.get_running_loop().time() + BLOCK_S
        while pending and (left := renew_at - asyncio.get_running_loop().time()) > 0:
            try:
                ended = await box.pop(left)
            except ConnectorUnavailable:
                return  # ask again what has ended
            if ended is not None:
                pending.discard(TaskId(ended))

    async def _unwatch(self, token: str, pending: Sequence[TaskId]) -> None:
        try:
            for first in range(0, len(pending), IDS_A_CALL):
                await self._call("unwatch", token, *pending[first : first + IDS_A_CALL])
        except ConnectorUnavailable:
            pass  # the watch ends by itself

    async def last_event_id(self) -> str:
        """Where the event stream ends now."""
        newest = await self.connection.command("XREVRANGE", self._events_key, "+", "-", "COUNT", 1)
        return newest[0][0] if newest else "0-0"

    async def has_forgotten(self, after: str) -> bool:
        """Whether moves that came after the entry `after` may have been trimmed away."""
        oldest = await self.connection.command("XRANGE", self._events_key, "-", "+", "COUNT", 1)
        return bool(oldest) and _entry_order(after) < _entry_order(oldest[0][0])

    async def events(self, after: str = "0-0", block_s: float = 0.0, limit: int = 500) -> list[Event]:
        """Moves of tasks after the entry `after`, oldest first; of up to `limit` entries.

        When there are none, waits up to `block_s` for some. Begin with last_event_id(), go on with the `id`
        of the last event. Old entries are trimmed.
        """
        words: tuple[Word, ...] = ("STREAMS", self._events_key, after)
        reply = await self.connection.command("XREAD", "COUNT", limit, *words)
        if reply is None and block_s > 0:
            reply = await self.connection.block(
                "XREAD", "COUNT", limit, "BLOCK", as_ms(block_s), *words, timeout_s=block_s
            )
        return [event for entry in reply[0][1] for event in read_events(*entry)] if reply else []

    @property
    def _events_key(self) -> str:
        return self.connection.key("events")


def _entry_order(entry_id: str) -> tuple[int, int]:
    instant, _, number = entry_id.partition("-")
    return int(instant), int(number or 0)
