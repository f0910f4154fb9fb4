"""arq: asks every 10 ms instead of 500, and may run a hundred at once: with one it runs one a poll."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

import stamp
from arq import create_pool, func
from arq.connections import RedisSettings

SETTINGS = RedisSettings(unix_socket_path=stamp.SOCKET)


async def noop(_: Any) -> None:
    stamp.mark()


async def answer(_: Any) -> int:
    stamp.mark()
    return 42


async def hold(_: Any) -> None:
    await asyncio.to_thread(stamp.hold)


class WorkerSettings:
    """Read by the `arq` command."""

    functions: ClassVar = [func(noop, keep_result=0), answer, hold]
    redis_settings = SETTINGS
    poll_delay = 0.01
    max_jobs = 100


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        self.pool = await create_pool(SETTINGS)

    async def submit(self, count: int) -> None:
        for _ in range(count):
            await self.one()

    async def one(self) -> None:
        await self.pool.enqueue_job("noop")

    async def answer(self) -> None:
        job = await self.pool.enqueue_job("answer")
        assert job is not None
        assert await job.result(timeout=10, poll_delay=0.005) == 42

    async def hold(self) -> None:
        await self.pool.enqueue_job("hold")
