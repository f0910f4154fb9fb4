"""Deaths at every step of the protocol, and random histories: each message is handled once, none is lost."""

from __future__ import annotations

import asyncio
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from engine_kit import work_off
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from post_kit import AGENT, Town

from ai_infra.agents.answers import Answers
from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import Conflict
from ai_infra.core.home import Home
from ai_infra.messages import post as post_module
from ai_infra.messages.envelope import MessageType, Payload, load
from ai_infra.messages.views import Delivery, Verdict
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer


@pytest.fixture
def town(redis_server: RedisServer) -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="ai-post-") as folder:
        found = Town(Home(Path(folder) / "state"), redis_server.address)
        yield found
        found.log.close()


class Fault:
    """Stops one life at its nth call: before the server hears of it, or after, with the answer lost."""

    def __init__(self, at: int, after: bool, real: Any) -> None:
        self.at, self.after, self.real = at, after, real
        self.connection: Connection | None = None  #: of the life that is to die
        self.calls: list[str] = []
        self.struck = asyncio.Event()

    async def call(self, connection: Connection, function: str, *words: Any) -> Any:
        if connection is not self.connection:
            return await self.real(connection, function, *words)
        self.calls.append(function)
        if len(self.calls) < self.at:
            return await self.real(connection, function, *words)
        if len(self.calls) == self.at and self.after:
            await self.real(connection, function, *words)
        self.struck.set()
        return await asyncio.Event().wait()


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("at", range(1, 9))
def test_a_life_ends_at_any_call(town: Town, monkeypatch: pytest.MonkeyPatch, at: int, after: bool) -> None:
    async def body(town: Town) -> None:
        real = Connection.call
        fault = Fault(at, after, real)
        opened = Answers.__init__

        def known(self: Answers, process: Any, engine: Any) -> None:
            fault.connection = fault.connection or engine.connection  # of the first life only
            opened(self, process, engine)

        async def call(self: Connection, function: str, *words: Any) -> Any:
            return await fault.call(self, function, *words)

        monkeypatch.setattr(Answers, "__init__", known)
        monkeypatch.setattr(Connection, "call", call)
        envelope = town.message(
            response_wanted=True, type=MessageType.TASK, payload=Payload(run=("echo once",))
        )
        async with town.life():
            await town.send(envelope)
            ended = asyncio.create_task(town.ended(envelope.id))
            working = asyncio.create_task(_work_until(town, ended))
            struck = asyncio.create_task(fault.struck.wait())
            await asyncio.wait({ended, struck}, return_when=asyncio.FIRST_COMPLETED)
            struck.cancel()
        async with town.life():
            receipt = await ended
            await working
        assert receipt.answer is not None
        assert load(receipt.answer.envelope).payload.data["state"] == "COMPLETED"
        (view,) = await town.engine.list_tasks()
        assert view.attempt == 1
        assert await town.redis("XLEN", f"KEY:mail:in:{AGENT}") == 0

    town.run(body)


async def _work_until(town: Town, ended: asyncio.Task[Any]) -> None:
    async def done() -> bool:
        await work_off(town.engine)
        return ended.done()

    await wait_until_async(done, 20, "the answer")


# -- random histories ---------------------------------------------------------------------------------------

steps = st.lists(
    st.one_of(
        st.tuples(st.just("send"), st.sampled_from(["code", "qa", "*"])),
        st.tuples(st.just("again"), st.integers(0, 50)),
        st.tuples(st.just("take"), st.sampled_from(["code", "qa"])),
        st.tuples(st.just("take, lost"), st.sampled_from(["code", "qa"])),
        st.tuples(st.just("judge"), st.sampled_from(["code", "qa"])),
        st.tuples(st.just("ghost"), st.sampled_from(["code", "qa"])),
        st.tuples(st.just("die"), st.sampled_from(["code", "qa"])),
    ),
    max_size=40,
)


