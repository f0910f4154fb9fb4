"""Handing tasks over on a real Redis: in every state, to idle and to busy agents, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, W2, claimed, engine_on, handed, run, task, work_off

from ai_infra.core.errors import Conflict, DeadlinePassed, NotFound
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.handoff import hand_over
from ai_infra.tasks.spec import dump_spec
from ai_infra.tasks.task import State, TaskView, WorkflowHeader
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer

QA, QA1 = AgentName("qa"), WorkerId("qa.1")
T = TaskId("t")


async def to_qa(engine: Engine, name: str = "t", timeout_s: float = 10) -> TaskView:
    return await hand_over(engine, TaskId(name), QA, timeout_s)


async def counts(engine: Engine) -> dict[str, Any]:
    """The queue of both agents, zeroes left out."""
    found = await engine.counts()
    return {
        name: {k: v for k, v in vars(c).items() if v and not k.startswith(("hour", "idle"))}
        for name, c in found.items()
    }


# -- while it waits -----------------------------------------------------------------------------------------


def test_a_ready_task_moves_to_the_other_queue(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t", priority=9, max_attempts=2), task("u")])
        view = await to_qa(engine)
        assert (view.agent, view.state, view.spec.priority) == ("qa", State.READY, 9)
        assert await counts(engine) == {"code": {"ready": 1}, "qa": {"ready": 1}}
        assert (await claimed(engine)).spec.id == "u"
        assert await engine.claim(CODE, W2, 30) is None
        claim = await engine.claim(QA, QA1, 30)
        assert claim is not None
        assert claim.spec == replace(task("t", priority=9, max_attempts=2), agent=QA)
        assert (await engine.finish(claim, OK))[0] is State.COMPLETED

    run(redis_server.address, body)


def test_a_sleeping_agent_is_woken_with_it(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        assert await engine.claim(QA, QA1, 30) is None
        await engine.submit([task("t")])
        assert (await to_qa(engine)).state is State.ASSIGNED
        claim = await handed(engine, QA1)
        assert (claim.spec.id, claim.spec.agent) == ("t", "qa")

    run(redis_server.address, body)


def test_a_blocked_task_moves_and_still_waits(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        flow = WorkflowHeader(id=WorkflowId("w-1"), name="w")
        await engine.submit([task("a", workflow="w-1"), task("t", "a", workflow="w-1")], workflow=flow)
        assert (await to_qa(engine)).state is State.BLOCKED
        assert await counts(engine) == {"code": {"ready": 1}, "qa": {"blocked": 1}}
        await work_off(engine)
        claim = await engine.claim(QA, QA1, 30)
        assert claim is not None
        await engine.finish(claim, OK)
        assert (await engine.workflow(flow.id)).counts == {State.COMPLETED: 2}

    run(redis_server.address, body)


def test_a_task_that_waits_for_its_next_attempt(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t", retry_delay_s=0.05)])
        await engine.finish(await claimed(engine), replace(BAD, retry=True))
        view = await to_qa(engine)
        assert (view.state, view.attempt) == (State.PENDING, 1)
        timers = asyncio.create_task(engine.run_timers())

        async def claim() -> Any:
            return await engine.claim(QA, QA1, 30)

        again = await wait_until_async(claim)
        timers.cancel()
        assert again.attempt == 2

    run(redis_server.address, body)


def test_events_tell_of_it(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t"), task("u", "t")])
        after = await engine.last_event_id()
        await to_qa(engine)
        await to_qa(engine, "u")
        told = [(e.task, e.agent, e.to_state, e.reason) for e in await engine.events(after)]
        assert told == [
            ("t", "qa", State.READY, "handed over from code to qa"),
            ("u", "qa", State.BLOCKED, "handed over from code to qa"),
        ]

    run(redis_server.address, body)


@pytest.mark.parametrize("end", [OK, BAD])
def test_a_task_that_has_ended_is_not_handed_over(redis_server: RedisServer, end: Any) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        await engine.finish(await claimed(engine), end)
        with pytest.raises(Conflict, match=r"task t is (COMPLETED|FAILED) already; there is nothing to hand"):
            await to_qa(engine)
        with pytest.raises(NotFound):
            await to_qa(engine, "x")

    run(redis_server.address, body)


def test_twice_is_once(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        text = dump_spec(replace(task("t"), agent=QA))
        for _ in range(2):
            assert await engine.connection.call("handoff", "t", "code", "qa", text, "") == "done"
        assert await counts(engine) == {"code": {}, "qa": {"ready": 1}}

    run(redis_server.address, body)


def test_two_want_it_at_once(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        data = AgentName("data")
        views = await asyncio.gather(to_qa(engine), hand_over(engine, T, data, 10))
        final = await engine.get(T)
        assert final.agent in {view.agent for view in views}
        found = await counts(engine)
        assert sum(c.get("ready", 0) for c in found.values()) == 1
        assert await work_off(engine, W1) == []

    run(redis_server.address, body)


# -- while it runs ------------------------------------------------------------------------------------------


def test_a_running_task_goes_when_its_worker_gives_it_back(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t", max_attempts=1)])
        claim = await claimed(engine)
        async with engine_on(redis_server.address) as person:
            moving = asyncio.create_task(to_qa(person))
            notice = await engine.next_notice(W1, 5)
            assert notice is not None
            assert (notice.kind, notice.task, notice.reason) == ("handoff", "t", "qa")
            assert (await engine.get(T)).agent == "code"  # it has not stopped: it is not the other's yet
            assert await person.claim(QA, QA1, 30) is None
            await engine.give_back(claim)
            view = await moving
        assert (view.agent, view.state) == ("qa", State.ASSIGNED)
        with pytest.raises(Conflict):
            await engine.finish(claim, OK)

    run(redis_server.address, body)


def test_its_worker_dies_instead(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        await claimed(engine)
        async with engine_on(redis_server.address) as person:
            moving = asyncio.create_task(to_qa(person))
            assert await engine.next_notice(W1, 5) is not None
            await engine.release(W1, reason="the agent died")
            assert (await moving).agent == "qa"
        claim = await engine.claim(QA, QA1, 30)
        assert claim is not None
        assert claim.attempt == 2

    run(redis_server.address, body)


def test_it_ends_before_its_worker_hears_of_it(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        claim = await claimed(engine)
        async with engine_on(redis_server.address) as person:
            moving = asyncio.create_task(to_qa(person))
            assert await engine.next_notice(W1, 5) is not None
            await engine.finish(claim, OK)
            with pytest.raises(Conflict, match="is COMPLETED already"):
                await moving

    run(redis_server.address, body)


def test_it_fails_and_will_be_tried_again_by_the_other(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t", retry_delay_s=60.0)])
        claim = await claimed(engine)
        async with engine_on(redis_server.address) as person:
            moving = asyncio.create_task(to_qa(person))
            assert await engine.next_notice(W1, 5) is not None
            await engine.finish(claim, replace(BAD, retry=True))
            view = await moving
        assert (view.agent, view.state) == ("qa", State.PENDING)

    run(redis_server.address, body)


def test_a_worker_that_does_not_stop(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        claim = await claimed(engine)
        with pytest.raises(DeadlinePassed, match=r"task t still runs after 0\.2 s; it goes to qa when"):
            await to_qa(engine, timeout_s=0.2)
        await engine.give_back(claim)
        assert (await engine.get(T)).agent == "qa"

    run(redis_server.address, body)


def test_a_wish_dies_with_the_run_it_was_for(redis_server: RedisServer) -> None:
    """Asked of a run that failed; a person retries it much later, and that run is given back."""

    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        claim = await claimed(engine)
        with pytest.raises(DeadlinePassed):
            await to_qa(engine, timeout_s=0.1)
        await engine.finish(claim, BAD)
        await engine.retry(T)
        await engine.give_back(await claimed(engine, W2))
        assert (await engine.get(T)).agent == "code"

    run(redis_server.address, body)


def test_a_wish_is_taken_back_by_naming_its_owner(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        claim = await claimed(engine)
        with pytest.raises(DeadlinePassed):
            await to_qa(engine, timeout_s=0.1)
        await hand_over(engine, T, CODE, 5)
        await engine.give_back(claim)
        assert (await engine.get(T)).agent == "code"

    run(redis_server.address, body)


def test_a_task_that_is_being_cancelled_stays(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t")])
        await claimed(engine)
        await engine.cancel(T, reason="enough")
        with pytest.raises(Conflict, match="task t is being cancelled"):
            await to_qa(engine)

    run(redis_server.address, body)


# -- what keeps a task from running goes with it ------------------------------------------------------------


def test_a_lock_is_waited_for_in_the_other_queue(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task(name, locks=("repo",)) for name in ("a", "t", "u")])
        first = await claimed(engine)
        assert await engine.claim(CODE, W2, 30) is None  # both others are aside
        assert (await to_qa(engine)).state is State.READY
        assert await engine.claim(QA, QA1, 30) is None
        await engine.release(W2, reason="stopped")
        await engine.finish(first, OK)
        second = await handed(engine, QA1)
        assert second.spec.id == "t"
        assert await engine.claim(CODE, W2, 30) is None
        await engine.finish(second, OK)
        assert (await handed(engine, W2)).spec.id == "u"

    run(redis_server.address, body)


def test_a_paused_workflow_stays_paused(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        flow = WorkflowHeader(id=WorkflowId("w-1"), name="w")
        await engine.submit([task("t", workflow="w-1")], workflow=flow)
        await engine.pause_workflow(flow.id, reason="not now")
        assert (await to_qa(engine)).agent == "qa"
        assert await engine.claim(QA, QA1, 30) is None
        await engine.resume_workflow(flow.id)
        assert (await handed(engine, QA1)).spec.id == "t"

    run(redis_server.address, body)


def test_the_tasks_of_a_paused_agent_go_on_at_another(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.pause_agent(CODE, reason="it is ill")
        await engine.submit([task("t")])
        assert await engine.claim(CODE, W1, 30) is None
        assert (await to_qa(engine)).state is State.READY
        assert await work_off(engine, W1) == []
        claim = await engine.claim(QA, QA1, 30)
        assert claim is not None

    run(redis_server.address, body)


def test_nobody_waits_any_more_and_the_next_attempt_is_the_other_s(redis_server: RedisServer) -> None:
    async def body(engine: Engine) -> None:
        await engine.submit([task("t", retry_delay_s=60.0)])
        claim = await claimed(engine)
        with pytest.raises(DeadlinePassed):
            await to_qa(engine, timeout_s=0.1)
        await engine.finish(claim, replace(BAD, retry=True))
        view = await engine.get(T)
        assert (view.agent, view.spec.agent, view.state) == ("qa", "qa", State.PENDING)

    run(redis_server.address, body)


@pytest.mark.parametrize("running", [False, True])
def test_its_undo_goes_with_it(redis_server: RedisServer, running: bool) -> None:
    async def body(engine: Engine) -> None:
        flow = WorkflowHeader(id=WorkflowId("w-1"), name="w", atomic=True)
        first = task("t", workflow="w-1", undo=(("undo-it",),))
        await engine.submit([first, task("u", "t", workflow="w-1")], workflow=flow)
        if running:
            claim = await claimed(engine)
            with pytest.raises(DeadlinePassed):
                await to_qa(engine, timeout_s=0.1)
            await engine.give_back(claim)
        else:
            await to_qa(engine)
        claim = await engine.claim(QA, QA1, 30)
        assert claim is not None
        await engine.finish(claim, OK)
        await engine.finish(await claimed(engine), BAD)
        undo = await engine.claim(QA, QA1, 30)
        assert undo is not None
        assert (undo.spec.id, undo.spec.agent) == ("t.undo", "qa")

    run(redis_server.address, body)
