"""Persisting: a call to Redis that is made until it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from ai_infra.core.errors import ConnectorError, ConnectorUnavailable
from ai_infra.core.process import Process

RETRY_S = 0.2  #: between tries while Redis is away or refuses

T = TypeVar("T")


async def persist(process: Process, call: Callable[[], Awaitable[T]]) -> T:
    """Call until Redis does it; gives up, and raises ConnectorError, only when the process must stop now.

    A Redis that refuses (disk full, a replica, no memory left) is waited for like one that is away: both
    are put right by a person, and ending would lose what we know. Said once. Conflict and NotFound pass.
    """
    said = False
    while True:
        try:
            return await call()
        except ConnectorError as exc:
            if process.insist.is_set():
                raise
            if not said:
                event = "redis_away" if isinstance(exc, ConnectorUnavailable) else "redis_refuses"
                process.log(event, level="warning", reason=str(exc))
                said = True
            await asyncio.sleep(RETRY_S)
