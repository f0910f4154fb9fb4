"""The queue on a real server: submit, claim, finish, leases, hand-over, priority, waiting."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import re
import time
from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, W2, claimed, engine_on, handed, run, states, task, work_off

from ai_infra.connectors.redis import library
from ai_infra.core.errors import Conflict, DeadlinePassed, NotFound, UsageError
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.dashboard.source import Work
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import MOVES, NeedsRule, Outcome, State, WorkflowHeader
from ai_infra.testing import wait_until_async

S = State


def test_server_and_python_agree_on_moves(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        rows = await e.connection.call("moves")
        assert {State(r[0]): frozenset(map(State, r[1:])) for r in rows} == MOVES

    run(redis_server.address, body)


class TestSubmit:
    def test_is_seen_as_submitted(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.submit([task("b", "a", description="ü"), task("a")]) == ["b", "a"]
            view = await e.get(TaskId("b"))
            assert view.spec == task("b", "a", description="ü")
            assert (view.state, view.attempt, view.waits, view.open_needs) == (S.BLOCKED, 0, ("a",), 1)
            assert view.started_at is None
            assert abs(view.created_at.timestamp() - time.time()) < 5

        run(redis_server.address, body)

    def test_same_again_counts_once_and_different_is_refused(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            for _ in range(2):
                await e.submit([task("a"), task("b", "a")])
            with pytest.raises(Conflict, match="a exists already and is different"):
                await e.submit([task("x"), task("a", priority=9)])
            with pytest.raises(NotFound):
                await e.get(TaskId("x"))
            assert await work_off(e) == ["a", "b"]

        run(redis_server.address, body)

    def test_unknown_upstream_writes_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            with pytest.raises(NotFound, match="b needs nobody"):
                await e.submit([task("a"), task("b", "nobody")])
            assert await e.list_tasks() == []

        run(redis_server.address, body)

    def test_conflict_in_a_later_batch_undoes_the_earlier_ones(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("up"), task("t1500", priority=1)])
            many = [task(f"t{i}", "up", workflow=WorkflowId("w")) for i in range(2000)]
            with pytest.raises(Conflict):
                await e.submit(many, workflow=WorkflowHeader(id=WorkflowId("w"), name="w"))
            assert [v.id for v in await e.list_tasks()] == ["t1500", "up"]
            assert await e.list_workflows() == []
            assert (await e.counts())[CODE].delayed == 0
            assert await work_off(e) == ["up", "t1500"]

        run(redis_server.address, body)

    def test_nothing_starts_before_all_is_written(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.connection.call("submit", "sub-x", "0", "", "", 0, *_packed([task("a"), task("b", "a")]))
            assert await e.claim(CODE, W1, 30) is None
            assert await states(e, "a", "b") == {"a": S.PENDING, "b": S.PENDING}
            with pytest.raises(NotFound):  # it may still be undone
                await e.submit([task("c", "b")])
            await e.submit([task("a"), task("b", "a")])  # the client comes back and sends it again
            given = await handed(e, W1, 2)
            assert given.spec.id == "a"
            assert await e.connection.call("abort", "sub-x", 100) == 0
            assert (await e.get(TaskId("b"))).state is S.BLOCKED

        run(redis_server.address, body)

    def test_a_submit_broken_off_is_undone_by_tick(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.connection.call("submit", "sub-x", "0", "", "", 0, *_packed([task("a"), task("b", "a")]))
            assert 500 < (await e.tick() or 0) <= 600
            await e.connection.command("ZADD", "ai:subs", 1, "sub-x")
            await e.tick()
            assert await e.list_tasks() == []

        run(redis_server.address, body)

    def test_a_commit_broken_off_is_completed_by_tick(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.connection.call("submit", "sub-x", "0", "", "", 0, *_packed([task("a"), task("b")]))
            assert await e.connection.call("commit", "sub-x", 1) == 1
            await e.connection.command("ZADD", "ai:subs", 1, "sub-x")
            await e.tick()
            assert await work_off(e) == ["a", "b"]

        run(redis_server.address, body)

    @pytest.mark.parametrize("again", ["submit", "import"])
    def test_what_is_being_released_is_not_taken_back(self, redis_server: Any, again: str) -> None:
        """The same tasks come once more, in a submit or an import that breaks off."""

        async def body(e: Engine) -> None:
            both = [task("a"), task("b")]
            await e.connection.call("submit", "sub-x", "0", "", "", 0, *_packed(both))
            assert await e.connection.call("commit", "sub-x", 1) == 1
            if again == "submit":
                await e.connection.call("submit", "sub-y", "0", "", "", 0, *_packed(both))
            else:
                payloads = [await e.connection.command("GET", f"ai:p:{name}") for name in ("a", "b")]
                rows = [("a", payloads[0], "", 2, "s", "READY"), ("b", payloads[1], "", 2, "s", "READY")]
                await e.connection.call("import", "sub-y", 0, *itertools.chain(*rows))
            while await e.connection.call("abort", "sub-y", 100):
                pass
            await e.tick()
            assert await work_off(e) == ["a", "b"]

        run(redis_server.address, body)

    def test_upstreams_that_ended_before(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("good"), task("bad", priority=1)])
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            await e.submit(
                [
                    task("a", "good"),
                    task("b", "bad"),
                    task("c", "b"),
                    task("d", "bad", needs_rule=NeedsRule.ALL_DONE),
                ]
            )
            assert await states(e, "a", "b", "c", "d") == {
                "a": S.READY, "b": S.CANCELLED, "c": S.CANCELLED, "d": S.READY
            }  # fmt: skip

        run(redis_server.address, body)

    def test_ten_thousand_tasks(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            layers = [[f"t{i}-{k}" for k in range(100)] for i in range(100)]
            many = [
                task(name, *(random.sample(layers[i - 1], 3) if i else ()))
                for i, layer in enumerate(layers)
                for name in layer
            ]
            began = time.monotonic()
            await e.submit(many)
            assert time.monotonic() - began < 6
            order = await work_off(e)
            assert len(order) == 10_000
            place = {name: i for i, name in enumerate(order)}
            assert all(place[n] < place[t.id] for t in many for n in t.needs)

        run(redis_server.address, body, timeout_s=60)


def _packed(specs: list[Any]) -> list[Any]:
    from ai_infra.tasks.submit import batches

    return next(batches(specs))[1]


class TestClaim:
    def test_priority_then_age(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            many = [task(f"t{i}", priority=random.randint(1, 10)) for i in range(300)]
            for first in range(0, 300, 30):
                await e.submit(many[first : first + 30])
            by_priority = sorted(range(300), key=lambda i: (-many[i].priority, i))
            assert await work_off(e) == [f"t{i}" for i in by_priority]

        run(redis_server.address, body)

    def test_only_its_own_agent(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", agent=AgentName("qa"))])
            assert await e.claim(CODE, W1, 30) is None
            assert await e.claim(AgentName("qa"), WorkerId("qa.1"), 30) is not None

        run(redis_server.address, body)

    def test_what_was_given_and_not_heard_is_given_again(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            first = await claimed(e)
            again = await e.claim(CODE, W1, 30, holding=())
            assert again == first
            assert (await claimed(e)).spec.id == "b"

        run(redis_server.address, body)

    def test_attempt_and_fence_grow(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            for attempt in (1, 2, 3):
                claim = await claimed(e)
                assert (claim.attempt, claim.fence) == (attempt, attempt)
                await e.finish(claim, Outcome(ok=False, error="x"))
                await e.tick()

        run(redis_server.address, body)


def test_an_agents_first_task_is_listed(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task("a")])
        assert [view.id for view in await e.list_tasks(agent=CODE)] == ["a"]
        assert await e.list_tasks(agent=AgentName("other")) == []

    run(redis_server.address, body)


class TestFinish:
    def test_result_is_kept(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            result = {"exit_codes": [0], "output_tail": "é\udcff\n", "deep": {"x": None}}
            assert await e.finish(await claimed(e), Outcome(ok=True, result=result)) == (S.COMPLETED, None)
            view = await e.get(TaskId("a"))
            assert view.result == result
            assert view.started_at is not None
            assert view.finished_at is not None
            assert view.finished_at >= view.started_at

        run(redis_server.address, body)

    def test_too_big_a_result_is_refused_and_the_task_still_held(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            claim = await claimed(e)
            with pytest.raises(UsageError, match="65536"):
                await e.finish(claim, Outcome(ok=True, result={"x": "y" * 70_000}))
            assert await e.finish(claim, OK) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_ghost_is_refused(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            ghost = await claimed(e)
            assert await e.release(W1, reason="it died") == ["a"]
            with pytest.raises(Conflict, match="a is READY"):
                await e.finish(ghost, OK)
            heir = await claimed(e, W2)
            for outcome in (OK, BAD):
                with pytest.raises(Conflict, match="no longer held"):
                    await e.finish(ghost, outcome)
            with pytest.raises(Conflict):
                await e.start(ghost)
            with pytest.raises(Conflict):
                await e.give_back(ghost)
            assert await e.finish(heir, OK) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_ghost_of_the_same_worker_is_refused(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            ghost = await claimed(e)
            await e.connection.command("ZADD", "ai:leases", 1, W1)
            await e.tick()
            heir = await claimed(e)
            with pytest.raises(Conflict, match="no longer held"):
                await e.finish(ghost, BAD)
            assert await e.finish(heir, OK) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_again_after_a_lost_answer(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b"), task("c")])
            claim = await claimed(e)
            async with engine_on(redis_server.address) as other:  # takes the call, and its answer is lost
                await other.finish(claim, OK, take_next=True)
            state, following = await e.finish(claim, OK, take_next=True)
            assert state is S.COMPLETED
            assert following is not None
            assert following.spec.id == "b"
            assert (await e.counts())[CODE].completed == 1

        run(redis_server.address, body)

    def test_retries_then_dead_letter(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", max_attempts=2, retry_delay_s=0.2)])
            failed = Outcome(ok=False, error="no such file", result={"n": 1}, reason="exit 1")
            assert await e.finish(await claimed(e), failed) == (S.PENDING, None)
            due = await e.tick()
            assert due is not None
            assert 0 < due <= 0.2
            assert await e.claim(CODE, W1, 30) is None
            ticking = asyncio.create_task(e.run_timers())
            given = await handed(e, W1, 5)
            ticking.cancel()
            assert given.attempt == 2
            assert await e.finish(given, failed) == (S.FAILED, None)
            view = await e.get(TaskId("a"))
            assert (view.error, view.result) == ("no such file", {"n": 1})
            assert [v.id for v in await e.list_tasks(state=S.FAILED)] == ["a"]

        run(redis_server.address, body)

    def test_not_worth_a_retry(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            assert await e.finish(await claimed(e), BAD) == (S.FAILED, None)

        run(redis_server.address, body)


class TestLeases:
    def test_an_ended_lease_puts_the_task_back(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            claim = await e.claim(CODE, W1, 0.05)
            assert claim
            assert await e.claim(CODE, W2, 30) is None
            ticking = asyncio.create_task(e.run_timers())
            given = await handed(e, W2, 5)
            ticking.cancel()
            assert given.attempt == 2
            with pytest.raises(Conflict):
                await e.finish(claim, OK)

        run(redis_server.address, body)

    def test_beats_renew_it(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            claim = await e.claim(CODE, W1, 0.2)
            assert claim
            until = time.monotonic() + 0.6
            while time.monotonic() < until:
                await e.beat("code", W1, {}, lease_s=0.2)
                await e.tick()
                await asyncio.sleep(0.02)
            assert await e.finish(claim, OK) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_poison_ends_as_a_dead_letter(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", max_attempts=1)])
            for n in range(5):
                claim = await claimed(e, WorkerId(f"code.{n}"))
                assert claim.attempt == n + 1
                await e.release(claim.worker, reason="killed by signal 9")
            view = await e.get(TaskId("a"))
            assert view.state is S.FAILED
            assert view.error == "poison: its worker died 5 times; the last time: killed by signal 9"
            await e.retry(TaskId("a"))
            assert (await e.get(TaskId("a"))).deaths == 0
            await e.release((await claimed(e)).worker, reason="killed by signal 9")
            assert (await e.get(TaskId("a"))).state is S.READY

        run(redis_server.address, body)

    @pytest.mark.parametrize("how", ["death", "lease", "retired", "stopped", "given back"])
    def test_a_run_without_an_outcome_uses_up_no_attempt(self, redis_server: Any, how: str) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", max_attempts=2)])
            claim = await claimed(e)
            if how == "death":
                assert await e.release(W1, reason="killed by signal 9") == ["a"]
                assert await e.release(W1, reason="killed by signal 9") == []
            elif how == "lease":
                await e.connection.command("ZADD", "ai:leases", 1, W1)
                await e.tick()
            elif how == "retired":
                assert await e.retire_older(CODE, W2) == ["a"]
            elif how == "stopped":
                assert await e.release(W1, reason="stopped", count_attempt=False) == ["a"]
            else:
                await e.give_back(claim)
            view = await e.get(TaskId("a"))
            assert (view.state, view.deaths) == (S.READY, int(how not in ("stopped", "given back")))
            for attempt, end in ((2, S.PENDING), (3, S.FAILED)):  # two that count, and no number twice
                claim = await claimed(e)
                assert claim.attempt == attempt
                assert (await e.get(TaskId("a"))).last_attempt == 3
                assert (await e.finish(claim, Outcome(ok=False, error="x")))[0] is end
                await e.tick()

        run(redis_server.address, body)

    def test_the_delay_of_a_retry_does_not_grow_with_deaths(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", retry_delay_s=1.0)])
            for _ in range(4):
                await e.release((await claimed(e)).worker, reason="killed by signal 9")
            await e.finish(await claimed(e), Outcome(ok=False, error="x"))
            due = await e.tick()
            assert due is not None
            assert due <= 1

        run(redis_server.address, body)

    def test_a_handed_task_that_never_began_costs_no_attempt(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task("a", max_attempts=1)])
            assert (await e.get(TaskId("a"))).state is S.ASSIGNED
            await e.release(W1, reason="died asleep")
            assert (await claimed(e, W2)).attempt == 1

        run(redis_server.address, body)

    def test_a_dead_worker_that_slept_is_not_handed_its_own(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await claimed(e)
            assert await e.claim(CODE, W1, 30) is None  # works on one, asks for another
            await e.release(W1, reason="died")
            assert (await e.get(TaskId("a"))).state is S.READY
            assert (await e.counts())[CODE].idle_workers == 0

        run(redis_server.address, body)

    def test_retire_older(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"t{i}") for i in range(3)])
            await claimed(e, W1)
            await claimed(e, WorkerId("code.0"))
            mine = await claimed(e, W2)
            await e.claim(AgentName("qa"), WorkerId("qa.1"), 30)
            assert sorted(await e.retire_older(CODE, W2)) == ["t0", "t1"]
            assert await e.finish(mine, OK) == (S.COMPLETED, None)
            assert (await e.counts())[AgentName("qa")].idle_workers == 1

        run(redis_server.address, body)


class TestHandOver:
    def test_wakes_at_once_and_needs_start(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            waiting = asyncio.create_task(handed(e))
            await e.submit([task("a")])
            given = await waiting
            assert given.state is S.ASSIGNED
            await e.start(given)
            await e.start(given)
            assert (await e.get(TaskId("a"))).state is S.IN_PROGRESS
            assert await e.finish(given, OK, take_next=True) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_the_last_to_sleep_is_woken_first(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await asyncio.sleep(0.005)
            assert await e.claim(CODE, W2, 30) is None
            await e.submit([task("a")])
            assert (await e.get(TaskId("a"))).worker == W2

        run(redis_server.address, body)

    def test_a_cancelled_wait_loses_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            for i in range(50):
                assert await e.claim(CODE, W1, 30) is None
                waiting = asyncio.create_task(handed(e))
                await asyncio.sleep(0)
                submitting = asyncio.create_task(e.submit([task(f"t{i}")]))
                await asyncio.sleep(0.0002 * (i % 10))
                waiting.cancel()
                await asyncio.wait([waiting])
                given = await handed(e) if waiting.cancelled() else waiting.result()
                await submitting
                assert given.spec.id == f"t{i}"
                await e.finish(given, OK)

        run(redis_server.address, body)

    def test_claim_and_notice_do_not_give_it_twice(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task("a")])
            claim = await claimed(e)  # the notice still lies in the inbox
            assert claim.state is S.IN_PROGRESS
            assert await e.next_notice(W1, 0.05) is None
            await e.finish(claim, OK)
            assert await e.next_notice(W1, 0.05) is None

        run(redis_server.address, body)

    def test_no_wake_up_is_lost(self, redis_server: Any) -> None:
        """Submits and claims race, many times; every task is done, and soon."""

        async def worker(e: Engine, me: WorkerId, done: list[str], total: int) -> None:
            claim = await e.claim(CODE, me, 30)
            while len(done) < total:
                if claim is None:
                    notice = await e.next_notice(me, 0.3)
                    if notice is None:
                        continue
                    claim = notice.claim
                    assert claim is not None
                    await e.start(claim)
                done.append(claim.spec.id)
                _, claim = await e.finish(claim, OK, take_next=True)

        async def body(e: Engine) -> None:
            done: list[str] = []
            async with asyncio.TaskGroup() as group:
                for n in range(3):
                    group.create_task(worker(e, WorkerId(f"code.{n}"), done, 600))
                for i in range(600):
                    await e.submit([task(f"t{i}")])
                    if i % 3 == 0:
                        await asyncio.sleep(random.random() * 0.002)
            assert sorted(done) == sorted(f"t{i}" for i in range(600))

        run(redis_server.address, body)

    def test_a_sleeper_unheard_of_is_passed_over_until_it_beats(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await e.connection.command("ZADD", "ai:seen", 1, W1)
            await e.submit([task("a")])
            assert (await e.get(TaskId("a"))).state is S.READY
            await e.beat("code", W1)
            given = await handed(e, W1, 2)
            assert given.spec.id == "a"

        run(redis_server.address, body)

    def test_a_sleeper_wrongly_thought_dead_comes_back(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            async with engine_on(redis_server.address) as supervisor:
                await supervisor.release(W1, reason="thought dead")
                await supervisor.submit([task("a")])
            given = await handed(e, W1, 0.05)
            assert given.spec.id == "a"

        run(redis_server.address, body)


class TestWait:
    def test_until_all_have_ended(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a"), task("c", priority=1)])
            waiting = asyncio.create_task(e.wait([TaskId("c"), TaskId("b"), TaskId("a")], 5))
            await asyncio.sleep(0.02)
            assert await work_off(e) == ["a", "b", "c"]
            assert [(v.id, v.state) for v in await waiting] == [
                ("c", S.COMPLETED), ("b", S.COMPLETED), ("a", S.COMPLETED)
            ]  # fmt: skip
            assert len(await e.wait([TaskId("a")], 0.1)) == 1
            leftovers = await e.connection.command("KEYS", "ai:waiters:*")
            assert leftovers == []

        run(redis_server.address, body)

    def test_deadline_and_unknown(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            with pytest.raises(DeadlinePassed, match="1 of 1 tasks"):
                await e.wait([TaskId("a")], 0.05)
            with pytest.raises(NotFound, match="nobody"):
                await e.wait([TaskId("nobody")], 0.05)
            assert await e.connection.command("KEYS", "ai:waiters:*") == []

        run(redis_server.address, body)

    def test_events_in_order_and_blocking(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            after = await e.last_event_id()
            assert await e.events(after, 0) == []
            waiting = asyncio.create_task(e.events(after, 5))
            await asyncio.sleep(0.02)
            await e.submit([task("a", workflow=WorkflowId("w"))])
            seen = await waiting
            await e.finish(await claimed(e), OK)
            seen += await e.events(seen[-1].id, 0)
            assert [(x.from_state, x.to_state) for x in seen] == [
                (None, S.PENDING),
                (S.PENDING, S.READY),
                (S.READY, S.IN_PROGRESS),
                (S.IN_PROGRESS, S.COMPLETED),
            ]
            assert (seen[-1].task, seen[-1].workflow, seen[-1].worker, seen[-1].attempt) == ("a", "w", W1, 1)
            assert await e.events(seen[-1].id, 0.05) == []

        run(redis_server.address, body)


class TestBeats:
    def test_payload_and_age(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.beat("monitor", None, {"state": "ok"})
            view = (await e.beats())["monitor"]
            assert view.payload == {"state": "ok"}
            assert 0 <= view.age_s < 5
            await e.forget_beat("monitor")
            assert await e.beats() == {}

        run(redis_server.address, body)

    def test_cancelled_and_lost(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            await claimed(e)
            await claimed(e)
            await e.cancel(TaskId("a"), reason="not needed")
            assert (await e.beat("code", W1)).cancelled == ("a",)
            async with engine_on(redis_server.address) as supervisor:
                await supervisor.release(W1, reason="thought dead")
            beat = await e.beat("code", W1)
            assert beat.cancelled == ()
            assert beat.lost == ("a", "b")

        run(redis_server.address, body)

    def test_suspects_need_a_majority(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            names = ("a", "b", "c", "silent")
            for name in names:
                await e.beat(name)
            await e.connection.command("ZADD", "ai:beats", 1, "silent")
            assert (await e.beat("a")).suspects == ()
            assert (await e.beat("a")).suspects == ()
            assert (await e.beat("b")).suspects == ("silent",)
            await e.beat("silent")
            assert (await e.beat("c")).suspects == ()

        run(redis_server.address, body)

    def test_the_only_one_alive_decides_but_not_in_its_first_beat(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.beat("silent")
            await e.connection.command("ZADD", "ai:beats", 1, "silent")
            assert (await e.beat("a")).suspects == ()
            assert (await e.beat("a")).suspects == ("silent",)
            await e.connection.command("ZADD", "ai:beats", 1, "a")  # the machine was suspended
            assert (await e.beat("a")).suspects == ()

        run(redis_server.address, body)

    def test_timers_run_when_nobody_ticks(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await e.claim(CODE, W1, 30)
            await e.connection.command("ZADD", "ai:leases", 1, W1)
            await e.connection.command("SET", "ai:timer", 1)
            await e.beat("monitor")
            assert (await e.get(TaskId("a"))).state is S.READY

        run(redis_server.address, body)


class TestTimers:
    def test_none_set(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.tick() is None

        run(redis_server.address, body)

    def test_an_earlier_timer_wakes_the_ticker(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            sleeping = asyncio.create_task(e.wait_timer(await e.tick()))
            await asyncio.sleep(0.02)
            await e.submit([task("a")])
            await e.claim(CODE, W1, 20)
            await asyncio.wait_for(sleeping, 2)
            assert 19 < (await e.tick() or 0) <= 20

        run(redis_server.address, body)

    def test_a_promise_to_look_again_outlives_its_timer(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"t{i}") for i in range(4)])
            for _ in range(4):
                await e.finish(await claimed(e), OK)
                assert 29 < (await e.tick() or 0) <= 30
            assert await e.connection.command("LLEN", "ai:timer:inbox") == 1  # woken by the first claim only

        run(redis_server.address, body)

    def test_a_busy_queue_does_not_keep_the_ticker_awake(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            ticks = 0
            real = e.tick

            async def counted() -> float | None:
                nonlocal ticks
                ticks += 1
                return await real()

            e.tick = counted  # type: ignore[method-assign]  # only to count
            ticking = asyncio.create_task(e.run_timers())
            await e.submit([task(f"t{i}") for i in range(300)])
            for _ in range(300):
                await e.finish(await claimed(e), OK)
            ticking.cancel()
            assert ticks <= 3

        run(redis_server.address, body)


class TestLooking:
    def test_lists_and_finds(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            header = WorkflowHeader(id=WorkflowId("w"), name="flow", params={"a": "b"})
            flow = [task("w.a", workflow=WorkflowId("w")), task("w.b", "w.a", workflow=WorkflowId("w"))]
            await e.submit(flow, workflow=header)
            await e.submit([task("x", agent=AgentName("qa"))])
            ids = [v.id for v in await e.list_tasks()]
            assert ids == ["x", "w.b", "w.a"]
            assert [v.id for v in await e.list_tasks(limit=1)] == ["x"]
            assert [v.id for v in await e.list_tasks(agent=CODE)] == ["w.b", "w.a"]
            assert [v.id for v in await e.list_tasks(workflow=WorkflowId("w"), state=S.BLOCKED)] == ["w.b"]
            assert [v.id for v in await e.list_tasks(state=S.READY)] == ["x", "w.a"]
            assert await e.find_by_prefix("w.") == ["w.b", "w.a"]
            assert await e.find_by_prefix("nothing") == []
            view = await e.workflow(WorkflowId("w"))
            assert (view.header, view.state) == (header, S.READY)
            assert [t.id for t in view.tasks] == ["w.a", "w.b"]
            await claimed(e)
            assert [v.id for v in await e.list_tasks(state=S.IN_PROGRESS)] == ["w.a"]
            (row,) = await e.list_workflows()
            assert row.counts == {S.IN_PROGRESS: 1, S.BLOCKED: 1}
            with pytest.raises(NotFound):
                await e.workflow(WorkflowId("none"))
            with pytest.raises(Conflict):
                await e.submit([], workflow=header) or await e.submit(
                    [task("z")], workflow=WorkflowHeader(id=WorkflowId("w"), name="other")
                )

        run(redis_server.address, body)

    def test_the_last_that_ended_come_first(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("old"), task("new")])
            old, new = await claimed(e), await claimed(e)
            await e.finish(new, OK)
            await wait_until_async(lambda: _later_than(e, "new"), 2, "the next ms")
            await e.finish(old, OK)
            assert [v.id for v in await e.list_tasks(state=S.COMPLETED)] == ["old", "new"]
            assert [v.id for v in await e.list_tasks(state=S.COMPLETED, limit=1)] == ["old"]

        run(redis_server.address, body)

    def test_looks_at_no_more_than_it_shows(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"t{i:04}") for i in range(1500)])
            await e.claim(AgentName("qa"), WorkerId("qa.1"), 30)
            for agent, states_, reads in (
                (None, None, 10), (None, S.PENDING, 0), (CODE, None, 10),
                (AgentName("qa"), None, 0), (AgentName("qa"), S.COMPLETED, 0), (AgentName("none"), None, 0),
            ):  # fmt: skip
                await e.connection.command("CONFIG", "RESETSTAT")
                await e.list_tasks(agent=agent, state=states_, limit=10)
                gates = 1 if reads else 0
                assert await _calls(e, "hmget") == 2 * reads + gates, (agent, states_)
            assert len(await e.list_tasks(limit=1000)) == 1000
            assert [v.id for v in await e.list_tasks(limit=401)][-1] == "t1099"

        run(redis_server.address, body)

    def test_counting_an_idle_agent_reads_no_minutes(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await e.connection.command("CONFIG", "RESETSTAT")
            assert (await e.counts())[CODE].hour_done == 0
            assert await _calls(e, "hmget") == 1  # the gate
            await work_off(e)
            await e.connection.command("CONFIG", "RESETSTAT")
            assert (await e.counts())[CODE].hour_done == 1
            assert await _calls(e, "hmget") <= 3

        run(redis_server.address, body)

    def test_the_monitor_reads_work_again_only_when_it_moved(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            work = Work()
            await e.submit(
                [task("a", workflow=WorkflowId("w"))], workflow=WorkflowHeader(id=WorkflowId("w"), name="w")
            )
            await work.refresh(e)
            assert ([t.id for t in work.tasks], len(work.workflows)) == ([], 1)
            await e.pause_workflow(WorkflowId("w"), "x")  # which is no move
            await work.refresh(e, ("w",))
            assert work.workflows[0].paused == "x"
            await e.resume_workflow(WorkflowId("w"))
            claim = await claimed(e)
            await work.refresh(e)
            assert [t.id for t in work.tasks] == ["a"]
            await e.connection.command("CONFIG", "RESETSTAT")
            await work.refresh(e)
            assert await _calls(e, "fcall") == 0
            await e.finish(claim, OK)
            await work.refresh(e)
            assert [t.state for t in work.tasks] == [S.COMPLETED]
            assert work.workflows == ()

        run(redis_server.address, body)

    def test_counts(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit(
                [task("a"), task("b", "a"), task("c", retry_delay_s=60.0), task("d"), task("e", "d")]
            )
            await e.finish(await claimed(e), OK)  # a; b is ready now
            c = await claimed(e)
            assert c.spec.id == "b"
            await e.finish(c, BAD)
            await e.finish(await claimed(e), Outcome(ok=False, error="x"))
            await claimed(e)
            assert await e.claim(CODE, W2, 30) is None
            n = (await e.counts())[CODE]
            assert (n.ready, n.active, n.blocked, n.delayed, n.completed, n.failed) == (0, 1, 1, 1, 1, 1)
            assert (n.idle_workers, n.hour_done, n.hour_failed, n.hour_retried) == (1, 1, 1, 1)
            assert n.hour_mean_wait_s is not None

        run(redis_server.address, body)


async def _later_than(e: Engine, name: str) -> bool:
    ended = (await e.get(TaskId(name))).finished_at
    seconds, micros = await e.connection.command("TIME")
    assert ended is not None
    return int(seconds) * 1000 + int(micros) // 1000 > round(ended.timestamp() * 1000)


async def _calls(e: Engine, command: str) -> int:
    """How often the server ran a command since the last RESETSTAT."""
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", await e.connection.command("INFO", "commandstats"))
    return int(found[1]) if found else 0


def test_library_code_carries_its_digest() -> None:
    code, digest = library()
    assert f"DIGEST = '{digest}'" in code
    assert json.dumps(digest).isascii()
