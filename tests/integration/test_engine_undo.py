"""Undo: an atomic workflow whose step fails or is cancelled is taken back, whoever dies meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, W2, claimed, engine_on, run, states, task, work_off
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ai_infra.core.errors import Conflict, NotFound
from ai_infra.core.ids import TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.spec import check_spec, dump_spec
from ai_infra.tasks.task import CANCELLED_REASON, NeedsRule, Outcome, TaskSpec, WorkflowHeader
from ai_infra.tasks.task import State as S
from tests.conftest import RedisServer

W = WorkflowId("w")
UNDO = (("undo-it",),)
CANCELLED = Outcome(ok=False, reason=CANCELLED_REASON, error="stopped: cancelled")


def step(name: str, *needs: str, **changes: Any) -> TaskSpec:
    return task(name, *needs, **({"workflow": W, "undo": UNDO} | changes))


async def begin(e: Engine, *specs: TaskSpec, atomic: bool = True) -> None:
    await e.submit(specs, workflow=WorkflowHeader(id=W, name="w", atomic=atomic))


class TestFailure:
    def test_what_was_completed_is_undone_in_reverse(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b"), step("d", "c"))
            for _ in range(2):
                await e.finish(await claimed(e), OK)
            assert await e.finish(await claimed(e), BAD) == (S.FAILED, None)
            view = await e.workflow(W)
            assert view.state is S.FAILED
            assert not view.ended
            assert view.undo is not None
            assert (view.undo.why, view.undo.waiting) == ("c failed", ("b", "a"))
            assert await work_off(e) == ["b.undo", "a.undo"]
            view = await e.workflow(W)
            assert view.undo is not None
            assert (view.undo.undone, view.undo.not_undone, view.undo.half_done) == (("b", "a"), {}, ("c",))
            assert (view.undo.complete, view.ended, view.state) == (True, True, S.FAILED)
            assert await states(e, "a", "b", "c", "d") == {
                "a": S.COMPLETED, "b": S.COMPLETED, "c": S.FAILED, "d": S.CANCELLED,
            }  # fmt: skip

        run(redis_server.address, body)

    def test_the_undo_task_is_what_was_submitted(self, redis_server: Any) -> None:
        """As a person would have written it: canonical, with limits, locks and surroundings of its step."""

        async def body(e: Engine) -> None:
            inherited: dict[str, Any] = {
                "env": {"A": '"a","a.undo"]'}, "cwd": "x", "locks": ("repo",), "max_attempts": 2,
                "retry_delay_s": 0.25, "retry_max_delay_s": 2.0, "timeout_s": 9.0,
            }  # fmt: skip
            await begin(e, step("a", **inherited), step("b", "a", undo=("x", ("y", "z"))), step("c", "b"))
            for outcome in (OK, OK, BAD):
                await e.finish(await claimed(e), outcome)
            first, second = await e.get(TaskId("b.undo")), await e.get(TaskId("a.undo"))
            assert (first.state, second.state) == (S.READY, S.BLOCKED)
            assert (first.spec.run, first.spec.needs) == (("x", ("y", "z")), ("a", "b"))
            assert (second.spec.needs, second.waits) == (("a", "b.undo"), ("b.undo",))
            assert {k: getattr(second.spec, k) for k in inherited} == inherited
            assert (second.name, second.spec.priority, second.spec.undo_of) == ("undo-a", 10, "a")
            for view in (first, second):
                check_spec(view.spec)
                raw = await e.connection.command("GET", e.connection.key(f"p:{view.id}"))
                assert raw == dump_spec(view.spec)
            await e.finish(await claimed(e), OK)
            undoing = await claimed(e)
            assert undoing.spec.id == "a.undo"
            assert await e.connection.command("GET", e.connection.key("lock:repo")) == "a.undo"
            failed = Outcome(ok=False, error="no")
            assert (await e.finish(undoing, failed))[0] is S.PENDING
            delay = await e.tick()
            assert delay is not None
            assert 0.15 < delay <= 0.25

        run(redis_server.address, body)

    def test_what_runs_is_told_and_waited_for(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b"), step("c"), step("d", "c"))
            await e.finish(await claimed(e), OK)
            running, bad = await claimed(e, W1), await claimed(e, W2)
            await e.finish(bad, BAD)
            view = await e.workflow(W)
            assert view.undo is not None
            assert (view.undo.begun, view.state, view.ended) == (False, S.FAILED, False)
            assert (await states(e, "b", "d")) == {"b": S.IN_PROGRESS, "d": S.CANCELLED}
            notice = await e.next_notice(W1, 5)
            assert notice is not None
            assert (notice.kind, notice.task, notice.reason) == (
                "cancel", "b", "c failed, so the workflow is undone",
            )  # fmt: skip
            assert (await e.counts())[CODE].ready == 0
            await e.finish(running, CANCELLED)
            assert await work_off(e) == ["a.undo"]
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.undo.half_done == ("b", "c")

        run(redis_server.address, body)

    def test_one_that_completes_though_it_was_told_is_undone_first(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b"), step("c"))
            await e.finish(await claimed(e), OK)
            running, bad = await claimed(e, W1), await claimed(e, W2)
            await e.finish(bad, BAD)
            await e.finish(running, OK)
            assert await work_off(e) == ["b.undo", "a.undo"]

        run(redis_server.address, body)

    def test_two_that_fail_at_once(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b"), step("c"))
            await e.finish(await claimed(e), OK)
            one, two = await claimed(e, W1), await claimed(e, W2)
            async with engine_on(redis_server.address) as other:
                await asyncio.gather(e.finish(one, BAD), other.finish(two, Outcome(ok=False, retry=False)))
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_failure_that_is_tried_again_is_none(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"))
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), Outcome(ok=False, error="later"))
            await e.tick()
            assert (await e.workflow(W)).undo is None
            assert await work_off(e) == ["b"]
            assert (await e.workflow(W)).state is S.COMPLETED

        run(redis_server.address, body)

    def test_no_undo_a_failed_undo_and_a_cancelled_one_are_said(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b", undo=()), step("d", "c"), step("e", "d"))
            for _ in range(4):
                await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            await e.finish(await claimed(e), Outcome(ok=False, error="exit 3\nmore", retry=False))
            await e.cancel(TaskId("b.undo"), reason="a person")
            assert await work_off(e) == ["a.undo"]
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.undo.not_undone == {
                "b": "its undo was cancelled", "c": "has no undo", "d": "its undo failed: exit 3",
            }  # fmt: skip
            assert (view.undo.undone, view.undo.complete) == (("a",), False)
            assert await e.retry(TaskId("d.undo")) == ["d.undo"]
            assert await work_off(e) == ["d.undo"]
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.undo.undone == ("d", "a")

        run(redis_server.address, body)

    def test_half_an_effect_is_undone_where_the_step_says_so(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(
                e, step("a"), step("b", "a", undo_on_failure=True), step("c", "b", undo_on_failure=True)
            )
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            assert await work_off(e) == ["b.undo", "a.undo"]  # c never began
            view = await e.workflow(W)
            assert view.undo is not None
            assert (view.undo.undone, view.undo.half_done) == (("b", "a"), ())

        run(redis_server.address, body)

    def test_steps_that_would_go_on_after_a_failure_do_not(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a", needs_rule=NeedsRule.ALL_DONE))
            assert await e.claim(CODE, W2, 30) is not None
            assert await e.claim(CODE, W1, 30) is None
            await e.release(W2, reason="died")  # a goes to W1
            notice = await e.next_notice(W1, 5)
            assert notice is not None
            assert notice.claim is not None
            assert await e.claim(CODE, WorkerId("code.3"), 30) is None
            await e.finish(notice.claim, BAD)
            assert await states(e, "a", "b") == {"a": S.FAILED, "b": S.CANCELLED}
            assert (await e.get(TaskId("b"))).attempt == 0  # not handed to the one that sleeps
            assert (await e.workflow(W)).ended

        run(redis_server.address, body)

    def test_without_any_undo_it_just_ends(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a", undo=()), step("b", "a", undo=()), step("c", undo=()))
            assert await e.finish(await claimed(e), OK) == (S.COMPLETED, None)
            await e.finish(await claimed(e), BAD)
            view = await e.workflow(W)
            assert view.ended
            assert view.undo is not None
            assert view.undo.not_undone == {"a": "has no undo"}

        run(redis_server.address, body)

    def test_very_many_steps(self, redis_server: Any) -> None:
        """They are undone in order, though Redis makes the undo tasks some hundreds at a time."""

        async def body(e: Engine) -> None:
            names = [f"s{i}" for i in range(1100)]
            await begin(e, *(step(name) for name in names), step("bad", *names), step("never", "bad"))
            order, claim = [], await claimed(e)
            while claim.spec.id != "bad":
                order.append(f"{claim.spec.id}.undo")
                _, following = await e.finish(claim, OK, take_next=True)
                assert following is not None
                claim = following
            await e.finish(claim, BAD)
            view = await e.workflow(W)
            assert view.undo is not None
            assert (len(view.tasks), len(view.undo.waiting)) == (1602, 1100)
            assert await work_off(e) == order[::-1]
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.undo.complete

        run(redis_server.address, body)

    def test_a_step_that_was_skipped_did_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b", undo=()), step("d", "c"))
            await e.finish(await claimed(e), Outcome(ok=True, result={"value": {"skipped": True}}))
            for _ in range(2):
                await e.finish(await claimed(e), Outcome(ok=True, result={"skipped": True, "why": "x"}))
            await e.finish(await claimed(e), BAD)
            assert await work_off(e) == ["a.undo"]
            view = await e.workflow(W)
            assert view.undo is not None
            assert (view.undo.complete, view.undo.undone) == (True, ("a",))

        run(redis_server.address, body)

    def test_a_deadline_that_passes(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            from test_engine_gates import in_s

            await begin(e, step("a"), step("b", "a", deadline_at=in_s(60)))
            await e.finish(await claimed(e), OK)
            await e.connection.command("ZADD", e.connection.key("deadlines"), 1, "b")
            await e.tick()
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_paused_workflow_is_undone_when_it_goes_on(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"))
            await e.finish(await claimed(e), OK)
            running = await claimed(e)
            await e.pause_workflow(W, "a look")
            await e.finish(running, BAD)
            assert await work_off(e) == []
            await e.resume_workflow(W)
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_failed_upstream_of_another_workflow_undoes_this_one(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("up")])
            up = await claimed(e)
            await begin(e, step("a"), step("b", "a", "up"))
            await e.finish(await claimed(e), OK)
            await e.finish(up, BAD)
            assert await work_off(e) == ["a.undo"]
            assert (await e.workflow(W)).state is S.CANCELLED

        run(redis_server.address, body)

    def test_one_that_is_undone_takes_another_with_it(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            second = WorkflowId("v")
            await begin(e, step("a"), step("b", "a"))
            theirs = [step("v.a", workflow=second, priority=9), step("v.b", "v.a", "b", workflow=second)]
            await e.submit(theirs, workflow=WorkflowHeader(id=second, name="v", atomic=True))
            for _ in range(2):  # a and v.a
                await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            assert sorted(await work_off(e)) == ["a.undo", "v.a.undo"]
            view = await e.workflow(second)
            assert view.undo is not None
            assert (view.state, view.undo.why) == (S.CANCELLED, "v.b was cancelled")

        run(redis_server.address, body)


class TestPerson:
    def test_a_cancelled_task(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b"), step("d", "a"))
            await e.finish(await claimed(e), OK)
            running = await claimed(e)
            verdict = await e.cancel(TaskId("c"), reason="not today")
            assert (sorted(verdict.cancelled), verdict.requested) == (["c", "d"], ("b",))
            await e.finish(running, CANCELLED)
            view = await e.workflow(W)
            assert (view.state, view.undo and view.undo.why) == (S.CANCELLED, "c was cancelled")
            assert await work_off(e) == ["a.undo"]
            assert (await e.workflow(W)).state is S.CANCELLED

        run(redis_server.address, body)

    def test_a_cancelled_workflow(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b"), step("d", "a"))
            await e.finish(await claimed(e), OK)
            running = await claimed(e)
            verdict = await e.cancel_workflow(W, reason="not today")
            assert (sorted(verdict.cancelled), verdict.requested) == (["c", "d"], ("b",))
            assert (await e.counts())[CODE].ready == 0
            await e.finish(running, CANCELLED)
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_running_only(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b"))
            await e.finish(await claimed(e), OK)
            running = await claimed(e)
            assert (await e.cancel_workflow(W, reason="x")).requested == ("b",)
            await e.finish(running, CANCELLED)
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_no_step_is_tried_again_and_no_task_is_added(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            specs = [step("a"), step("b", "a"), step("c", "b")]
            await begin(e, *specs)
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            for name in ("b", "c"):
                with pytest.raises(Conflict, match=f"task {name} cannot be tried again: its workflow w was"):
                    await e.retry(TaskId(name))
            with pytest.raises(Conflict, match="was undone and takes no more tasks"):
                await e.submit([step("z")])
            await begin(e, *specs)  # whose answer was lost
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_the_undoing_itself(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            names = [f"s{i}" for i in range(600)]
            await begin(e, *(step(name) for name in names))
            await work_off(e)
            assert await e.undo_workflow(W, reason="a person asked") == 600
            verdict = await e.cancel_workflow(W, reason="enough")
            assert (verdict.requested, len(verdict.cancelled)) == (("s599.undo",), 499)
            await e.finish(await claimed(e), CANCELLED)
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.ended
            assert not view.undo.waiting
            assert len(view.undo.not_undone) == 600

        run(redis_server.address, body)

    def test_on_demand(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b", undo=()), atomic=False)
            with pytest.raises(Conflict, match="has 3 open tasks; wait for its end, or cancel it"):
                await e.undo_workflow(W, reason="a person asked")
            assert await work_off(e) == ["a", "b", "c"]
            assert await e.undo_workflow(W, reason="a person asked") == 2
            with pytest.raises(Conflict, match="was undone already"):
                await e.undo_workflow(W, reason="a person asked")
            assert await work_off(e) == ["b.undo", "a.undo"]
            view = await e.workflow(W)
            assert (view.state, view.undo and view.undo.not_undone) == (S.COMPLETED, {"c": "has no undo"})

        run(redis_server.address, body)

    def test_on_demand_of_one_that_failed_and_was_not_atomic(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), atomic=False)
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), BAD)
            assert (await e.workflow(W)).undo is None
            assert await e.retry(TaskId("b")) == ["b"]
            await e.finish(await claimed(e), BAD)
            await e.undo_workflow(W, reason="a person asked")
            with pytest.raises(Conflict, match="was undone"):
                await e.retry(TaskId("b"))
            assert await work_off(e) == ["a.undo"]
            assert (await e.workflow(W)).state is S.FAILED

        run(redis_server.address, body)

    def test_on_demand_of_nothing(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a", undo=()))
            await work_off(e)
            with pytest.raises(Conflict, match="nothing to undo"):
                await e.undo_workflow(W, reason="x")
            with pytest.raises(NotFound):
                await e.undo_workflow(WorkflowId("none"), reason="x")

        run(redis_server.address, body)

    def test_on_demand_of_one_that_is_archived_in_part(self, redis_server: Any) -> None:
        """Half an undo that looks whole is worse than none."""

        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), atomic=False)
            await work_off(e)
            await e.connection.command("DEL", *(e.connection.key(f"{kind}:a") for kind in "tpr"))
            with pytest.raises(
                Conflict, match="cannot be undone any more: 1 of its completed tasks is archived"
            ):
                await e.undo_workflow(W, reason="x")

        run(redis_server.address, body)

    def test_a_call_whose_answer_was_lost(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"))
            await work_off(e)
            for _ in range(2):
                assert await e.connection.call("undo_workflow", W, "x", "token") == 1
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_cancel_whose_answer_was_lost(self, redis_server: Any) -> None:
        """The first try made the undo tasks; the second must not cancel them."""

        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b"))
            await e.finish(await claimed(e), OK)
            for _ in range(2):
                found = await e.connection.call("cancel_workflow", W, "x", "token")
                assert (sorted(found[1]), found[2]) == (["b", "c"], [])
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_failed_step_stays_while_its_workflow_is_undone(self, redis_server: Any) -> None:
        """Dropped before the last step has ended, its effect would never be undone."""

        async def body(e: Engine) -> None:
            await begin(e, step("a", undo_on_failure=True), step("b"))
            first, second = await claimed(e, W1), await claimed(e, W2)
            await e.finish(first, BAD)
            with pytest.raises(Conflict, match="task a stays: its workflow w is being undone"):
                await e.dead_letters([TaskId("a")])
            await e.finish(second, CANCELLED)
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)

    def test_a_failure_handed_in_twice(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"))
            await e.finish(await claimed(e), OK)
            bad = await claimed(e)
            for _ in range(2):
                assert await e.finish(bad, BAD) == (S.FAILED, None)
            undo = await claimed(e)
            for _ in range(2):
                assert await e.finish(undo, OK) == (S.COMPLETED, None)
            assert [task.id for task in (await e.workflow(W)).tasks] == ["a", "b", "a.undo"]

        run(redis_server.address, body)

    def test_waiting_for_the_end_includes_the_undo(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"))
            waiting = asyncio.create_task(e.wait_workflow(W))
            await e.finish(await claimed(e), OK)
            async with engine_on(redis_server.address) as other:
                await other.finish(await claimed(other), BAD)
                await asyncio.sleep(0)
                assert not waiting.done()
                assert await work_off(other) == ["a.undo"]
            view = await asyncio.wait_for(waiting, 10)
            assert view.undo is not None
            assert view.undo.complete

        run(redis_server.address, body)


class TestCrash:
    """Whoever dies, and whenever: the same steps are undone, once each, in the same order."""

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("call", range(7))
    def test_redis_is_killed_around_each_call(self, own_redis: RedisServer, call: int, when: str) -> None:
        done: list[str] = []

        async def body(e: Engine) -> None:
            calls = 0

            async def around(act: Any) -> Any:
                nonlocal calls
                calls += 1
                if (calls - 1, when) == (call, "before"):
                    own_redis.kill()
                    await asyncio.to_thread(own_redis.start)
                answer = await act()
                if (calls - 1, when) == (call, "after"):
                    own_redis.kill()
                    await asyncio.to_thread(own_redis.start)
                return answer

            await around(lambda: begin(e, step("a"), step("b", "a"), step("c", "b")))
            for outcome in (OK, OK, BAD):
                await around(lambda outcome=outcome: one(e, outcome))
            while not (await e.workflow(W)).ended:
                await around(lambda: one(e, OK))
            view = await e.workflow(W)
            assert view.undo is not None
            assert (view.undo.undone, view.undo.complete) == (("b", "a"), True)

        async def one(e: Engine, outcome: Outcome) -> None:
            claim = await claimed(e)
            done.append(claim.spec.id)
            await e.finish(claim, outcome)

        run(own_redis.address, body, timeout_s=60)
        assert done == ["a", "b", "c", "b.undo", "a.undo"]

    def test_workers_that_die_while_it_is_undone(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"), step("c", "b"))
            for outcome in (OK, OK, BAD):
                await e.finish(await claimed(e), outcome)
            for expected in ("b.undo", "b.undo", "a.undo", "a.undo"):
                worker = WorkerId(f"code.{expected}")
                claim = await e.claim(CODE, worker, 30)
                assert claim is not None
                assert claim.spec.id == expected
                if claim.attempt == 1:
                    await e.release(worker, reason="killed")
                else:
                    await e.finish(claim, OK)
            view = await e.workflow(W)
            assert view.undo is not None
            assert view.undo.complete

        run(redis_server.address, body)

    def test_the_worker_that_was_told_to_end_dies(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b"), step("c"))
            await e.finish(await claimed(e), OK)
            await claimed(e, W2)
            await e.finish(await claimed(e), BAD)
            assert await e.release(W2, reason="killed") == ["b"]
            assert await work_off(e) == ["a.undo"]
            assert (await e.get(TaskId("b"))).state is S.CANCELLED

        run(redis_server.address, body)

    def test_a_poison_step(self, redis_server: Any) -> None:
        async def body(e: Engine) -> None:
            await begin(e, step("a"), step("b", "a"))
            await e.finish(await claimed(e), OK)
            for n in range(5):
                worker = WorkerId(f"code.{n}")
                assert await e.claim(CODE, worker, 30) is not None
                await e.release(worker, reason="died")
            assert (await e.get(TaskId("b"))).state is S.FAILED
            assert await work_off(e) == ["a.undo"]

        run(redis_server.address, body)


class TestAnyGraph:
    @settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(
        shape=st.lists(
            st.tuples(st.sets(st.integers(0, 30), max_size=3), st.booleans(), st.booleans()),
            min_size=2,
            max_size=9,
        ),
        choices=st.lists(st.integers(0, 99), min_size=10, max_size=60),
    )
    def test_what_completed_is_undone_in_reverse(
        self, redis_server: Any, shape: list[tuple[set[int], bool, bool]], choices: list[int]
    ) -> None:
        """Three workers, any order of ends, deaths, failures and cancels: in reverse, once each, no more."""
        specs: list[TaskSpec] = []
        for ups, has_undo, locked in shape:
            needs = {specs[u % len(specs)].id for u in ups} if specs else set()
            more = {"undo": UNDO if has_undo else (), "locks": ("repo",) if locked else ()}
            specs.append(step(f"t{len(specs)}", *sorted(needs), **more))

        async def body(e: Engine) -> None:
            await e.connection.command("FLUSHDB")
            await begin(e, *specs)
            completed = await scatter(e, choices)
            completed += await work_off_all(e)
            view = await e.workflow(W)
            assert view.ended
            ends = {task.id: task for task in view.tasks}
            expected = [t for t in reversed(completed) if ends[TaskId(t)].spec.undo] if view.undo else []
            assert [t.spec.undo_of for t in view.tasks if t.spec.undo_of] == expected
            order = sorted((t.started_at, i, t.spec.undo_of) for i, t in enumerate(view.tasks)
                           if t.spec.undo_of and t.started_at)  # fmt: skip
            assert [of for _, _, of in order] == expected
            assert all(t.state is S.COMPLETED for t in view.tasks if t.spec.undo_of)
            failed = [t for t in view.tasks if t.state in (S.FAILED, S.CANCELLED)]
            assert bool(failed) is (view.undo is not None)
            assert sorted(completed) == sorted(
                t.id for t in view.tasks if t.state is S.COMPLETED and not t.spec.undo_of
            )

        run(redis_server.address, body)


async def scatter(e: Engine, choices: list[int]) -> list[str]:
    """Claims, finishes, deaths and cancels as `choices` say; which steps completed, in order."""
    held: dict[WorkerId, Any] = {}
    completed: list[str] = []
    for choice in choices:
        worker = WorkerId(f"code.{choice % 3}")
        if worker not in held:
            claim = await e.claim(CODE, worker, 30)
            if claim is not None:
                held[worker] = claim
        elif choice < 75 or held[worker].spec.undo_of:
            claim = held.pop(worker)
            await e.finish(claim, OK)
            if not claim.spec.undo_of:
                completed.append(claim.spec.id)
        elif choice < 85:
            await e.finish(held.pop(worker), BAD)
        elif choice < 95:
            held.pop(worker)
            await e.release(worker, reason="died", count_attempt=False)
        else:
            await e.cancel(held[worker].spec.id, reason="a person")
    for claim in held.values():
        await e.finish(claim, OK)
        if not claim.spec.undo_of:
            completed.append(claim.spec.id)
    return completed


async def work_off_all(e: Engine) -> list[str]:
    """Finish all that is left, whoever it was handed to; the steps in order."""
    order: list[str] = []
    while not (await e.workflow(W)).ended:
        for n in range(3):
            order += await work_off(e, WorkerId(f"code.{n}"))
    return [name for name in order if not name.endswith(".undo")]
