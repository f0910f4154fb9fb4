"""taskiq on Redis streams, with acknowledgement; results are kept only where somebody waits for them."""

from __future__ import annotations

import asyncio

import stamp
from taskiq_redis import RedisAsyncResultBackend, RedisStreamBroker

broker = RedisStreamBroker(url=f"unix://{stamp.SOCKET}")
if stamp.KEEPS_RESULTS:
    broker = broker.with_result_backend(RedisAsyncResultBackend(redis_url=f"unix://{stamp.SOCKET}"))


@broker.task
async def noop() -> None:
    stamp.mark()


@broker.task
async def answer() -> int:
    stamp.mark()
    return 42


@broker.task
async def hold() -> None:
    await asyncio.to_thread(stamp.hold)


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        await broker.startup()

    async def submit(self, count: int) -> None:
        for _ in range(count):
            await noop.kiq()

    async def one(self) -> None:
        await noop.kiq()

    async def answer(self) -> None:
        task = await answer.kiq()
        assert (await task.wait_result(check_interval=0.005, timeout=10)).return_value == 42

    async def hold(self) -> None:
        await hold.kiq()
