"""Calls: what every part of the engine does alike."""

from __future__ import annotations

from typing import Any

from ai_infra.connectors.redis import Connection
from ai_infra.connectors.wire import Word

DEFAULT_LEASE_S = 30.0
BLOCK_S = 60.0  #: longest single blocking read
IDS_A_CALL = 500


class Calls:
    """A part of the engine: holds the connection."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    async def _call(self, function: str, *words: Word) -> Any:
        return await self.connection.call(function, *words)


def as_ms(seconds: float) -> int:
    """Whole milliseconds, at least one."""
    return max(1, round(seconds * 1000))


def clean(text: str) -> str:
    """`text` without what UTF-8 cannot carry, and of a length fit for an event."""
    return text.encode("utf-8", "replace").decode()[:2000]
