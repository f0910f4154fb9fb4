"""streaq with its own defaults; graphs by `after`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import stamp
from streaq import Worker

worker = Worker(redis_url=f"unix://{stamp.SOCKET}")


@worker.task(silent=True)
async def noop() -> None:
    stamp.mark()


@worker.task(silent=True)
async def answer() -> int:
    stamp.mark()
    return 42


@worker.task(silent=True)
async def hold() -> None:
    await asyncio.to_thread(stamp.hold)


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        self.stack = AsyncExitStack()
        await self.stack.enter_async_context(worker)

    async def submit(self, count: int) -> None:
        await worker.enqueue_many([noop.enqueue() for _ in range(count)])

    async def one(self) -> None:
        await noop.enqueue()

    async def answer(self) -> None:
        task = await answer.enqueue()
        assert (await task.result(10)).result == 42

    async def hold(self) -> None:
        await hold.enqueue()

    async def graph(self, needs: Sequence[Sequence[int]]) -> None:
        ids: list[str] = []
        for row in needs:
            task = noop.enqueue().start(after=[ids[i] for i in row]) if row else noop.enqueue()
            await task
            ids.append(task.id)
