"""Ends: one who waits for many tasks at once, to which more are added while it waits."""

from __future__ import annotations

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import ConnectorUnavailable
from ai_infra.core.ids import TaskId, new_id
from ai_infra.tasks.calls import BLOCK_S, IDS_A_CALL, Calls, as_ms


class Ends(Calls):
    """Tells of each task once, when it has ended."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        self._token = new_id("ends")
        self._box = Inbox(connection, f"box:{self._token}")
        self._open: set[TaskId] = set()

    def close(self) -> None:
        """Stop waiting; the server forgets us by itself."""
        self._box.close()

    async def add(self, task: TaskId) -> bool:
        """Wait for this one, too; False: it has ended already. Raises NotFound."""
        if not await self._watch([task]):
            return False
        self._open.add(task)
        return True

    async def next(self) -> list[TaskId]:
        """Some that have ended; empty after a minute in which none did. Raises ConnectorUnavailable."""
        try:
            ended = await self._box.pop(BLOCK_S)
        except ConnectorUnavailable:
            ended = None
        if ended is None:  # a watch ends by itself, and a notice may be lost: look at all of them
            return await self._look_again()
        found = TaskId(ended)
        if found not in self._open:
            return []
        self._open.discard(found)
        return [found]

    async def _look_again(self) -> list[TaskId]:
        gone: list[TaskId] = []
        waited = sorted(self._open)
        for first in range(0, len(waited), IDS_A_CALL):
            part = waited[first : first + IDS_A_CALL]
            still_open = set(await self._watch(part))
            gone += [task for task in part if task not in still_open]
        self._open.difference_update(gone)
        return gone

    async def _watch(self, tasks: list[TaskId]) -> list[TaskId]:
        return list(await self._call("watch", self._token, as_ms(3 * BLOCK_S), *tasks))
