"""Random workers, crashes, cancels, retries and lost answers against rules that must hold after each step."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from datetime import UTC, datetime
from typing import Any, ClassVar

import pytest
from engine_kit import CODE
from hypothesis import HealthCheck, Phase, settings
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
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.handoff import _hand_over
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

QA = AgentName("qa")
AGENTS = [CODE, QA]
WORKERS = [WorkerId("code.0"), WorkerId("code.1"), WorkerId("qa.0")]
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
KEYS = ["k1", "k2"]
SOON = datetime(2099, 1, 1, tzinfo=UTC)
LATER = datetime(2100, 1, 1, tzinfo=UTC)
#: upstreams, their rule, priority, locks, deadline, not before
shapes = st.tuples(
    upstreams,
    st.sampled_from(NeedsRule),
    st.integers(1, 10),
    st.sampled_from([(), (), ("repo",), ("db",), ("repo", "db")]),
    st.sampled_from([None, None, LATER]),
    st.sampled_from([None, None, None, SOON]),
)
Shape = tuple[set[int], NeedsRule, int, tuple[str, ...], datetime | None, datetime | None]
#: asked again after their answer was lost, these give the very same one; the others must only not fail
SAME_ANSWER = {"submit", "claim", "start", "finish", "handoff", "pause_agent", "pause_workflow"}
numbers = itertools.count()

#: where the words of a call begin that name what its worker holds: who still has a former run of the task it
#: is given now is not told twice, and hears of it when that run has ended
HOLDS_FROM = {"claim": 3, "finish": 10}


class Forgetful(Connection):
    """Loses the first answer of every call, and so asks twice."""

    async def call(self, function: str, *words: Any) -> Any:
        first = await super().call(function, *words)
        try:
            second = await super().call(function, *words)
        except Conflict:
            assert function == "give_back"  # the worker does the same on either answer
        else:
            same = function in SAME_ANSWER and len(words) <= HOLDS_FROM.get(function, len(words))
            assert second == first or not same, (function, first, second)
        return first


def agent_of(worker: WorkerId) -> AgentName:
    return AgentName(worker.partition(".")[0])


class Team(RuleBasedStateMachine):
    """Three workers of two agents. `held` is what each believes it holds: after a crash it may be wrong."""

    address: ClassVar[str]
    kind: ClassVar[type[Connection]] = Connection

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.specs: dict[TaskId, TaskSpec] = {}
        self.held: dict[WorkerId, list[Claim]] = {w: [] for w in WORKERS}
        self.completed: Counter[TaskId] = Counter()
        self.paused_agent = self.paused_flow = False
        self.wait(self.open())

    async def open(self) -> None:
        connection = await self.kind.open(self.address, prefix=f"m{next(numbers)}:")
        self.engine = Engine(connection)

    def wait(self, work: Any) -> Any:
        return self.loop.run_until_complete(asyncio.wait_for(work, 20))

    def raw(self, *words: Any) -> Any:
        key = self.engine.connection.key(words[1])
        return self.wait(self.engine.connection.command(words[0], key, *words[2:]))

    def pick(self, number: int) -> TaskId | None:
        return list(self.specs)[number % len(self.specs)] if self.specs else None

    # ------------------------------------------------------------ what may happen

    @rule(shape=st.lists(shapes, min_size=1, max_size=6), key=st.sampled_from([None, None, *KEYS]))
    def submit(self, shape: list[Shape], key: str | None) -> None:
        batch: list[TaskSpec] = []
        for number, (ups, needs_rule, priority, locks, deadline_at, not_before) in enumerate(shape, 1):
            known = [*self.specs, *(s.id for s in batch)]
            name = TaskId(f"t{len(known)}")
            needs = tuple(dict.fromkeys(known[u % len(known)] for u in sorted(ups))) if known else ()
            batch.append(
                TaskSpec(id=name, name=name, agent=CODE, run=("true",), needs=needs, needs_rule=needs_rule,
                         priority=priority, max_attempts=2, retry_delay_s=0.0 if priority % 2 else 60.0,
                         locks=locks, deadline_at=deadline_at, not_before=not_before,
                         key=key if number == len(shape) and priority <= 7 else None,
                         workflow=FLOW if priority > 7 else None)
            )  # fmt: skip
        became = self.wait(self.engine.submit(batch, workflow=WorkflowHeader(id=FLOW, name="flow")))
        self.specs |= {s.id: s for s, task in zip(batch, became, strict=True) if s.id == task}

    @rule(worker=workers)
    def claim(self, worker: WorkerId) -> None:
        ready = self.raw("ZRANGE", f"ready:{agent_of(worker)}", 0, 0)
        claim = self.wait(self.engine.claim(agent_of(worker), worker, 30))
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
    def its_time_comes(self, number: int) -> None:
        task = self.pick(number)
        if task is not None and self.specs[task].not_before is not None:
            self.raw("HSET", f"t:{task}", "nb", 1)
            self.raw("ZADD", "delay", "XX", 1, task)
            self.wait(self.engine.tick())

    @rule(number=st.integers(0, 60), agent=st.sampled_from(AGENTS))
    def hand_over(self, number: int, agent: AgentName) -> None:
        task = self.pick(number)
        if task is None:
            return
        before = self.wait(self.engine.get(task))
        try:
            done = self.wait(_hand_over(self.engine, task, agent))
        except Conflict:
            assert before.state in TERMINAL or self.raw("HGET", f"t:{task}", "cx")
            return
        after = self.wait(self.engine.get(task))
        assert after.agent == (agent if done else before.agent)
        assert done or before.state in ACTIVE
        assert after.state is before.state or (before.state, after.state) == (State.READY, State.ASSIGNED)

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
        self.check_times_and_keys(views)
        for agent in AGENTS:
            idle = self.raw("ZRANGE", f"idle:{agent}", 0, -1)
            queued = self.raw("ZCARD", f"ready:{agent}")
            is_paused = self.paused_agent and agent == CODE
            assert not (idle and queued and not is_paused), "work waits while a worker sleeps"

    def check_times_and_keys(self, views: dict[TaskId, TaskView]) -> None:
        """Nothing goes before its time; a key has at most one open task; a task has the agent of its spec."""
        for task, view in views.items():
            agent, not_before = self.raw("HMGET", f"t:{task}", "a", "nb")
            assert agent == view.agent
            assert view.state not in ACTIVE or view.worker is None or agent_of(view.worker) == agent
            waits = int(not_before or 0) > 1
            assert not waits or view.state in {State.PENDING, State.CANCELLED, State.FAILED}
        for key in KEYS:
            having = [t for t, v in views.items() if v.spec.key == key and v.state not in TERMINAL]
            assert [self.raw("GET", f"key:{key}")] == (having or [None])

    def check_locks(self, views: dict[TaskId, TaskView]) -> None:
        """A lock has one holder, which runs; what waits for a free one has somebody of its own queued."""
        active = {name: t for t, v in views.items() if v.state in ACTIVE for name in v.spec.locks}
        for name in LOCKS:
            running = [t for t, v in views.items() if v.state in ACTIVE and name in v.spec.locks]
            assert len(running) <= 1
            assert self.raw("GET", f"lock:{name}") == active.get(name)
        for agent in AGENTS:
            self.check_aside(agent, views, active)

    def check_aside(self, agent: str, views: dict[TaskId, TaskView], active: dict[str, TaskId]) -> None:
        aside = self.raw("ZRANGE", f"aside:{agent}", 0, -1)
        queued = self.raw("ZRANGE", f"ready:{agent}", 0, -1)
        for task in aside:
            kept_by = views[task].kept_by
            if kept_by == "flow":
                assert self.paused_flow
                continue
            lock = kept_by.removeprefix("lock ")
            assert task in self.raw("ZRANGE", f"wants:{lock} {agent}", 0, -1)
            assert lock in active or any(lock in views[t].spec.locks for t in queued), "nobody wakes it"
        for task in queued:
            assert not (self.paused_flow and views[task].spec.workflow)
            assert views[task].kept_by == ("agent" if self.paused_agent and agent == CODE else "")

    def check_indexes(self, views: dict[TaskId, TaskView]) -> None:
        found = {
            State.READY: [
                t for a in AGENTS for k in ("ready", "aside") for t in self.raw("ZRANGE", f"{k}:{a}", 0, -1)
            ],
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
        for agent in AGENTS:
            self.check_count(agent, [v for v in views.values() if v.agent == agent])

    def check_count(self, agent: AgentName, views: list[TaskView]) -> None:
        flat = self.raw("HGETALL", f"n:{agent}")
        counted = {flat[i]: int(flat[i + 1]) for i in range(0, len(flat), 2) if int(flat[i + 1])}
        seen_elsewhere = {State.READY, *ACTIVE}
        assert counted == Counter(v.state.value for v in views if v.state not in seen_elsewhere)
        n = self.wait(self.engine.counts()).get(agent)
        if n is not None:
            assert n.ready == sum(v.state is State.READY for v in views)
            assert n.active == sum(v.state in ACTIVE for v in views)

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
        if strict and not late and view.state not in (State.BLOCKED, State.CANCELLED, State.PENDING):
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
        for task, spec in self.specs.items():
            if spec.not_before is not None:
                self.raw("HSET", f"t:{task}", "nb", 1)
        for _ in range(10 * len(self.specs) + 10):
            self.retries_are_due()
            claims = [self.wait(self.engine.claim(a, WorkerId(f"{a}.last"), 30)) for a in AGENTS]
            if claims == [None, None]:
                break
            for claim in claims:
                if claim is not None:
                    self.wait(self.engine.finish(claim, Outcome(ok=True)))
        assert all(self.wait(self.engine.get(t)).state in TERMINAL for t in self.specs)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", [Connection, Forgetful])
def test_whatever_happens_the_rules_hold(redis_server: Any, how: type[Connection]) -> None:
    class Here(Team):
        address = redis_server.address
        kind = how

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=30,
            stateful_step_count=30,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        ),
    )
