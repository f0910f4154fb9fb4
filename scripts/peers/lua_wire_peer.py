"""The floor over our own wire client."""

from __future__ import annotations

import asyncio
import itertools

import lualoop
import stamp

from ai_infra.connectors.replies import checked
from ai_infra.connectors.wire import Address, Wire, connect

_numbers = itertools.count()


async def _open() -> Wire:
    wire = await connect(Address(path=stamp.SOCKET))
    checked(await wire.send(("FUNCTION", "LOAD", "REPLACE", lualoop.CODE)))
    return wire


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        self.wire = await _open()

    async def submit(self, count: int) -> None:
        checked(await self.wire.send(("RPUSH", "ready", *(f"noop:{next(_numbers)}" for _ in range(count)))))

    async def one(self) -> None:
        await self.submit(1)

    async def answer(self) -> None:
        token = next(_numbers)
        checked(await self.wire.send(("RPUSH", "ready", f"answer:{token}")))
        checked(await self.wire.send(("BLPOP", f"answer:{token}", 10)))


async def work() -> None:
    """A worker until it is ended."""
    wire = await _open()
    done, reply_to = "", ""
    while True:
        task = checked(await wire.send((*lualoop.NEXT, done, reply_to)))
        if task is None:
            task = checked(await wire.send(lualoop.SLEEP))
        done, reply_to = lualoop.run(task)


if __name__ == "__main__":
    asyncio.run(work())
