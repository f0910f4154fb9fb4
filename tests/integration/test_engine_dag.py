"""Dependencies, cancelling and retrying on a real server."""

from __future__ import annotations

from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, W2, claimed, handed, run, states, task, work_off

from ai_infra.core.errors import Conflict, NotFound
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import CANCELLED_REASON, NeedsRule, Outcome, State, WorkflowHeader

S = State
ANY_END = {"needs_rule": NeedsRule.ALL_DONE}


def test_a_failure_cancels_what_needs_it_and_names_the_cause(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        await e.submit(
            [task("a"), task("b", "a"), task("c", "b"), task("last", "c", "free", **ANY_END), task("free")]
        )
        await e.finish(await claimed(e), BAD)
        assert await states(e, "a", "b", "c", "last") == {
            "a": S.FAILED, "b": S.CANCELLED, "c": S.CANCELLED, "last": S.BLOCKED
        }  # fmt: skip
        assert (await e.get(TaskId("b"))).error == "upstream a (a) is FAILED"
        assert (await e.get(TaskId("c"))).error == "upstream b (b) is CANCELLED, because of a"
        assert await work_off(e) == ["free", "last"]

    run(redis_server.address, body)


def test_the_reference_workflow(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        flow = [
            task("research"),
            task("schema", "research"),
            task("tests", "schema"),
            task("implement", "schema"),
            task("run-tests", "tests", "implement"),
            task("deploy", "run-tests"),
        ]
        await e.submit(flow[::-1])
        order = await work_off(e)
        assert order[:2] == ["research", "schema"]
        assert order[4:] == ["run-tests", "deploy"]

    run(redis_server.address, body)


def test_a_task_with_five_thousand_dependants(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        names = [f"k{i}" for i in range(5000)]
        await e.submit([task("hub"), *(task(n, "hub") for n in names)])
        while await e.tick() == 0:
            pass  # the ticker releases what the submit left
        await e.submit([task("join", *names)])
        await e.finish(await claimed(e), OK)
        assert (await e.counts())[CODE].ready == 5000
        await e.finish(await claimed(e), BAD)
        assert (await e.get(TaskId("join"))).state is S.CANCELLED

    run(redis_server.address, body)


class TestCancel:
    def test_before_it_runs_with_dependants(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a"), task("c", "b"), task("d", "c", **ANY_END)])
            verdict = await e.cancel(TaskId("b"), reason="changed my mind")
            assert (verdict.cancelled, verdict.requested) == (("b", "c"), ())
            assert (await e.get(TaskId("b"))).error == "cancelled: changed my mind"
            assert await work_off(e) == ["a", "d"]

        run(redis_server.address, body)

    def test_a_ready_one_is_never_claimed(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            await e.cancel(TaskId("a"), reason="x")
            assert await work_off(e) == ["b"]

        run(redis_server.address, body)

    def test_a_running_one_is_asked_for(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a")])
            claim = await claimed(e)
            verdict = await e.cancel(TaskId("a"), reason="too slow")
            assert (verdict.cancelled, verdict.requested) == ((), ("a",))
            notice = await e.next_notice(W1, 2)
            assert notice
            assert (notice.kind, notice.task, notice.reason) == ("cancel", "a", "too slow")
            stopped = Outcome(ok=False, error="killed", reason=CANCELLED_REASON)
            assert await e.finish(claim, stopped) == (S.CANCELLED, None)
            assert await states(e, "a", "b") == {"a": S.CANCELLED, "b": S.CANCELLED}
            assert (await e.get(TaskId("a"))).error == "cancelled: too slow"

        run(redis_server.address, body)

    def test_one_that_completed_meanwhile_is_complete(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            claim = await claimed(e)
            await e.cancel(TaskId("a"), reason="x")
            assert await e.finish(claim, OK) == (S.COMPLETED, None)

        run(redis_server.address, body)

    def test_one_whose_worker_dies_is_not_run_again(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await claimed(e)
            await e.cancel(TaskId("a"), reason="x")
            await e.release(W1, reason="died")
            assert (await e.get(TaskId("a"))).state is S.CANCELLED

        run(redis_server.address, body)

    def test_a_handed_one_does_not_begin(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            assert await e.claim(CODE, W1, 30) is None
            await e.submit([task("a")])
            given = await handed(e, W1, 2)
            await e.cancel(TaskId("a"), reason="x")
            with pytest.raises(Conflict, match="cancelled before it began"):
                await e.start(given)
            assert (await e.get(TaskId("a"))).state is S.CANCELLED

        run(redis_server.address, body)

    def test_one_that_waits_for_its_retry(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a", retry_delay_s=60.0)])
            await e.finish(await claimed(e), Outcome(ok=False, error="x"))
            await e.cancel(TaskId("a"), reason="x")
            assert (await e.get(TaskId("a"))).state is S.CANCELLED
            await e.connection.command("ZADD", "ai:delay", "XX", 1, "a")
            await e.tick()
            assert await e.claim(CODE, W1, 30) is None

        run(redis_server.address, body)

    def test_an_ended_or_unknown_one(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await work_off(e)
            with pytest.raises(Conflict, match="a is COMPLETED already"):
                await e.cancel(TaskId("a"), reason="x")
            with pytest.raises(NotFound, match="nobody"):
                await e.cancel(TaskId("nobody"), reason="x")

        run(redis_server.address, body)

    def test_a_workflow(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            w = WorkflowId("w")
            flow = [task("a", workflow=w), task("b", workflow=w), task("c", "a", "b", workflow=w, **ANY_END)]
            await e.submit(flow, workflow=WorkflowHeader(id=w, name="w"))
            running = await claimed(e)
            verdict = await e.cancel_workflow(w, reason="stop it")
            assert verdict.requested == ("a",)
            assert sorted(verdict.cancelled) == ["b", "c"]
            await e.finish(running, Outcome(ok=False, reason=CANCELLED_REASON))
            assert (await e.workflow(w)).state is S.CANCELLED
            with pytest.raises(NotFound):
                await e.cancel_workflow(WorkflowId("none"), reason="x")

        run(redis_server.address, body)


class TestRetry:
    def test_runs_again_with_what_it_had_cancelled(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit(
                [task("a", max_attempts=1), task("b", "a"), task("c", "b", "x"), task("x", priority=1)]
            )
            await e.finish(await claimed(e), BAD)
            assert sorted(await e.retry(TaskId("a"))) == ["a", "b", "c"]
            view = await e.get(TaskId("a"))
            assert (view.state, view.attempt, view.error, view.result) == (S.READY, 1, None, None)
            assert view.last_attempt == 2
            assert await work_off(e) == ["a", "b", "x", "c"]

        run(redis_server.address, body)

    def test_a_diamond_is_counted_right(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit(
                [
                    task("a"),
                    task("l", "a"),
                    task("r", "a"),
                    task("j", "l", "r"),
                    task("all", "a", "j", **ANY_END),
                ]
            )
            claim = await claimed(e)
            await e.finish(claim, BAD)
            assert (await e.get(TaskId("all"))).state is S.READY
            await e.retry(TaskId("a"))
            assert (await e.get(TaskId("j"))).waits == ("l", "r")
            order = await work_off(e)
            assert order.index("j") > max(order.index("l"), order.index("r"))
            assert (await e.get(TaskId("j"))).state is S.COMPLETED

        run(redis_server.address, body)

    def test_with_two_failed_upstreams_both_must_be_retried(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b"), task("c", "a", "b"), task("d", "c")])
            await e.finish(await claimed(e), BAD)
            await e.finish(await claimed(e), BAD)
            with pytest.raises(Conflict, match="retry that one"):
                await e.retry(TaskId("c"))
            assert await e.retry(TaskId("a")) == ["a"]
            assert (await e.get(TaskId("c"))).state is S.CANCELLED
            assert sorted(await e.retry(TaskId("b"))) == ["b", "c", "d"]
            assert await work_off(e) == ["a", "b", "c", "d"]

        run(redis_server.address, body)

    def test_what_a_person_cancelled_stays_cancelled(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a"), task("c", "a")])
            await e.cancel(TaskId("b"), reason="mine")
            await e.finish(await claimed(e), BAD)
            assert await e.retry(TaskId("a")) == ["a", "c"]
            assert await states(e, "b") == {"b": S.CANCELLED}

        run(redis_server.address, body)

    def test_only_what_failed(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            with pytest.raises(Conflict, match="only a FAILED or CANCELLED"):
                await e.retry(TaskId("a"))
            await work_off(e)
            with pytest.raises(Conflict):
                await e.retry(TaskId("a"))

        run(redis_server.address, body)

    def test_goes_to_a_sleeping_worker(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a")])
            await e.finish(await claimed(e), BAD)
            assert await e.claim(CODE, W2, 30) is None
            await e.retry(TaskId("a"))
            given = await handed(e, W2, 2)
            assert given.attempt == 2

        run(redis_server.address, body)
