"""What the engine's tests share: tasks, workers, and running a coroutine against a server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from ai_infra.connectors.redis import Connection
from ai_infra.core.ids import AgentName, WorkerId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import Claim, Outcome, State, TaskSpec

CODE = AgentName("code")
W1, W2 = WorkerId("code.1"), WorkerId("code.2")
OK = Outcome(ok=True)
BAD = Outcome(ok=False, error="it broke", reason="exit 1", retry=False)


def task(name: str, *needs: str, **changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "id": name, "name": name, "agent": CODE, "run": (("true",),), "needs": needs, "retry_delay_s": 0.0
    }  # fmt: skip
    return TaskSpec(**(values | changes))


@asynccontextmanager
async def engine_on(address: str, **options: Any) -> AsyncIterator[Engine]:
    engine = Engine(await Connection.open(address, **options))
    try:
        yield engine
    finally:
        engine.close()


def run(address: str, body: Callable[[Engine], Awaitable[None]], timeout_s: float = 30) -> None:
    """Run `body` with an engine on the server at `address`."""

    async def main() -> None:
        async with asyncio.timeout(timeout_s), engine_on(address) as engine:
            await body(engine)

    asyncio.run(main())


async def claimed(engine: Engine, worker: WorkerId = W1) -> Claim:
    """The next task; it must be there."""
    claim = await engine.claim(CODE, worker, 30)
    assert claim is not None
    return claim


async def handed(engine: Engine, worker: WorkerId = W1, timeout_s: float = 5) -> Claim:
    """The task that the worker's next notice hands it; it must come."""
    notice = await engine.next_notice(worker, timeout_s)
    assert notice is not None
    assert notice.claim is not None
    return notice.claim


async def work_off(engine: Engine, worker: WorkerId = W1, outcome: Outcome = OK) -> list[str]:
    """Claim and finish until nothing is ready; the ids in order."""
    order = []
    claim = await engine.claim(CODE, worker, 30)
    while claim is not None:
        order.append(claim.spec.id)
        _, claim = await engine.finish(claim, outcome, take_next=True)
    return order


async def states(engine: Engine, *names: str) -> dict[str, State]:
    return {n: (await engine.get(n)).state for n in names}  # type: ignore[arg-type]
