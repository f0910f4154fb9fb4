"""Inbox: a list in Redis that one reader blocks on."""

from __future__ import annotations

import asyncio

from ai_infra.connectors import redis
from ai_infra.connectors.replies import checked
from ai_infra.connectors.wire import Reply, Wire
from ai_infra.core.errors import ConnectorUnavailable

_POP_S = 60.0  #: the server answers nothing after this, if only to show that it is there


class Inbox:
    """A list that one reader blocks on. A pop that was cancelled, or timed out, is found by the next one.

    Should the connection break in the middle, an element may be lost: what matters must be found again
    elsewhere (tasks are, in `own:`).
    """

    def __init__(self, connection: redis.Connection, name: str) -> None:
        self._connection = connection
        self._key = connection.key(name)
        self._wire: Wire | None = None
        self._pending: asyncio.Future[Reply] | None = None
        self._dead_at = 0.0  #: when the pending pop should long have been answered

    async def pop(self, timeout_s: float) -> str | None:
        """The next element, or None after `timeout_s`. Raises ConnectorUnavailable: connection lost."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            pending = self._pending or await self._send()
            # Timed out here, not by the server: it looks at the clock only ten times a second.
            await asyncio.wait([pending], timeout=min(deadline, self._dead_at) - loop.time())
            if pending.done():
                text = self._take(pending)
                if text is not None:
                    return text
            elif loop.time() >= self._dead_at:
                self.close()
                raise ConnectorUnavailable("Redis gave no answer to a blocking read")
            if loop.time() >= deadline:
                return None

    async def _send(self) -> asyncio.Future[Reply]:
        self._wire = self._wire or await self._connection.take_wire()
        self._pending = self._wire.send(("BLPOP", self._key, _POP_S))
        self._pending.add_done_callback(_looked_at)
        self._dead_at = asyncio.get_running_loop().time() + _POP_S + self._connection.answer_s
        return self._pending

    def _take(self, pending: asyncio.Future[Reply]) -> str | None:
        try:
            reply = checked(pending.result())
        except ConnectorUnavailable:
            self.close()
            raise
        finally:
            self._pending = None
        return None if reply is None else str(reply[1])

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


def _looked_at(pending: asyncio.Future[Reply]) -> None:
    """A failure that nobody is there to hear of is none: the next pop begins anew."""
    if not pending.cancelled():
        pending.exception()
