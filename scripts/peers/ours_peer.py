"""Our engine: a bare process around Engine, with the heartbeat and the ticker that an agent has, too."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

import stamp

from ai_infra.connectors.redis import Connection
from ai_infra.core.ids import AgentName, TaskId, WorkerId, new_id
from ai_infra.tasks.calls import DEFAULT_LEASE_S
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import Claim, Outcome, State, TaskSpec

AGENT = AgentName("bench")
NOTHING = Outcome(ok=True)
ANSWER = Outcome(ok=True, result={"answer": 42})
CLAIMS = 4  #: that `finished` has under way at once


def spec(name: str, needs: tuple[TaskId, ...] = ()) -> TaskSpec:
    """A task of the bench's agent."""
    return TaskSpec(id=TaskId(new_id("tsk")), name=name, agent=AGENT, run=(("true",),), needs=needs)


class Peer:
    """See serve.py."""

    async def open(self) -> None:
        self.engine = Engine(await Connection.open(stamp.SOCKET))

    async def submit(self, count: int) -> None:
        await self.engine.submit([spec("noop") for _ in range(count)])

    async def one(self) -> None:
        await self.engine.submit([spec("noop")])

    async def singles(self, count: int) -> None:
        """The same as submit(), one by one."""
        for _ in range(count):
            await self.one()

    async def answer(self) -> None:
        [view] = await self.engine.wait(await self.engine.submit([spec("answer")]))
        assert view.result == {"answer": 42}

    async def graph(self, needs: Sequence[Sequence[int]]) -> None:
        specs: list[TaskSpec] = []
        for row in needs:
            specs.append(spec("noop", tuple(specs[i].id for i in row)))
        await self.engine.submit(specs)

    async def hold(self) -> None:
        await self.engine.submit([spec("hold")])

    async def death(self, worker: str) -> None:
        """What the supervisor does when it sees one."""
        await self.engine.release(WorkerId(worker), reason="killed by the benchmark")

    async def finished(self, count: int) -> None:
        """`count` more tasks that have been through everything."""
        for first in range(0, count, 1000):
            await self.submit(min(1000, count - first))
            await asyncio.gather(*(self._drain(WorkerId(f"filler-{i}")) for i in range(CLAIMS)))

    async def _drain(self, worker: WorkerId) -> None:
        claim = await self.engine.claim(AGENT, worker)
        while claim is not None:
            _, claim = await self.engine.finish(claim, NOTHING, take_next=True)
        await self.engine.release(worker, reason="done", count_attempt=False)

    async def drain(self) -> None:
        """Finish all there is, one after the other."""
        await self._drain(WorkerId(new_id("drainer")))


async def work() -> None:
    """A worker until it is ended."""
    engine = Engine(await Connection.open(stamp.SOCKET))
    worker = WorkerId(f"w-{os.getpid()}")
    side = [asyncio.create_task(engine.run_timers()), asyncio.create_task(beat(engine, worker))]
    claim = await engine.claim(AGENT, worker)
    while not any(task.done() for task in side):
        if claim is None:
            notice = await engine.next_notice(worker, 3600)
            claim = notice.claim if notice else None
        else:
            claim = await run(engine, claim)


async def run(engine: Engine, claim: Claim) -> Claim | None:
    """One task; the next one, if there is one at once."""
    if claim.state == State.ASSIGNED:
        await engine.start(claim)
    if claim.spec.name == "hold":
        await asyncio.to_thread(stamp.hold)
    stamp.mark()
    outcome = ANSWER if claim.spec.name == "answer" else NOTHING
    return (await engine.finish(claim, outcome, take_next=True))[1]


async def beat(engine: Engine, worker: WorkerId) -> None:
    """Renew what is held."""
    while True:
        await engine.beat("bench", worker)
        await asyncio.sleep(DEFAULT_LEASE_S / 3)


if __name__ == "__main__":
    asyncio.run(work())
