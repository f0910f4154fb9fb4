"""saq with its own defaults, but that a waiter asks every 2 ms."""

from __future__ import annotations

import asyncio
from typing import Any

import stamp
from redis.asyncio import Redis
from saq.queue.redis import RedisQueue

queue = RedisQueue(Redis(unix_socket_path=stamp.SOCKET), name="bench")


async def noop(_: Any) -> None:
    stamp.mark()


async def answer(_: Any) -> int:
    stamp.mark()
    return 42


async def hold(_: Any) -> None:
    await asyncio.to_thread(stamp.hold)


settings = {"queue": queue, "functions": [noop, answer, hold], "concurrency": 10}


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        await queue.connect()

    async def submit(self, count: int) -> None:
        for _ in range(count):
            await self.one()

    async def one(self) -> None:
        await queue.enqueue("noop")

    async def answer(self) -> None:
        assert await queue.apply("answer", timeout=10, poll_interval=0.002) == 42

    async def hold(self) -> None:
        await queue.enqueue("hold", timeout=0)
