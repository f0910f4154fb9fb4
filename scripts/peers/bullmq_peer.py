"""bullmq for Python: finished jobs are removed; results come by its event stream."""

from __future__ import annotations

import asyncio
import uuid
from typing import Any

import stamp
from bullmq import Queue, Worker
from bullmq.queue_events import QueueEvents

URL = f"unix://{stamp.SOCKET}"
QUICK = {"removeOnComplete": True}


async def process(job: Any, _: str) -> int | None:
    if job.name == "hold":
        await asyncio.to_thread(stamp.hold)
    stamp.mark()
    return 42 if job.name == "answer" else None


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        self.queue = Queue("bench", {"connection": URL})
        self.answers: dict[str, asyncio.Future[Any]] = {}
        self.events = QueueEvents("bench", {"connection": URL})
        self.events.on("completed", self._completed)
        await asyncio.sleep(0.1)  # it reads what comes after it has begun

    def _completed(self, event: Any, *_: Any) -> None:
        waiting = self.answers.pop(event["jobId"], None)
        if waiting is not None:
            waiting.set_result(event["returnvalue"])

    async def submit(self, count: int) -> None:
        jobs = [{"name": "noop", "data": {}, "opts": QUICK} for _ in range(count)]
        for first in range(0, count, 500):
            await self.queue.addBulk(jobs[first : first + 500])

    async def one(self) -> None:
        await self.queue.add("noop", {}, QUICK)

    async def answer(self) -> None:
        name = uuid.uuid4().hex
        self.answers[name] = asyncio.get_running_loop().create_future()
        waiting = self.answers[name]
        await self.queue.add("answer", {}, {"jobId": name})
        assert await asyncio.wait_for(waiting, 10) == 42

    async def hold(self) -> None:
        await self.queue.add("hold", {})


async def work() -> None:
    """A worker until it is ended."""
    Worker("bench", process, {"connection": URL})
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work())
