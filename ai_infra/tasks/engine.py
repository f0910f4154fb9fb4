"""The engine: the durable task queue as Python sees it.

Every transition is one call of the function library (connectors/engine/) and atomic there; this side
checks what is submitted, remembers which tasks its workers were given, and waits without polling. Tasks run
at least once: a lease may end while a slow worker still runs, then another gets the task and the fence
refuses the slow one's result. Whatever raised ConnectorUnavailable may have happened; every method may be
called again with the same arguments. What a worker calls is in working.py, what only reads in looking.py,
what goes into files and comes out of them in keeping.py.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.redis import Connection
from ai_infra.connectors.wire import Word
from ai_infra.core.errors import Conflict, ConnectorError, ConnectorUnavailable
from ai_infra.core.ids import AgentName, TaskId, WorkflowId, new_id
from ai_infra.tasks.calls import BLOCK_S, IDS_A_CALL, as_ms, clean
from ai_infra.tasks.keeping import Keeping
from ai_infra.tasks.looking import Looking
from ai_infra.tasks.spec import dump_header
from ai_infra.tasks.submit import batches, ordered
from ai_infra.tasks.task import TaskSpec, WorkflowHeader
from ai_infra.tasks.views import BeatView, CancelVerdict, read_beats
from ai_infra.tasks.working import Working

_AWAY_RETRY_S = 0.2


class Engine(Working, Looking, Keeping):
    """The task queue on one Redis. Close it before its connection's event loop ends."""

    def __init__(self, connection: Connection, aging_s: float = 0.0) -> None:
        """`aging_s`: the age that is worth one step of priority, for what is submitted here; 0: none is."""
        super().__init__(connection)
        self._aging_ms = as_ms(aging_s) if aging_s else 0
        self._timer = Inbox(connection, "timer:inbox")

    def close(self) -> None:
        """Close the connection and everything that waits on it."""
        self._timer.close()
        super().close()

    # ------------------------------------------------------------ submit, cancel, retry

    async def submit(
        self, specs: Sequence[TaskSpec], *, workflow: WorkflowHeader | None = None
    ) -> list[TaskId]:
        """Accept all of `specs`, or none; on return they are stored as safely as the server stores (fsync).

        The same specs again are accepted once; the same id with another content is a Conflict. An unknown
        upstream is NotFound; a malformed task, a double id or a cycle SpecError. Nothing starts before all
        is written; of more than a thousand the last may be PENDING until the ticker, or a worker that finds
        nothing else, has released them. The ids that came to be: where an open task has the `key` of a spec,
        that task's.
        """
        header = dump_header(workflow) if workflow else ""
        head: list[Word] = [workflow.id if workflow else "", header, self._aging_ms]
        order = ordered(specs)
        packed = list(batches(order))
        same: dict[int, TaskId] = {}
        if len(packed) == 1:
            same = _same(await self._call("submit", "", "1", *head, *packed[0][1]), 0)
        elif packed:
            same = await self._submit_in_parts(head, packed)
        became = {order[i].id: task for i, task in same.items()}
        return [became.get(spec.id, spec.id) for spec in specs]

    async def _submit_in_parts(
        self, head: list[Word], packed: list[tuple[int, list[Word]]]
    ) -> dict[int, TaskId]:
        sub, same, first = new_id("sub"), dict[int, TaskId](), 0
        try:
            for number, (count, words) in enumerate(packed, 1):
                is_last = "1" if number == len(packed) else "0"
                same |= _same(await self._call("submit", sub, is_last, *head, *words), first)
                first += count
        except BaseException as exc:
            if not isinstance(exc, ConnectorUnavailable):
                await self._abort(sub)
            raise
        return same

    async def _abort(self, sub: str) -> None:
        with contextlib.suppress(Conflict):  # its last part had arrived, so it is released
            while await self._call("abort", sub, IDS_A_CALL) > 0:
                pass

    async def cancel(self, task: TaskId, *, reason: str) -> CancelVerdict:
        """End a task and what needs it: at once, or, when it runs, by telling its worker.

        Raises Conflict when it has ended.
        """
        return _read_verdict(await self._call("cancel", task, clean(reason), new_id("call")))

    async def cancel_workflow(self, workflow: WorkflowId, *, reason: str) -> CancelVerdict:
        """Cancel every task of a workflow that has not ended."""
        return _read_verdict(await self._call("cancel_workflow", workflow, clean(reason), new_id("call")))

    async def undo_workflow(self, workflow: WorkflowId, *, reason: str) -> int:
        """Run the undo commands of the completed tasks of a workflow that has ended; how many tasks they are.

        See undo.py. Raises Conflict when it has open tasks, was undone already, or has nothing to undo, and
        when some of its completed tasks are archived.
        """
        return int(await self._call("undo_workflow", workflow, clean(reason), new_id("call")))

    async def retry(self, task: TaskId) -> list[TaskId]:
        """Run a FAILED or CANCELLED task again, and what was cancelled because of it; their ids.

        It may fail `max_attempts` times anew; the numbers of its runs go on. Raises Conflict in any other
        state, while an upstream has not succeeded, and when its workflow was undone.
        """
        return list(await self._call("retry", task, new_id("call")))

    async def pause_agent(self, agent: AgentName, reason: str) -> None:
        """Start no more tasks of an agent; what it does it finishes. Its queue goes on taking tasks."""
        await self._call("pause_agent", agent, clean(reason) or "paused")

    async def resume_agent(self, agent: AgentName) -> None:
        """Let a paused agent go on; without effect for one that is not paused."""
        await self._call("pause_agent", agent, "")

    async def limit_agent(self, agent: AgentName, rate_per_minute: float) -> None:
        """Let an agent begin at most so many tasks a minute, evenly spaced; 0: no limit."""
        await self._call("limit", agent, round(60_000 / rate_per_minute) if rate_per_minute else 0)

    async def pause_workflow(self, workflow: WorkflowId, reason: str) -> None:
        """Start no more tasks of a workflow; what runs goes on. Raises NotFound."""
        await self._call("pause_workflow", workflow, clean(reason) or "paused")

    async def resume_workflow(self, workflow: WorkflowId) -> None:
        """Let a paused workflow go on; without effect for one that is not paused. Raises NotFound."""
        await self._call("pause_workflow", workflow, "")

    # ------------------------------------------------------------ heartbeats of all, timers

    async def beats(self) -> dict[str, BeatView]:
        """The last heartbeat of every process, by name."""
        return read_beats(await self._call("beats"))

    async def forget_beat(self, name: str) -> None:
        """Drop the heartbeat of a process that ended on purpose, so that nobody misses it."""
        await self._call("forget_beat", name)

    async def tick(self) -> float | None:
        """Do what is due: ended leases, retries, broken-off submits.

        Seconds until the next timer, or None.
        """
        due_ms = await self._call("tick")
        return None if due_ms < 0 else due_ms / 1000

    async def wait_timer(self, delay_s: float | None) -> None:
        """Sleep for `delay_s` (None: at most a minute), or until an earlier timer is set; then tick()."""
        if delay_s is None or delay_s > 0:
            await self._timer.pop(BLOCK_S if delay_s is None else min(delay_s + 0.001, BLOCK_S))

    async def run_timers(self) -> None:
        """Tick for ever, exactly when needed; goes on when Redis is away or refuses for a while."""
        while True:
            try:
                await self.wait_timer(await self.tick())
            except ConnectorError:
                await asyncio.sleep(_AWAY_RETRY_S)


def _same(reply: Sequence[Any], first: int) -> dict[int, TaskId]:
    """Which tasks of a batch (from 1) exist already under another id; by their place in the whole submit."""
    return {first + reply[i] - 1: TaskId(reply[i + 1]) for i in range(0, len(reply), 2)}


def _read_verdict(reply: Sequence[Any]) -> CancelVerdict:
    return CancelVerdict(cancelled=tuple(reply[1]), requested=tuple(reply[2]))
