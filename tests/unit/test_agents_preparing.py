"""Before the first command: upstreams are looked at, an end of the attempt is not waited out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from dashboard_data import task

from ai_infra.agents.preparing import look_at, prepare
from ai_infra.core.errors import ConnectorUnavailable, NotFound
from ai_infra.core.ids import AgentName, TaskId
from ai_infra.tasks.task import TaskSpec, TaskView

SPEC = TaskSpec(
    id=TaskId("b"),
    name="b",
    agent=AgentName("code"),
    run=(("true",),),
    needs=(TaskId("a"),),
    inputs={"a": (0,)},
)


async def never(tasks: Sequence[TaskId]) -> list[TaskView | None]:
    await asyncio.Event().wait()
    return []


async def away(tasks: Sequence[TaskId]) -> list[TaskView | None]:
    raise ConnectorUnavailable("gone")


def test_an_end_of_the_attempt_is_not_waited_out() -> None:
    async def main() -> None:
        ended = asyncio.Event()
        asyncio.get_running_loop().call_soon(ended.set)
        assert await asyncio.wait_for(prepare(SPEC, never, ended), 5) is None

    asyncio.run(main())


def test_a_redis_that_stays_away_is_told() -> None:
    async def main() -> None:
        with pytest.raises(ConnectorUnavailable):
            await prepare(SPEC, away, asyncio.Event())

    asyncio.run(main())


class Kept:
    """An engine that has lost the task `gone`."""

    async def get(self, name: TaskId) -> TaskView:
        if name == "gone":
            raise NotFound("task gone does not exist")
        return task(name)

    async def get_many(self, names: Sequence[TaskId]) -> list[TaskView]:
        return [await self.get(name) for name in names]


def test_what_is_not_kept_any_longer_is_none() -> None:
    found = asyncio.run(look_at(Kept(), [TaskId("a"), TaskId("gone"), TaskId("c")]))
    assert [view.id if view else None for view in found] == ["t-a", None, "t-c"]
