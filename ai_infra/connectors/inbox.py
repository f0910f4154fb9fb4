"""Inbox: a list in Redis that one reader blocks on."""

from __future__ import annotations

import asyncio

from ai_infra.connectors import redis
from ai_infra.connectors.replies import checked
from ai_infra.connectors.wire import Reply, Wire
from ai_infra.core.errors import ConnectorUnavailable


class Inbox:
    """A list that one reader blocks on. A pop that was cancelled goes on and is found by the next one.

    Should the connection break in the middle, an element may be lost: what matters must be found again
    elsewhere (tasks are, in `own:`).
    """

    def __init__(self, connection: redis.Connection, name: str) -> None:
        self._connection = connection
        self._key = connection.key(name)
        self._wire: Wire | None = None
        self._pending: asyncio.Future[Reply] | None = None

    async def pop(self, timeout_s: float) -> str | None:
        """The next element, or None after `timeout_s`. Raises ConnectorUnavailable: connection lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while (left := deadline - loop.time()) > 0:
            if self._pending is None:
                self._wire = self._wire or await self._connection.take_wire()
                self._pending = self._wire.send(("BLPOP", self._key, max(left, 0.01)))
            try:
                async with asyncio.timeout(left + redis.ANSWER_S):
                    reply = await asyncio.shield(self._pending)
            except TimeoutError:
                self.close()
                raise ConnectorUnavailable("Redis gave no answer to a blocking read") from None
            except ConnectorUnavailable:
                self.close()
                raise
            self._pending = None
            if checked(reply) is not None:
                return str(reply[1])
        return None

    def close(self) -> None:
        """Give the connection back, or drop it when a pop is under way."""
        wire, pending = self._wire, self._pending
        self._wire = self._pending = None
        if wire is None:
            return
        if pending is None:
            self._connection.return_wire(wire)
            return
        pending.cancel()
        self._connection.drop_wire(wire)
