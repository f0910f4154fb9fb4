"""The loop of an agent: claim, run, hand in, claim again; asleep in Redis when there is nothing to do.

- Start is recovery: what the last life left running is ended, what it held goes back to the queue.
- An outcome is handed in until Redis has it, or says that the task is no longer ours.
- Whatever an attempt does to us, it ends in an outcome: no task can end its agent.
- When asked to stop: the running command may finish within the drain, then it is stopped and the task given
  back, its attempt not counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

from ai_infra.agents.attempt import Attempt
from ai_infra.agents.persist import persist
from ai_infra.agents.preparing import look_at
from ai_infra.agents.scratch import Scratch
from ai_infra.agents.telling import Telling, WorkerView
from ai_infra.core import ids
from ai_infra.core.errors import AiInfraError, Conflict, NotFound, SystemProblem, UsageError
from ai_infra.core.orphans import adopt_orphans, end_orphans, find_orphans
from ai_infra.core.process import Process
from ai_infra.core.settings import Settings
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.retry import Failure, refusal
from ai_infra.tasks.task import Claim, Outcome, State

NOTICE_WAIT_S = 3600.0  #: the longest sleep in Redis; it ends early with every notice
CLEAN_EVERY_S = 3600.0
GOODBYE_S = 1.0  #: for the last word to Redis

T = TypeVar("T")


class Worker:
    """One life of one agent."""

    def __init__(
        self, process: Process, settings: Settings, engine: Engine, view: WorkerView, env: Mapping[str, str]
    ) -> None:
        self._process, self._settings, self._engine = process, settings, engine
        self._view, self._env = view, env
        self._telling = Telling(process, view)
        self._agent = ids.AgentName(process.name)
        self._me = process.worker
        self._scratch = Scratch(settings.home, settings.agents[process.name])
        self._handed: asyncio.Queue[Claim] = asyncio.Queue()
        self._attempt: Attempt | None = None
        self._cleaned_at = 0.0
        self._broken: Exception | None = None  #: why a side task ended

    async def recover(self) -> None:
        """Put right what the last life left; safe, since this process holds the agent's lock."""
        self._scratch.ensure()
        adopt_orphans()
        ended = await asyncio.to_thread(end_orphans, self._settings.home, self._agent)
        released = await self._persist(lambda: self._engine.retire_older(self._agent, self._me))
        if left := await asyncio.to_thread(find_orphans, self._settings.home, self._agent) if ended else []:
            self._process.log("commands_left", level="error", pids=left)
        if ended or released:
            self._process.log("recovered", commands_ended=ended, tasks_released=list(released or ()))
        rate = self._settings.agents[self._agent].rate_per_minute
        await self._persist(lambda: self._engine.limit_agent(self._agent, rate))
        if rate:
            self._process.log("rate_limited", rate_per_minute=rate)

    async def serve(self) -> None:
        """Work until asked to stop; on return nothing runs and no task is held.

        Raises what ended a side task: without its ears an agent must not look alive.
        """
        listening = asyncio.create_task(self._beside(self._listen()), name="notices")
        draining = asyncio.create_task(self._beside(self._drain_when_asked()), name="drain")
        try:
            claim: Claim | None = None
            while not self._process.stop.is_set():
                claim = claim or await self._next_claim()
                if claim is not None and not self._process.stop.is_set():
                    claim = await self._work(claim)
        finally:
            for task in (listening, draining):
                task.cancel()
            # If Redis is away the next life, or the end of the lease, gives back what we hold.
            with contextlib.suppress(AiInfraError, TimeoutError):
                async with asyncio.timeout(GOODBYE_S):
                    await self._engine.release(self._me, reason="stopped", count_attempt=False)
        if self._broken is not None:
            raise self._broken

    def note_pause(self, reason: str) -> None:
        """Hear, with every heartbeat, why the agent is paused; "" when it is not."""
        self._telling.paused(reason, working=self._attempt is not None)

    def cancel(self, task: ids.TaskId, reason: str = "") -> None:
        """Stop a running task, if it is the one."""
        if self._attempt is not None and self._attempt.claim.spec.id == task:
            self._process.log("cancel_reached", task=task, reason=reason or "cancelled")
            self._attempt.cancel()

    def _let_go(self, task: ids.TaskId, agent: str) -> None:
        """Stop a running task, if it is the one, so that another agent can go on with it."""
        if self._attempt is not None and self._attempt.claim.spec.id == task:
            self._process.log("handoff_reached", task=task, to=agent)
            self._attempt.drain()

    async def _beside(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a side task; its failure asks the process to stop. Heartbeats go on while that drains."""
        try:
            await work
        except Exception as exc:  # noqa: BLE001 the rim of a side task: serve() raises it at the end
            if self._process.insist.is_set():
                return  # Redis was away, and we may not wait for it any more
            self._broken = exc
            self._process.log("side_task_failed", level="error", reason=repr(exc))
            if self._process.stop.is_set() and self._attempt is not None:
                self._attempt.kill()  # nobody may be left who would end it
            self._process.begin_stop()

    # -- getting work ---------------------------------------------------------------------------------------

    async def _next_claim(self) -> Claim | None:
        """The next task, or None when asked to stop; sleeps in between."""
        claiming = self._persist(lambda: self._engine.claim(self._agent, self._me, self._lease_s))
        claim = await self._until_stop(claiming)
        if claim is not None or self._process.stop.is_set():
            return claim
        self._telling.idle()
        await self._until_stop(self._clean())
        handed = await self._until_stop(self._handed.get())
        if handed is None or handed.state is not State.ASSIGNED:
            return handed
        try:
            await self._persist(lambda: self._engine.start(handed))
        except (Conflict, NotFound):
            return None  # cancelled or taken back before we began
        return handed

    async def _listen(self) -> None:
        """Take notices out of the inbox for as long as we live."""
        while True:
            notice = await self._persist(lambda: self._engine.next_notice(self._me, NOTICE_WAIT_S))
            if notice is None:
                continue
            if notice.kind == "task" and notice.claim is not None:
                self._handed.put_nowait(notice.claim)
            elif notice.kind == "cancel" and notice.task is not None:
                self.cancel(notice.task, notice.reason)
            elif notice.kind == "handoff" and notice.task is not None:
                self._let_go(notice.task, notice.reason)

    async def _until_stop(self, waiting: Awaitable[T]) -> T | None:
        """The result of `waiting`, or None when the stop comes first."""
        wait = asyncio.ensure_future(waiting)
        stop = asyncio.create_task(self._process.stop.wait(), name="stop")
        done, pending = await asyncio.wait({wait, stop}, return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return wait.result() if wait in done else None

    # -- doing it -------------------------------------------------------------------------------------------

    async def _work(self, claim: Claim) -> Claim | None:
        """One attempt and its outcome; the next claim, if the hand-in brought one."""
        began = time.monotonic()
        outcome, drained = await self._attempted(claim)
        if drained:
            await self._hand_in(claim, lambda: self._give_back(claim))
            state, following = "READY", None
        else:
            handed_in = await self._finish(claim, outcome)
            state, following = handed_in if handed_in is not None else ("REFUSED", None)
        self._telling.ended(claim, str(state), outcome, time.monotonic() - began)
        return following

    async def _attempted(self, claim: Claim) -> tuple[Outcome, bool]:
        """The outcome of an attempt, and whether it was stopped because we stop."""
        attempt = self._attempt = Attempt(
            claim,
            home=self._settings.home,
            scratch=self._scratch,
            limits=self._settings.tasks,
            view=self._view,
            base_env=self._env,
            upstreams=lambda tasks: self._persist(lambda: look_at(self._engine, tasks)),
        )
        try:
            self._telling.started(claim)
            outcome = await attempt.run()
        except SystemProblem as exc:  # no disk, no rights: this machine's fault, another attempt may do
            spec, machine = claim.spec, Failure(kind="machine")
            refused = refusal(machine, spec.retry_only_for, spec.retry_not_for)
            error = f"{exc} ({refused})" if refused else str(exc)
            outcome = Outcome(ok=False, error=error, retry=not refused, reason="machine")
        except Exception as exc:  # noqa: BLE001 the rim: the next task must not suffer for this one
            outcome = self._bug(claim, exc)
        finally:
            self._attempt = None
        return outcome, attempt.drained

    def _bug(self, claim: Claim, exc: Exception) -> Outcome:
        """The outcome of an attempt that met a fault of ours; another would meet it, too."""
        trace = "".join(traceback.format_exception(exc))
        self._process.log("attempt_crashed", level="error", task=claim.spec.id, reason=repr(exc)[:500],
                          trace=trace[-10_000:])  # fmt: skip
        error = f"bug: {repr(exc)[:500]} (trace in logs/{self._process.name}.jsonl)"
        return Outcome(ok=False, retry=False, error=error, reason="bug")

    async def _finish(self, claim: Claim, outcome: Outcome) -> tuple[State, Claim | None] | None:
        def finish(outcome: Outcome) -> Awaitable[tuple[State, Claim | None]]:
            take_next = not self._process.stop.is_set()
            return self._engine.finish(claim, outcome, take_next=take_next, lease_s=self._lease_s)

        try:
            return await self._hand_in(claim, lambda: finish(outcome))
        except UsageError as exc:  # a result that nobody would take, however often it is handed in
            bug = self._bug(claim, exc)
            return await self._hand_in(claim, lambda: finish(bug))

    async def _give_back(self, claim: Claim) -> tuple[State, None]:
        await self._engine.give_back(claim)
        return State.READY, None

    async def _hand_in(
        self, claim: Claim, call: Callable[[], Awaitable[tuple[State, Claim | None]]]
    ) -> tuple[State, Claim | None] | None:
        """Hand in until Redis has it; None when the task is no longer ours."""
        try:
            return await self._persist(call)
        except (Conflict, NotFound) as exc:
            self._process.log("outcome_refused", level="warning", task=claim.spec.id, reason=str(exc))
            return None

    async def _drain_when_asked(self) -> None:
        """At the first signal the command has the drain to finish, less the grace; the second kills it."""
        await self._process.stop.wait()
        with contextlib.suppress(TimeoutError):
            patience_s = max(0.0, self._settings.supervisor.drain_s - self._settings.tasks.grace_s - 1.0)
            async with asyncio.timeout(patience_s):
                await self._process.insist.wait()
        if self._attempt is not None:
            self._attempt.drain()
        await self._process.insist.wait()
        if self._attempt is not None:
            self._attempt.kill()

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await persist(self._process, call)

    @property
    def _lease_s(self) -> float:
        return self._settings.tasks.lease_s

    async def _clean(self) -> None:
        """Old temporary files go, at most once an hour, when there is nothing else to do."""
        if self._cleaned_at and time.monotonic() - self._cleaned_at < CLEAN_EVERY_S:
            return
        self._cleaned_at = time.monotonic()
        try:
            removed = await asyncio.to_thread(self._scratch.clean_temp, self._settings.tasks.temp_max_age_s)
        except Exception as exc:  # noqa: BLE001 the rim: litter is no reason to end
            self._process.log("temp_not_cleaned", level="warning", reason=repr(exc)[:500])
            return
        if removed:
            self._process.log("temp_cleaned", entries=removed)
