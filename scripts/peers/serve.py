"""The submitting side of one engine, in a process of its own: a JSON line in, a JSON line out.

Started as `python serve.py MODULE`; the module has a class Peer. What Peer's methods are called and do:
open() connects; submit(n) adds n no-ops; one() adds one; answer() adds one and waits for its result;
graph(needs) adds a task a row that runs after the rows it names; hold() adds one that does not end.
They may be coroutines.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import json
import sys
import time
from collections.abc import Sequence
from typing import Any

import stamp

PAUSE_S = 0.0005
QUIET_S = 0.004  #: between tasks, for the worker to fall asleep
LIMIT_S = 15.0  #: of one series


class Server:
    """Does what the lines ask for."""

    def __init__(self, peer: Any) -> None:
        self.peer = peer

    async def do(self, name: str, args: Sequence[Any]) -> Any:
        """A series of this class, or else what the peer does."""
        method = getattr(self, name, None) or getattr(self.peer, name)
        began_ns = time.monotonic_ns()
        found = method(*args)
        if inspect.isawaitable(found):
            found = await found
        return {"began_ns": began_ns, "ended_ns": time.monotonic_ns(), "found": found}

    async def starts(self, count: int) -> list[float]:
        """ms from before a submit to the run's beginning, one after the other."""
        found: list[float] = []
        deadline = time.monotonic() + LIMIT_S
        while len(found) < count and time.monotonic() < deadline:
            await asyncio.sleep(QUIET_S)
            before, began_ns = stamp.count(), time.monotonic_ns()
            await self._peer("one")
            while stamp.count() == before:
                await asyncio.sleep(PAUSE_S)
                if time.monotonic() > deadline + LIMIT_S:
                    raise TimeoutError("a task did not start")
            found.append((stamp.last() - began_ns) / 1e6)
        return found

    async def answers(self, count: int) -> list[float]:
        """ms from before a submit until its result is in hand, one after the other."""
        found: list[float] = []
        deadline = time.monotonic() + LIMIT_S
        while len(found) < count and time.monotonic() < deadline:
            await asyncio.sleep(QUIET_S)
            began = time.perf_counter()
            await self._peer("answer")
            found.append(1000 * (time.perf_counter() - began))
        return found

    async def _peer(self, name: str) -> None:
        done = getattr(self.peer, name)()
        if inspect.isawaitable(done):
            await done


async def main() -> None:
    """Lines until there are no more."""
    server = Server(importlib.import_module(sys.argv[1]).Peer())
    if hasattr(server.peer, "open"):
        await server.do("open", [])
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            said = await server.do(asked["do"], asked["args"])
        except Exception as exc:  # noqa: BLE001 the rim of this process: said to the one who asked
            said = {"error": f"{type(exc).__name__}: {exc}"}
        print(json.dumps(said), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
