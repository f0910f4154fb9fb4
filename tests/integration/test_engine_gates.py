"""What keeps a READY task from running: locks, pauses, rates; and times: later, deadlines, ages, keys."""

from __future__ import annotations

import asyncio
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from engine_kit import CODE, OK, W1, W2, claimed, engine_on, handed, run, states, task, work_off

from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import Conflict
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.spec import SpecError
from ai_infra.tasks.task import CANCELLED_REASON, NeedsRule, Outcome, WorkflowHeader
from ai_infra.tasks.task import State as S

A, B = TaskId("a"), TaskId("b")
DATA = AgentName("data")
D1 = WorkerId("data.1")


def in_s(seconds: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=seconds)


class TestLocks:
    def test_one_at_a_time_and_what_needs_no_lock_goes_by(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", locks=("repo",)), task("b", locks=("repo",)), task("c")])
            first = await claimed(e, W1)
            assert (await claimed(e, W2)).spec.id == "c"
            held = await e.get(B)
            assert (held.kept_by, held.kept_why) == ("lock repo", "a")
            assert (await e.get(B)).state is S.READY
            assert (await e.counts())[CODE].ready == 1
            assert await e.list_tasks(state=S.READY)
            _, following = await e.finish(first, OK, take_next=True)
            assert following is not None
            assert (following.spec.id, (await e.get(B)).kept_by) == ("b", "")

        run(redis_server.address, body)

    def test_across_agents_a_sleeping_one_is_woken(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", locks=("repo",))])
            first = await claimed(e)
            await e.submit([task("b", agent=DATA, locks=("repo", "db"))])
            assert await e.claim(DATA, D1, 30) is None
            await e.finish(first, OK)
            assert (await handed(e, D1)).spec.id == "b"

        run(redis_server.address, body)

    @pytest.mark.parametrize("how", ["dies", "fails", "is cancelled", "gives back"])
    def test_a_lock_is_free_however_its_holder_ends(self, redis_server: Any, how: str) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", locks=("repo",), priority=9), task("b", locks=("repo",))])
            first = await claimed(e)
            assert await e.claim(CODE, W2, 30) is None
            if how == "dies":
                await e.release(W1, reason="killed")
            elif how == "fails":
                await e.finish(first, Outcome(ok=False, retry=False, error="no"))
            elif how == "is cancelled":
                await e.cancel(A, reason="x")
                await e.finish(first, Outcome(ok=False, reason=CANCELLED_REASON))
            else:
                await e.give_back(first)
            came = await handed(e, W2)
            assert came.spec.id == ("a" if how in ("dies", "gives back") else "b")

        run(redis_server.address, body)

    def test_the_one_that_was_next_is_cancelled(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(n, locks=("repo",)) for n in "abc"])
            first = await claimed(e, W1)
            assert await e.claim(CODE, W2, 30) is None
            await e.pause_agent(CODE, "so that b is queued, not handed")
            await e.finish(first, OK)
            await e.cancel(B, reason="x")
            await e.resume_agent(CODE)
            assert (await handed(e, W2)).spec.id == "c"

        run(redis_server.address, body)

    def test_priority_among_those_that_wait(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", locks=("repo",))])
            await e.submit([task(f"t{p}", locks=("repo",), priority=p) for p in (3, 9, 6)])
            first = await claimed(e)
            order = []
            following = first
            while following is not None:
                order.append(following.spec.id)
                _, following = await e.finish(following, OK, take_next=True)
            assert order == ["t9", "t6", "a", "t3"]

        run(redis_server.address, body)

    def test_priority_across_agents_and_none_is_starved(self, redis_server: Any) -> None:
        """Six agents: whoever comes first in a set of names must not come first in the queue."""

        async def body(e: Engine) -> None:
            agents = [AgentName(name) for name in ("qa", "data", "infra", "code", "research", "web")]
            await e.submit([task("first", locks=("repo",))])
            holding = await claimed(e)
            for agent in agents:
                assert await e.claim(agent, WorkerId(f"{agent}.1"), 30) is None
            wanted = [(8, 3), (2, 5), (9, 0), (5, 1), (7, 2), (3, 4)]
            await e.submit(
                [task(f"t{place}", agent=agents[place], priority=p, locks=("repo",)) for p, place in wanted]
            )
            came = []
            for _ in wanted:
                await e.finish(holding, OK)
                (running,) = [view for view in await e.list_tasks() if view.state is S.ASSIGNED]
                holding = await handed(e, WorkerId(f"{running.agent}.1"))
                came.append(holding.spec.priority)
            assert came == sorted(came, reverse=True)

        run(redis_server.address, body)

    def test_two_locks_each_and_nobody_is_stuck(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            kinds = [("x",), ("y",), ("x", "y"), ("y", "x")]
            await e.submit([task(f"t{i}", locks=kinds[i % 4], priority=1 + i % 10) for i in range(200)])
            ended = 0
            while await asyncio.gather(*(work_off(e, w) for w in (W1, W2))) != [[], []]:
                pass
            ended = sum(v.state is S.COMPLETED for v in await e.list_tasks(limit=300))
            assert ended == 200

        run(redis_server.address, body)

    def test_many_that_wait_cost_one_look_each(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"t{i:04}", locks=("repo",)) for i in range(3000)])
            first = await claimed(e)
            timers = asyncio.create_task(e.run_timers())
            async with asyncio.timeout(20):
                while await e.claim(CODE, W2, 30) is not None or await e.tick() == 0:
                    pass
            assert await e.finish(first, OK) == (S.COMPLETED, None)
            assert (await handed(e, W2)).spec.id == "t0001"
            timers.cancel()

        run(redis_server.address, body)

    def test_very_many_that_wait_for_two_do_not_hold_redis_up(self, redis_server: Any) -> None:
        """One lock is free, the other is not: each is looked at, for one of them may need only the first."""

        async def body(e: Engine) -> None:
            await e.submit([task("x", locks=("a",)), task("y", locks=("b",))])
            x, y = await claimed(e, W1), await claimed(e, W2)
            await e.submit([task(f"t{n}", locks=("a", "b")) for n in range(900)])
            await e.submit([task("z", locks=("a",), priority=1)])
            while await e.tick() == 0:
                pass
            assert await e.connection.command("ZCARD", "ai:wants:a code") == 901
            await e.finish(x, OK)
            assert await e.connection.command("ZCARD", "ai:wants:a code") == 401
            assert await e.claim(CODE, W1, 30) is None
            while await e.tick() == 0:
                pass
            last = await handed(e)
            assert last.spec.id == "z"
            await e.finish(y, OK)
            await e.finish(last, OK)
            while await e.tick() == 0:
                pass
            assert len(await work_off(e)) == 900
            assert await e.connection.command("EXISTS", "ai:freed") == 0

        run(redis_server.address, body)


class TestPauses:
    def test_a_paused_agent_finishes_and_begins_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            first = await claimed(e)
            await e.pause_agent(CODE, "disk is full")
            assert (await e.counts())[CODE].paused == "disk is full"
            assert await e.finish(first, OK, take_next=True) == (S.COMPLETED, None)
            await e.submit([task("c", priority=9)])
            assert await e.claim(CODE, W2, 30) is None
            kept = await e.get(B)
            assert (kept.kept_by, kept.kept_why) == ("agent", "disk is full")
            assert (await e.beat(CODE, W1)).paused == "disk is full"
            assert (await e.beat("monitor")).paused == ""
            await e.resume_agent(CODE)
            assert (await e.beat(CODE, W1)).paused == ""
            got = {(await handed(e, W1)).spec.id, (await handed(e, W2)).spec.id}
            assert got == {"b", "c"}
            assert (await e.counts())[CODE].paused == ""

        run(redis_server.address, body)

    def test_a_paused_workflow(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            flow = WorkflowId("w")
            specs = [
                task("a", workflow=flow),
                task("b", "a", workflow=flow),
                task("c", workflow=flow, locks=("x",)),
            ]
            await e.submit(specs, workflow=WorkflowHeader(id=flow, name="w"))
            await e.submit([task("other", priority=1)])
            first = await claimed(e)
            await e.pause_workflow(flow, "a person said so")
            assert (await e.workflow(flow)).paused == "a person said so"
            await e.finish(first, OK)
            kept = await e.get(B)
            assert (kept.kept_by, kept.kept_why) == ("flow", "a person said so")
            [paused] = await e.paused_workflows()
            assert (paused.header.id, paused.paused) == (flow, "a person said so")
            assert await work_off(e) == ["other"]
            await e.resume_workflow(flow)
            assert (await handed(e)).spec.id == "b"
            assert (await claimed(e)).spec.id == "c"
            assert (await e.workflow(flow)).paused == ""
            assert await e.paused_workflows() == []

        run(redis_server.address, body)

    def test_a_task_of_a_paused_workflow_can_be_cancelled(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            flow = WorkflowId("w")
            await e.submit([task("a", workflow=flow)], workflow=WorkflowHeader(id=flow, name="w"))
            await e.pause_workflow(flow, "x")
            await e.cancel(A, reason="x")
            await e.resume_workflow(flow)
            assert await states(e, "a") == {"a": S.CANCELLED}
            assert await e.claim(CODE, W1, 30) is None

        run(redis_server.address, body)


class TestRates:
    def test_evenly_spaced_and_the_sleeper_is_woken_in_time(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.limit_agent(CODE, 600)  # one in 100 ms
            timers = asyncio.create_task(e.run_timers())
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task(f"t{i}", priority=i + 1) for i in range(4)])
            order = []
            for _ in range(4):
                claim = await handed(e, W1)
                order.append(claim.spec.id)
                _, following = await e.finish(claim, OK, take_next=True)
                assert following is None
            began = [event.at for event in await e.events() if event.to_state is S.ASSIGNED]
            assert min(b - a for a, b in itertools.pairwise(began)) >= timedelta(milliseconds=99)
            assert order[1:] == ["t3", "t2", "t1"] or order == ["t3", "t2", "t1", "t0"]
            timers.cancel()

        run(redis_server.address, body)

    def test_a_limit_taken_away(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.limit_agent(CODE, 0.1)
            await e.submit([task("a"), task("b")])
            first = await claimed(e)
            assert await e.finish(first, OK, take_next=True) == (S.COMPLETED, None)
            kept = await e.get(B)
            assert kept.kept_by == "rate"
            assert (
                timedelta(minutes=9) < (kept.due_at or in_s(0)) - datetime.now(UTC) <= timedelta(minutes=10)
            )
            assert (await e.counts())[CODE].rate_per_minute == 0.1
            await e.limit_agent(CODE, 0)
            assert (await e.counts())[CODE].rate_per_minute == 0
            assert (await handed(e)).spec.id == "b"

        run(redis_server.address, body)

    def test_a_limit_that_is_raised_counts_from_now(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            timers = asyncio.create_task(e.run_timers())
            await e.limit_agent(CODE, 0.1)
            await e.submit([task("a"), task("b")])
            assert await e.finish(await claimed(e), OK, take_next=True) == (S.COMPLETED, None)
            await e.limit_agent(CODE, 600)
            assert (await handed(e)).spec.id == "b"
            timers.cancel()

        run(redis_server.address, body)


class TestTimes:
    def test_not_before(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            timers = asyncio.create_task(e.run_timers())
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task("a", not_before=in_s(0.2)), task("b", "a", not_before=in_s(3600))])
            assert await states(e, "a", "b") == {"a": S.PENDING, "b": S.PENDING}
            due = (await e.get(B)).due_at
            assert due is not None
            assert timedelta(seconds=3590) < due - datetime.now(UTC) <= timedelta(seconds=3600)
            claim = await handed(e)
            assert datetime.now(UTC) >= (claim.spec.not_before or in_s(9))
            await e.finish(claim, Outcome(ok=False, retry=False, error="no"))
            assert await states(e, "b") == {"b": S.CANCELLED}
            timers.cancel()

        run(redis_server.address, body)

    def test_later_and_its_upstream_is_not_done_by_then(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a", not_before=in_s(0.05))])
            while await e.tick() == 0 or await states(e, "b") == {"b": S.PENDING}:
                await e.wait_timer(0.02)
            assert await states(e, "b") == {"b": S.BLOCKED}
            assert await work_off(e) == ["a", "b"]

        run(redis_server.address, body)

    @pytest.mark.parametrize("which", ["a", "b"])
    def test_trying_again_is_not_before_its_time(self, redis_server: Any, which: str) -> None:
        async def body(e: Engine) -> None:
            later = in_s(3600)
            await e.submit([task("a", not_before=later), task("b", "a", not_before=later)])
            await e.cancel(A, reason="x")
            await e.retry(A)
            assert await states(e, "a", "b") == {"a": S.PENDING, "b": S.PENDING}
            for name in ("a", "b"):
                assert abs((await e.get(TaskId(name))).due_at - later) < timedelta(seconds=1)  # type: ignore[operator]
                if name == which:
                    await e.connection.command("HSET", f"ai:t:{name}", "nb", 1)
                    await e.connection.command("ZADD", "ai:delay", "XX", 1, name)
                    await e.tick()
            wanted = {"a": {"a": S.READY, "b": S.PENDING}, "b": {"a": S.PENDING, "b": S.BLOCKED}}
            assert await states(e, "a", "b") == wanted[which]

        run(redis_server.address, body)

    def test_a_deadline_that_passes_in_every_state(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            end = in_s(0.3)
            await e.submit([task("run", deadline_at=end)])
            running = await claimed(e)
            await e.pause_agent(CODE, "so that nothing else begins")
            specs = [task("ready", deadline_at=end), task("blocked", "run", deadline_at=end)]
            specs += [task("later", deadline_at=end, not_before=in_s(0.2)), task("after", "ready")]
            await e.submit(specs)
            timers = asyncio.create_task(e.run_timers())
            notice = await e.next_notice(W1, 5)
            assert notice is not None
            assert (notice.kind, notice.reason) == ("cancel", "its deadline has passed")
            state, _ = await e.finish(running, Outcome(ok=False, reason=CANCELLED_REASON))
            assert state is S.FAILED
            assert (await e.get(TaskId("run"))).error == "its deadline has passed"
            names = ("blocked", "later", "ready")
            async with asyncio.timeout(5):
                while await states(e, *names) != dict.fromkeys(names, S.FAILED):
                    await e.last_event_id()
            assert await states(e, "after") == {"after": S.CANCELLED}
            timers.cancel()

        run(redis_server.address, body)

    def test_a_deadline_of_what_ended_in_time_does_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", deadline_at=in_s(0.05))])
            assert await work_off(e) == ["a"]
            assert await e.connection.command("ZCARD", "ai:deadlines") == 0

        run(redis_server.address, body)

    def test_age_makes_up_for_priority(self, redis_server: Any) -> None:
        async def main() -> None:
            connection = await Connection.open(redis_server.address)
            e = Engine(connection, aging_s=0.05)
            await e.submit([task("old", priority=1)])
            async with asyncio.timeout(5):
                created = (await e.get(TaskId("old"))).created_at
                while datetime.now(UTC) < created + timedelta(seconds=0.05 * 9 + 0.1):
                    await e.wait_timer(0.05)
            await e.submit([task("new", priority=10), task("newer", priority=9)])
            assert await work_off(e) == ["old", "new", "newer"]
            e.close()

        asyncio.run(main())

    def test_without_aging_priority_is_exact_for_ever(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("old", priority=1)])
            seq = await e.connection.command("GET", "ai:seq")
            await e.connection.command("SET", "ai:seq", int(seq) + 64 * 1000 * 86400 * 365 * 100)
            await e.submit([task("new", priority=2)])
            assert await work_off(e) == ["new", "old"]

        run(redis_server.address, body)

    def test_a_retry_comes_back_within_its_delay_and_not_all_at_once(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"t{i}", retry_delay_s=100.0, retry_max_delay_s=40.0) for i in range(20)])
            for _ in range(20):
                await e.finish(await claimed(e), Outcome(ok=False, error="again"))
            now = datetime.now(UTC).timestamp() * 1000
            flat = await e.connection.command("ZRANGE", "ai:delay", 0, -1, "WITHSCORES")
            delays = [float(score) - now for score in flat[1::2]]
            assert 28_000 < min(delays) < max(delays) <= 40_000
            assert len({round(d) for d in delays}) > 5

        run(redis_server.address, body)


class TestAnyDone:
    @pytest.mark.parametrize("first", ["good", "bad"])
    def test_the_first_end_is_enough(self, redis_server: Any, first: str) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b"), task("c", "a", "b", needs_rule=NeedsRule.ANY_DONE)])
            one = await claimed(e)
            await e.finish(one, OK if first == "good" else Outcome(ok=False, retry=False, error="no"))
            assert await states(e, "c") == {"c": S.READY}
            assert await work_off(e) == ["b", "c"]

        run(redis_server.address, body)

    def test_one_had_ended_before(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", priority=1)])
            await e.finish(await claimed(e), OK)
            await e.submit([task("c", "a", "b", needs_rule=NeedsRule.ANY_DONE)])
            assert await states(e, "c") == {"c": S.READY}

        run(redis_server.address, body)

    def test_two_end_while_it_is_held(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("bad")])
            await e.finish(await claimed(e), Outcome(ok=False, retry=False, error="no"))
            ups = [task("a", "bad"), task("b", "bad")]
            await e.submit([*ups, task("c", "a", "b", needs_rule=NeedsRule.ANY_DONE)])
            assert await states(e, "c") == {"c": S.READY}

        run(redis_server.address, body)

    def test_one_that_is_archived_has_ended(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b"), task("c", "a", "b", needs_rule=NeedsRule.ANY_DONE)])
            await e.finish(await claimed(e), OK)
            running = await claimed(e)
            c = await claimed(e, W2)
            assert (running.spec.id, c.spec.id) == ("b", "c")
            await e.finish(c, Outcome(ok=False, retry=False, error="no"))
            found = await e.finished(keep=0, before_ms=2**50)
            assert await e.forget([r for r in found.records if r.id == "a"]) == ["a"]
            await e.retry(TaskId("c"))
            assert await states(e, "c") == {"c": S.READY}

        run(redis_server.address, body)


class TestKeys:
    def test_twice_is_once_while_it_is_open(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.submit([task("a", key="nightly")]) == ["a"]
            assert await e.submit([task("b", key="nightly"), task("c")]) == ["a", "c"]
            assert await work_off(e) == ["a", "c"]
            assert await e.submit([task("d", key="nightly")]) == ["d"]

        run(redis_server.address, body)

    def test_many_at_once_are_one(self, redis_server: Any) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as one, engine_on(redis_server.address) as two:
                found = await asyncio.gather(
                    *((one, two)[i % 2].submit([task(f"t{i}", key="k")]) for i in range(40))
                )
                assert len({ids[0] for ids in found}) == 1
                assert len(await one.list_tasks()) == 1

        asyncio.run(main())

    def test_nothing_may_need_what_may_be_another(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            with pytest.raises(SpecError, match="a task with a key stands alone"):
                await e.submit([task("a", key="k"), task("b", "a")])
            with pytest.raises(SpecError, match="the same key"):
                await e.submit([task("a", key="k"), task("b", key="k")])

        run(redis_server.address, body)

    def test_retrying_the_older_of_two(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", key="k")])
            await e.cancel(A, reason="x")
            await e.submit([task("b", key="k")])
            with pytest.raises(Conflict, match="task b has its key k now"):
                await e.retry(A)

        run(redis_server.address, body)

    def test_a_dependant_whose_key_another_has_by_now_stays_cancelled(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a", key="k"), task("c", "a")])
            await e.cancel(A, reason="x")
            await e.submit([task("d", key="k")])
            assert await e.retry(A) == ["a", "c"]
            assert await states(e, "b", "d") == {"b": S.CANCELLED, "d": S.READY}
            assert await e.submit([task("x", key="k")]) == ["d"]

        run(redis_server.address, body)

    def test_an_answer_that_was_lost_and_the_key_is_another_s_by_now(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.submit([task("a", key="k")]) == ["a"]
            await work_off(e)
            assert await e.submit([task("b", key="k")]) == ["b"]
            assert await e.submit([task("a", key="k")]) == ["a"]

        run(redis_server.address, body)


class TestUpgrade:
    def test_what_version_2_wrote_goes_on(self, redis_server: Any) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as e:
                await e.submit([task("held"), task("low", priority=2), task("high", priority=9)])
                await e.claim(CODE, W1, 30)
                await e.give_back(await e.claim(CODE, W2, 30))  # type: ignore[arg-type]
                send = e.connection.command
                await send("ZADD", "ai:ready:code", 8 * 2**42 + 2, "low", 2**42 + 3, "held")
                await send("DEL", "ai:schema", "ai:leases")
                await send("ZADD", "ai:lease", 1, "high")
                for name in ("held", "low", "high"):
                    await send("HDEL", f"ai:t:{name}", "sc")
            async with engine_on(redis_server.address) as e:
                await e.submit([task("new", priority=5)])
                await e.connection.command("SET", "ai:timer", 1)
                await e.tick()
                assert sorted(await work_off(e)) == ["held", "high", "low", "new"]

        asyncio.run(main())

    def test_what_version_2_cancelled_can_be_tried_again(self, redis_server: Any) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as e:
                await e.submit([task("a"), task("b", "a")])
                await e.cancel(A, reason="x")
                await e.connection.command("HDEL", "ai:t:a", "k")
                await e.connection.command("DEL", "ai:schema")
            async with engine_on(redis_server.address) as e:
                await e.retry(A)
                assert await work_off(e) == ["a", "b"]

        asyncio.run(main())

    def test_what_version_2_queued_is_not_overtaken_for_ever(self, redis_server: Any) -> None:
        async def main() -> None:
            async with engine_on(redis_server.address) as e:
                await e.submit([task("low", priority=2), task("high", priority=9)])
                send = e.connection.command
                for number, name in enumerate(("low", "high"), 1):
                    await send("HSET", f"ai:t:{name}", "q", number)
                    await send("HDEL", f"ai:t:{name}", "sc")
                await send("DEL", "ai:schema")
            async with await Connection.open(redis_server.address) as connection:
                e = Engine(connection, aging_s=3600)
                await e.submit([task("new"), task("urgent", priority=10)])
                assert await work_off(e) == ["high", "low", "urgent", "new"]

        asyncio.run(main())
