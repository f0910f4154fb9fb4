"""Working: what a worker's process says and hears.

It remembers which tasks it was given, so that none reaches its caller twice, and one whose
notice was lost is found.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Collection, Mapping
from typing import Any

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import Conflict, ConnectorUnavailable, NotFound, UsageError
from ai_infra.core.ids import AgentName, TaskId, WorkerId
from ai_infra.tasks.calls import BLOCK_S, DEFAULT_LEASE_S, Calls, as_ms, clean
from ai_infra.tasks.spec import dump_json, load_spec
from ai_infra.tasks.task import CANCELLED_REASON, MAX_RESULT_BYTES, MAX_VALUE_BYTES, Claim, Outcome, State
from ai_infra.tasks.views import Beat, Notice, read_claim, read_instant

_REMEMBERED = 4096


class Working(Calls):
    """The worker's part of the engine."""

    def __init__(self, connection: Connection) -> None:
        super().__init__(connection)
        #: given to the caller and not handed in: task and fence
        self._held: dict[WorkerId, dict[TaskId, int]] = {}
        #: handed in; a late notice of one of these is dropped
        self._ended: OrderedDict[tuple[TaskId, int], None] = OrderedDict()
        #: told that there is nothing to do: agent and lease of its last claim
        self._idle: dict[WorkerId, tuple[AgentName, float]] = {}
        self._inboxes: dict[WorkerId, Inbox] = {}

    def close(self) -> None:
        """Close the connection and everything that waits on it."""
        for inbox in self._inboxes.values():
            inbox.close()
        self.connection.close()

    async def claim(
        self,
        agent: AgentName,
        worker: WorkerId,
        lease_s: float = DEFAULT_LEASE_S,
        *,
        holding: Collection[TaskId] | None = None,
    ) -> Claim | None:
        """The first READY task of `agent`, IN_PROGRESS now, or None. Never blocks.

        After None the worker counts as idle and is sent a notice when there is work.

        A task this worker was given before and does not know of (its notice was lost) comes first.
        `holding`: what it does know of; by default what this Engine has given it.
        """
        if holding is not None:  # the caller knows better than we do
            self._held[worker] = {t: f for t, f in self._held.get(worker, {}).items() if t in holding}
        held = self._held.get(worker, {}) if holding is None else holding
        reply = await self._call("claim", agent, worker, as_ms(lease_s), *held)
        return self._answered(reply, agent, worker, lease_s)

    async def next_notice(self, worker: WorkerId, timeout_s: float) -> Notice | None:
        """Wait for word to this worker, or None after `timeout_s`. Cancelling it loses no notice.

        A worker that was told there is nothing registers again every minute and after a lost connection,
        should somebody have thought it dead; the claim of such a notice may be IN_PROGRESS already.
        """
        inbox = self._inboxes.setdefault(worker, Inbox(self.connection, f"inbox:{worker}"))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(timeout_s, 0.01)
        while (left := deadline - loop.time()) > 0:
            try:
                text = await inbox.pop(min(left, BLOCK_S))
            except ConnectorUnavailable:
                text = None
            notice = await self._ask_again(worker) if text is None else self._read_notice(text, worker)
            if notice is not None:
                return notice
        return None

    async def _ask_again(self, worker: WorkerId) -> Notice | None:
        """What we were given and not told; raises ConnectorUnavailable when Redis stays away."""
        if worker in self._idle:
            claim = await self.claim(self._idle[worker][0], worker, self._idle[worker][1])
        else:
            reply = await self._call("recover", worker, *self._held.get(worker, ()))
            claim = self._given(reply, worker)
        return Notice(kind="task", claim=claim) if claim else None

    async def start(self, claim: Claim) -> None:
        """Say that work on a handed task begins. Conflict: it was taken back or cancelled; drop it."""
        try:
            await self._call("start", claim.spec.id, claim.worker, claim.fence)
        except (Conflict, NotFound):
            self._drop(claim)
            raise

    async def finish(
        self,
        claim: Claim,
        outcome: Outcome,
        *,
        take_next: bool = False,
        lease_s: float = DEFAULT_LEASE_S,
    ) -> tuple[State, Claim | None]:
        """Hand in the outcome; the task's new state and, with `take_next`, what claim() would give.

        COMPLETED; or PENDING (will be tried again), FAILED (dead letter), CANCELLED (it was asked for).
        Conflict: the task is not ours any more, the outcome is dropped. Raises UsageError for a result that
        is too large.
        """
        spec = claim.spec
        others = [task for task in self._held.get(claim.worker, ()) if task != spec.id]
        try:
            state, reply = await self._call(
                "finish",
                spec.id,
                claim.worker,
                claim.fence,
                _verdict(outcome),
                int(outcome.retry),
                clean(outcome.error or outcome.reason),
                clean(outcome.reason),
                _result_text(spec.id, outcome.result),
                spec.agent if take_next else "",
                as_ms(lease_s),
                *others,
            )
        except (Conflict, NotFound):
            self._drop(claim)
            raise
        self._drop(claim)
        if not take_next:
            return State(state), None
        return State(state), self._answered(reply, spec.agent, claim.worker, lease_s)

    async def give_back(self, claim: Claim) -> None:
        """Return a task undone: READY again; the run does not count. The worker is not idle any more."""
        try:
            await self._call("give_back", claim.spec.id, claim.worker, claim.fence)
        except (Conflict, NotFound):
            self._drop(claim)
            raise
        self._drop(claim)

    async def release(self, worker: WorkerId, *, reason: str, count_attempt: bool = True) -> list[TaskId]:
        """Take back everything a dead worker held, at once; the ids. Twice is harmless.

        The tasks are READY, or CANCELLED when that was asked. A run without an outcome counts against no
        limit of attempts; but a task whose workers died (`count_attempt`) five times is FAILED. The worker is
        not handed anything any more.
        """
        self._forget(worker)
        return list(await self._call("release", worker, clean(reason), int(count_attempt)))

    async def retire_older(self, agent: AgentName, worker: WorkerId, *, reason: str = "") -> list[TaskId]:
        """Release every other worker of `agent`. Only for one who knows that they are dead."""
        return list(await self._call("retire", agent, worker, reason or f"the {agent} process ended"))

    async def beat(
        self,
        name: str,
        worker: WorkerId | None = None,
        payload: Mapping[str, Any] | None = None,
        lease_s: float = DEFAULT_LEASE_S,
        stale_s: float = 30.0,
    ) -> Beat:
        """Say that process `name` lives, and renew the leases of `worker`; what it must know comes back.

        A name is in `suspects` when the beats of most live processes found it older than `stale_s`.
        Raises Conflict when the Redis has become another installation's.
        """
        before = set(self._held.get(worker, ())) if worker else set()
        owned, cancelled, suspects, at, paused = await self._call(
            "beat",
            name,
            worker or "",
            dump_json(dict(payload or {})),
            as_ms(lease_s),
            as_ms(stale_s),
            self.connection.owner,
        )
        after = self._held.get(worker, {}) if worker else {}
        lost = (before & after.keys()) - set(owned)
        return Beat(
            at=read_instant(at),
            cancelled=tuple(cancelled),
            lost=tuple(sorted(lost)),
            suspects=tuple(suspects),
            paused=paused,
        )

    def _answered(self, reply: Any, agent: AgentName, worker: WorkerId, lease_s: float) -> Claim | None:
        if reply is None:
            self._idle[worker] = agent, lease_s
        return self._given(reply, worker)

    def _given(self, reply: Any, worker: WorkerId) -> Claim | None:
        if reply is None:
            return None
        claim = read_claim(reply, worker)
        self._idle.pop(worker, None)
        return claim if self._take(claim.spec.id, claim.fence, worker) else None

    def _take(self, task: TaskId, fence: int, worker: WorkerId) -> bool:
        """Note what a worker was given; False for what it had already: two answers may tell of one claim."""
        held = self._held.setdefault(worker, {})
        if held.get(task, 0) >= fence or (task, fence) in self._ended:
            return False
        held[task] = fence
        return True

    def _drop(self, claim: Claim) -> None:
        held = self._held.get(claim.worker, {})
        if held.get(claim.spec.id) == claim.fence:
            del held[claim.spec.id]
        self._ended[claim.spec.id, claim.fence] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _forget(self, worker: WorkerId) -> None:
        self._held.pop(worker, None)
        self._idle.pop(worker, None)
        inbox = self._inboxes.pop(worker, None)
        if inbox is not None:
            inbox.close()

    def _read_notice(self, text: str, worker: WorkerId) -> Notice | None:
        data = json.loads(text)
        if data["kind"] == "task":
            return self._read_hand_over(data, worker)
        return Notice(kind=data["kind"], task=data.get("task"), reason=data.get("reason", ""))

    def _read_hand_over(self, data: Mapping[str, Any], worker: WorkerId) -> Notice | None:
        spec = load_spec(json.dumps(data["spec"]))
        if not self._take(spec.id, data["fence"], worker):
            return None  # claim() gave it already
        self._idle.pop(worker, None)
        claim = Claim(
            spec=spec, attempt=data["attempt"], fence=data["fence"], worker=worker, state=State.ASSIGNED
        )
        return Notice(kind="task", claim=claim)


def _verdict(outcome: Outcome) -> str:
    if outcome.ok:
        return "ok"
    return "cancelled" if outcome.reason == CANCELLED_REASON else "failed"


def _result_text(task: TaskId, result: Mapping[str, Any]) -> str:
    if not result:
        return "{}"
    text = dump_json(dict(result))
    most = MAX_RESULT_BYTES + (MAX_VALUE_BYTES + len(',"value":') if "value" in result else 0)
    if len(text) > most:
        raise UsageError(
            f"the result of task {task} is {len(text)} bytes, more than {most}; write it to a file"
        )
    return text
