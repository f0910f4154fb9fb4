"""Random workers, crashes, cancels and retries against the rules that must hold after every step."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from engine_kit import CODE
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import Conflict
from ai_infra.core.ids import TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import (
    ACTIVE,
    CANCELLED_REASON,
    TERMINAL,
    Claim,
    NeedsRule,
    Outcome,
    State,
    TaskSpec,
    TaskView,
    WorkflowHeader,
)

WORKERS = [WorkerId(f"code.{n}") for n in range(3)]
workers = st.sampled_from(WORKERS)
outcomes = st.sampled_from(
    [
        Outcome(ok=True),
        Outcome(ok=True),
        Outcome(ok=False, error="again"),
        Outcome(ok=False, error="never", retry=False),
        Outcome(ok=False, error="told to stop", reason=CANCELLED_REASON),
    ]
)
upstreams = st.sets(st.integers(0, 30), max_size=3)
LOCKS = ["repo", "db"]
FLOW = WorkflowId("flow")
LATER = datetime(2100, 1, 1, tzinfo=UTC)
#: upstreams, their rule, priority, locks, deadline
shapes = st.tuples(
    upstreams,
    st.sampled_from(NeedsRule),
    st.integers(1, 10),
    st.sampled_from([(), (), ("repo",), ("db",), ("repo", "db")]),
    st.sampled_from([None, None, LATER]),
)
numbers = itertools.count()


class Team(RuleBasedStateMachine):
    """Three workers on one queue. `held` is what each believes it holds: after a crash it may be wrong."""

    address: ClassVar[str]

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.specs: dict[TaskId, TaskSpec] = {}
        self.held: dict[WorkerId, list[Claim]] = {w: [] for w in WORKERS}
        self.completed: Counter[TaskId] = Counter()
        self.paused_agent = self.paused_flow = False
        self.wait(self.open())

    async def open(self) -> None:
        connection = await Connection.open(self.address, prefix=f"m{next(numbers)}:")
        self.engine = Engine(connection)

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def raw(self, *words: Any) -> Any:
        key = self.engine.connection.key(words[1])
        return self.wait(self.engine.connection.command(words[0], key, *words[2:]))

    def pick(self, number: int) -> TaskId | None:
        return list(self.specs)[number % len(self.specs)] if self.specs else None

    # ------------------------------------------------------------ what may happen

    @rule(shape=st.lists(shapes, min_size=1, max_size=6))
    def submit(self, shape: list[tuple[set[int], NeedsRule, int, tuple[str, ...], datetime | None]]) -> None:
        batch: list[TaskSpec] = []
        for ups, needs_rule, priority, locks, deadline_at in shape:
            known = [*self.specs, *(s.id for s in batch)]
            name = TaskId(f"t{len(known)}")
            needs = tuple(dict.fromkeys(known[u % len(known)] for u in sorted(ups))) if known else ()
            batch.append(
                TaskSpec(id=name, name=name, agent=CODE, run=("true",), needs=needs, needs_rule=needs_rule,
                         priority=priority, max_attempts=2, retry_delay_s=0.0 if priority % 2 else 60.0,
                         locks=locks, deadline_at=deadline_at, workflow=FLOW if priority > 7 else None)
            )  # fmt: skip
        self.wait(self.engine.submit(batch, workflow=WorkflowHeader(id=FLOW, name="flow")))
        self.specs |= {s.id: s for s in batch}

    @rule(worker=workers)
    def claim(self, worker: WorkerId) -> None:
        ready = self.raw("ZRANGE", "ready:code", 0, 0)
        claim = self.wait(self.engine.claim(CODE, worker, 30))
        if claim is not None:
            if claim.attempt and ready and claim.spec.id not in [c.spec.id for c in self.held[worker]]:
                assert claim.spec.id == ready[0] or claim.state in ACTIVE
            self.held[worker].append(claim)

    @rule(worker=workers)
    def listen(self, worker: WorkerId) -> None:
        notice = self.wait(self.engine.next_notice(worker, 0.01))
        if notice is None or notice.claim is None:
            return
        try:
            self.wait(self.engine.start(notice.claim))
        except Conflict:
            return
        self.held[worker].append(notice.claim)

    @rule(worker=workers, outcome=outcomes, take_next=st.booleans())
    def finish(self, worker: WorkerId, outcome: Outcome, take_next: bool) -> None:
        if not self.held[worker]:
            return
        claim = self.held[worker].pop()
        before = self.wait(self.engine.get(claim.spec.id))
        try:
            state, following = self.wait(self.engine.finish(claim, outcome, take_next=take_next))
        except Conflict:
            assert not self.is_owner(claim, before)
            return
        assert self.is_owner(claim, before)
        self.completed[claim.spec.id] += state is State.COMPLETED
        if following is not None:
            self.held[worker].append(following)

    def is_owner(self, claim: Claim, view: TaskView) -> bool:
        fence = self.raw("HGET", f"t:{claim.spec.id}", "f")
        return view.state in ACTIVE and view.worker == claim.worker and int(fence) == claim.fence

    @rule(worker=workers)
    def give_back(self, worker: WorkerId) -> None:
        if self.held[worker]:
            claim = self.held[worker].pop(0)
            before = self.wait(self.engine.get(claim.spec.id))
            try:
                self.wait(self.engine.give_back(claim))
            except Conflict:
                assert not self.is_owner(claim, before)

    @rule(worker=workers, counts=st.booleans(), ghost=st.booleans())
    def die(self, worker: WorkerId, counts: bool, ghost: bool) -> None:
        self.wait(self.engine.release(worker, reason="died", count_attempt=counts))
        if not ghost:  # else it goes on as if nothing had happened
            self.held[worker].clear()

    @rule(number=st.integers(0, 60))
    def lease_ends(self, number: int) -> None:
        task = self.pick(number)
        if task is not None:
            self.raw("ZADD", "leases", "XX", 1, self.wait(self.engine.get(task)).worker or "nobody")
            self.wait(self.engine.tick())

    @rule()
    def retries_are_due(self) -> None:
        for task in self.raw("ZRANGE", "delay", 0, -1):
            self.raw("ZADD", "delay", "XX", 1, task)
        self.wait(self.engine.tick())

    @rule(number=st.integers(0, 60))
    def deadline_passes(self, number: int) -> None:
        task = self.pick(number)
        if task is not None and self.specs[task].deadline_at is not None:
            self.raw("ZADD", "deadlines", "XX", 1, task)
            before = self.wait(self.engine.get(task)).state
            self.wait(self.engine.tick())
            after = self.wait(self.engine.get(task)).state
            assert after is before if before in TERMINAL | ACTIVE else after is State.FAILED

    @rule(on=st.booleans())
    def pause_agent(self, on: bool) -> None:
        engine = self.engine
        self.wait(engine.pause_agent(CODE, "a break") if on else engine.resume_agent(CODE))
        self.paused_agent = on

    @precondition(lambda self: any(s.workflow for s in self.specs.values()))
    @rule(on=st.booleans())
    def pause_workflow(self, on: bool) -> None:
        engine = self.engine
        self.wait(engine.pause_workflow(FLOW, "a break") if on else engine.resume_workflow(FLOW))
        self.paused_flow = on

    @rule(number=st.integers(0, 60))
    def cancel(self, number: int) -> None:
        task = self.pick(number)
        if task is None:
            return
        before = self.wait(self.engine.get(task)).state
        try:
            verdict = self.wait(self.engine.cancel(task, reason="x"))
        except Conflict:
            assert before in TERMINAL
            return
        assert task in (verdict.requested if before in ACTIVE else verdict.cancelled)

    @rule(number=st.integers(0, 60))
    def retry(self, number: int) -> None:
        task = self.pick(number)
        if task is None:
            return
        before = self.wait(self.engine.get(task)).state
        try:
            self.wait(self.engine.retry(task))
        except Conflict:
            return
        assert before in (State.FAILED, State.CANCELLED)

    @rule(worker=workers)
    def beat(self, worker: WorkerId) -> None:
        self.wait(self.engine.beat(worker, worker))

    # ------------------------------------------------------------ what must hold

    @invariant()
    def rules_hold(self) -> None:
        views = {t: self.wait(self.engine.get(t)) for t in self.specs}
        self.check_indexes(views)
        self.check_counts(views)
        for view in views.values():
            self.check_needs(view, views)
        assert all(n == 1 for n in self.completed.values() if n)
        self.check_locks(views)
        idle = self.raw("ZRANGE", "idle:code", 0, -1)
        queued = self.raw("ZCARD", "ready:code")
        assert not (idle and queued and not self.paused_agent), "work waits while a worker sleeps"

    def check_locks(self, views: dict[TaskId, TaskView]) -> None:
        """A lock has one holder, which runs; what waits for a free one has somebody of its own queued."""
        active = {name: t for t, v in views.items() if v.state in ACTIVE for name in v.spec.locks}
        for name in LOCKS:
            running = [t for t, v in views.items() if v.state in ACTIVE and name in v.spec.locks]
            assert len(running) <= 1
            assert self.raw("GET", f"lock:{name}") == active.get(name)
        aside = self.raw("ZRANGE", "aside:code", 0, -1)
        queued = self.raw("ZRANGE", "ready:code", 0, -1)
        for task in aside:
            kept_by = views[task].kept_by
            if kept_by == "flow":
                assert self.paused_flow
                continue
            lock = kept_by.removeprefix("lock ")
            assert task in self.raw("ZRANGE", f"wants:{lock} code", 0, -1)
            assert lock in active or any(lock in views[t].spec.locks for t in queued), "nobody wakes it"
        for task in queued:
            assert not (self.paused_flow and views[task].spec.workflow)
            assert views[task].kept_by == ("agent" if self.paused_agent else "")

    def check_indexes(self, views: dict[TaskId, TaskView]) -> None:
        found = {
            State.READY: self.raw("ZRANGE", "ready:code", 0, -1) + self.raw("ZRANGE", "aside:code", 0, -1),
            State.BLOCKED: self.raw("ZRANGE", "blocked", 0, -1),
            State.PENDING: self.raw("ZRANGE", "delay", 0, -1),
            State.COMPLETED: self.raw("ZRANGE", "done", 0, -1),
            State.FAILED: self.raw("ZRANGE", "dead", 0, -1),
            State.CANCELLED: self.raw("ZRANGE", "gone", 0, -1),
        }
        for state, members in found.items():
            assert sorted(members) == sorted(t for t, v in views.items() if v.state is state), state
        active = sorted(t for t, v in views.items() if v.state in ACTIVE)
        owned = {w: self.raw("SMEMBERS", f"own:{w}") for w in WORKERS}
        assert {w for w, tasks in owned.items() if tasks} <= set(self.raw("ZRANGE", "leases", 0, -1))
        assert sorted(t for tasks in owned.values() for t in tasks) == active
        assert all(views[t].worker == w for w, tasks in owned.items() for t in tasks)

    def check_counts(self, views: dict[TaskId, TaskView]) -> None:
        flat = self.raw("HGETALL", "n:code")
        counted = {flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2) if int(flat[i + 1])}
        seen_elsewhere = {State.READY, *ACTIVE}
        assert counted == Counter(v.state.value for v in views.values() if v.state not in seen_elsewhere)
        n = self.wait(self.engine.counts()).get(CODE)
        if n is not None:
            assert n.ready == sum(v.state is State.READY for v in views.values())
            assert n.active == sum(v.state in ACTIVE for v in views.values())

    def check_needs(self, view: TaskView, views: dict[TaskId, TaskView]) -> None:
        ups = [views[n] for n in view.spec.needs]
        if view.state is State.BLOCKED:
            still_open = [u.id for u in ups if u.state not in TERMINAL]
            assert still_open, f"{view.id} is blocked by nothing"
            any_will_do = view.spec.needs_rule is NeedsRule.ANY_DONE
            assert not any_will_do or len(still_open) == len(ups), f"{view.id} waits though one is done"
            open_count = int(self.raw("HGET", f"t:{view.id}", "n"))
            assert open_count == (1 if any_will_do else len(still_open))
        strict = view.spec.needs_rule is NeedsRule.ALL_SUCCEEDED
        late = view.state is State.FAILED and view.error == "its deadline has passed"
        if strict and not late and view.state not in (State.BLOCKED, State.CANCELLED):
            assert all(u.state is State.COMPLETED for u in ups), f"{view.id} came before its upstreams"
        bad = [u for u in ups if u.state in (State.FAILED, State.CANCELLED)]
        if bad and strict and not late:
            assert view.state is State.CANCELLED

    def teardown(self) -> None:
        try:
            self.drain()
        finally:
            self.engine.close()
            self.loop.run_until_complete(asyncio.sleep(0))
            self.loop.close()

    def drain(self) -> None:
        """Whatever happened, one worker can bring everything to its end."""
        for worker in WORKERS:
            self.wait(self.engine.release(worker, reason="end"))
        self.wait(self.engine.resume_agent(CODE))
        if any(s.workflow for s in self.specs.values()):
            self.wait(self.engine.resume_workflow(FLOW))
        me = WorkerId("code.last")
        for _ in range(10 * len(self.specs) + 10):
            self.retries_are_due()
            claim = self.wait(self.engine.claim(CODE, me, 30))
            if claim is None:
                break
            self.wait(self.engine.finish(claim, Outcome(ok=True)))
        assert all(self.wait(self.engine.get(t)).state in TERMINAL for t in self.specs)


@pytest.mark.timeout(300)
def test_whatever_happens_the_rules_hold(redis_server: Any) -> None:
    class Here(Team):
        address = redis_server.address

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
