"""Following moves on a real Redis: nothing twice, nothing lost unsaid, through its death, to a task's end."""

from __future__ import annotations

import asyncio
from typing import Any

from engine_kit import BAD, CODE, OK, W1, claimed, engine_on, run, task

from ai_infra.core.ids import AgentName, TaskId
from ai_infra.dashboard import moves
from ai_infra.dashboard.moves import Wanted, follow_moves
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import State as S
from ai_infra.tasks.views import Event
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer

A = TaskId("a")


class Seen:
    """What a follower was shown and told."""

    def __init__(self, engine: Engine, wanted: Wanted) -> None:
        self.events: list[Event] = []
        self.said: list[str] = []
        self.following = asyncio.create_task(
            follow_moves(engine, wanted, self.events.append, self.said.append)
        )

    async def until(self, name: str, state: S) -> None:
        async def there() -> bool:
            return any((e.task, e.to_state) == (name, state) for e in self.events)

        await wait_until_async(there, 15, f"{name} is seen {state}")

    def of(self, name: str) -> list[tuple[S | None, S]]:
        return [(e.from_state, e.to_state) for e in self.events if e.task == name]


async def listening(e: Engine) -> None:
    """Wait until somebody blocks on the stream."""

    async def blocked() -> bool:
        return "cmd=xread" in str(await e.connection.command("CLIENT", "LIST"))

    await wait_until_async(blocked, 10, "the follower listens")


def test_a_task_from_its_state_to_its_end(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task("a"), task("b")])
        claim = await claimed(e)
        async with engine_on(redis_server.address) as other:
            seen = Seen(other, Wanted(task=A))
            await listening(e)
            await e.finish(claim, BAD)
            view = await asyncio.wait_for(seen.following, 10)
            assert view is not None
            assert view.state is S.FAILED
            assert seen.of("a") == [(S.IN_PROGRESS, S.IN_PROGRESS), (S.IN_PROGRESS, S.FAILED)]
            assert seen.of("b") == []
            again = Seen(other, Wanted(task=A))
            assert await asyncio.wait_for(again.following, 10) == view
            assert again.of("a") == [(S.FAILED, S.FAILED)]

    run(redis_server.address, body)


def test_every_move_once_through_a_death_of_the_server(own_redis: RedisServer) -> None:
    async def body(e: Engine) -> None:
        async with engine_on(own_redis.address, wait_s=0.3) as other:
            seen = Seen(other, Wanted(agent=CODE))
            await listening(e)
            await e.submit([task("a"), task("x", agent=AgentName("data"))])
            await seen.until("a", S.READY)
            own_redis.kill()

            async def told() -> bool:
                return seen.said == ["Redis does not answer; the work goes on when it is back"]

            await wait_until_async(told, 10, "it says so")
            own_redis.start()
            await e.finish(await claimed(e), OK)
            await seen.until("a", S.COMPLETED)
            assert seen.of("a") == [
                (None, S.PENDING), (S.PENDING, S.READY),
                (S.READY, S.IN_PROGRESS), (S.IN_PROGRESS, S.COMPLETED),
            ]  # fmt: skip
            assert seen.of("x") == []
            seen.following.cancel()

    run(own_redis.address, body)


def test_what_it_could_not_read_in_time_is_said(redis_server: Any, monkeypatch: Any) -> None:
    async def body(e: Engine) -> None:
        monkeypatch.setattr(moves, "BATCH", 10)
        await e.submit([task("first")])
        last = await e.last_event_id()
        await e.submit([task(f"t{i:03}") for i in range(200)])
        assert not await e.has_forgotten(last)
        await e.connection.command("XTRIM", "ai:events", "MAXLEN", 12)
        assert await e.has_forgotten(last)
        real = Engine.last_event_id

        async def long_ago(self: Engine) -> str:
            return last

        monkeypatch.setattr(Engine, "last_event_id", long_ago)
        seen = Seen(e, Wanted())
        await seen.until("t199", S.READY)
        monkeypatch.setattr(Engine, "last_event_id", real)
        assert seen.said == ["moves came faster than they were read; some are not shown"]
        seen.following.cancel()

    run(redis_server.address, body)


def test_a_task_that_ends_while_it_is_looked_up(redis_server: Any, monkeypatch: Any) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task("a")])
        claim = await claimed(e, W1)
        real = Engine.get

        async def get(self: Engine, name: TaskId) -> Any:
            monkeypatch.setattr(Engine, "get", real)
            view = await real(self, name)
            await e.finish(claim, OK)
            return view

        monkeypatch.setattr(Engine, "get", get)
        seen = Seen(e, Wanted(task=A))
        view = await asyncio.wait_for(seen.following, 10)
        assert view is not None
        assert seen.of("a") == [(S.COMPLETED, S.COMPLETED)]

    run(redis_server.address, body)