class History:
    """The post, and what must be true of it."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.lives = {"code": 1, "qa": 1}
        self.in_hand: dict[str, dict[str, Delivery]] = {"code": {}, "qa": {}}
        self.lost: dict[str, list[Delivery]] = {"code": [], "qa": []}  #: in the hands of dead lives
        self.sent: list[Any] = []
        self.owed: Counter[tuple[str, str]] = Counter()  #: accepted by the post and not handled yet
        self.handled: Counter[tuple[str, str]] = Counter()

    def worker(self, agent: str) -> str:
        return f"{agent}.{self.lives[agent]}"

    async def step(self, what: str, arg: Any) -> None:
        await {
            "send": self.send, "again": self.again, "take": self.take, "take, lost": self.take_lost,
            "judge": self.judge, "ghost": self.ghost, "die": self.die,
        }[what](arg)  # fmt: skip

    async def send(self, target: str) -> None:
        envelope = self.town.message(target)
        receivers = ["code", "qa"] if target == "*" else [target]
        try:
            view = await self.town.send(envelope, *receivers)
        except Conflict:  # its inbox is full, then
            assert self.unhandled(target) >= post_module.INBOX_MESSAGES
            return
        self.sent.append((envelope, receivers))
        for agent in receivers:
            if view.receipts[agent].verdict is Verdict.DELIVERED:
                self.owed[envelope.id, agent] += 1
            else:
                assert self.unhandled(agent) >= post_module.INBOX_MESSAGES

    async def again(self, which: int) -> None:
        if self.sent:
            envelope, receivers = self.sent[which % len(self.sent)]
            with pytest.raises(Conflict):
                await self.town.send(envelope, *receivers)

    async def take(self, agent: str) -> None:
        deliveries, _ = await self.town.post.take(agent, self.worker(agent), list(self.in_hand[agent]))
        for delivery in deliveries:
            assert self.owed[delivery.id, agent] == 1
            assert delivery.entry not in self.in_hand[agent]
            self.in_hand[agent][delivery.entry] = delivery

    async def take_lost(self, agent: str) -> None:
        await self.town.post.take(agent, self.worker(agent), list(self.in_hand[agent]))

    async def judge(self, agent: str) -> None:
        if self.in_hand[agent]:
            _, delivery = self.in_hand[agent].popitem()
            for _ in range(2):  # the first answer was lost
                await self.town.post.judge(
                    delivery, Verdict.ACCEPTED, "", agent=agent, worker=self.worker(agent)
                )
            self.handled[delivery.id, agent] += 1
            self.owed[delivery.id, agent] -= 1

    async def ghost(self, agent: str) -> None:
        for delivery in self.lost[agent]:
            if any(delivery.id == held.id for held in self.in_hand[agent].values()):
                with pytest.raises(Conflict):  # the life before has been replaced, and does not know it
                    await self.town.post.judge(
                        delivery, Verdict.REFUSED, "", agent=agent, worker=f"{agent}.{self.lives[agent] - 1}"
                    )

    async def die(self, agent: str) -> None:
        self.lost[agent] = list(self.in_hand[agent].values())
        self.in_hand[agent].clear()
        self.lives[agent] += 1

    def unhandled(self, agent: str) -> int:
        return sum(count for (_, name), count in self.owed.items() if name == agent)

    async def finish(self) -> None:
        for agent in ("code", "qa"):
            while self.unhandled(agent):
                await self.take(agent)
                assert self.in_hand[agent], "something is lost"
                while self.in_hand[agent]:
                    await self.judge(agent)
            assert await self.town.post.take(agent, self.worker(agent)) == ([], [])
            assert await self.town.redis("XLEN", f"KEY:mail:in:{agent}") == 0
            assert await self.town.redis("HGET", "KEY:mail:load", agent) is None
        assert set(self.handled.values()) <= {1}
        assert await self.town.redis("ZCARD", "KEY:mail:ended") == len(self.sent)


@given(history=steps)
@settings(
    max_examples=40, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_history_handles_each_message_once(
    town: Town, redis_server: RedisServer, history: list[tuple[str, Any]]
) -> None:
    async def body(town: Town) -> None:
        before, post_module.INBOX_MESSAGES = post_module.INBOX_MESSAGES, 4
        try:
            await town.redis("FLUSHALL")
            model = History(town)
            for what, arg in history:
                await model.step(what, arg)
            # what was refused at the door is told once, and is not part of the end
            for agent in ("code", "qa"):
                await town.redis("DEL", f"KEY:mail:door:{agent}")
            await model.finish()
        finally:
            post_module.INBOX_MESSAGES = before

    town.run(body)
