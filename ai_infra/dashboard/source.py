"""What one frame of the monitor shows, gathered; reads only."""

from __future__ import annotations

from collections.abc import Sequence

from ai_infra.core.home import Home
from ai_infra.dashboard.logs import Recent, recent
from ai_infra.dashboard.machine import read_machine
from ai_infra.dashboard.monitor import MonitorData
from ai_infra.supervisor.snapshot import Snapshot
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import State, TaskView, WorkflowView

RUNNING_SHOWN, ENDED_SHOWN, WORKFLOWS_SHOWN, EVENTS_SHOWN = 20, 10, 8, 40


class Work:
    """Tasks that run or ended last, workflows that are open or failed; read again when that has changed."""

    def __init__(self) -> None:
        self.tasks: tuple[TaskView, ...] = ()
        self.workflows: tuple[WorkflowView, ...] = ()
        self._newest: tuple[str, object] | None = None  #: event, and pauses, that what we hold includes

    async def refresh(self, engine: Engine, pauses: object = ()) -> None:
        """Bring it up to date; `pauses` are those of workflows, which are no moves.

        Raises ConnectorUnavailable.
        """
        newest = await engine.last_event_id(), pauses
        if newest == self._newest:
            return
        running = await engine.list_tasks(state=State.IN_PROGRESS, limit=RUNNING_SHOWN)
        completed = await engine.list_tasks(state=State.COMPLETED, limit=ENDED_SHOWN)
        failed = await engine.list_tasks(state=State.FAILED, limit=ENDED_SHOWN)
        workflows = await engine.list_workflows(limit=WORKFLOWS_SHOWN)
        self.tasks = (*running, *completed, *failed)
        self.workflows = shown_workflows(workflows)
        self._newest = newest  # from before we read: what moved meanwhile is read in the next frame


def shown_workflows(workflows: Sequence[WorkflowView]) -> tuple[WorkflowView, ...]:
    """The open ones, then those of the latest that failed or were undone."""
    missed = (flow for flow in workflows if flow.ended and (flow.undo or flow.state is State.FAILED))
    return (*(flow for flow in workflows if not flow.ended), *missed)


async def monitor_data(
    snapshot: Snapshot, engine: Engine, home: Home, log: Recent | None = None, work: Work | None = None
) -> MonitorData:
    """Tasks, workflows, log entries, the machine.

    With a `log` and a `work` kept from frame to frame only what is new is read. Raises ConnectorUnavailable
    when Redis is away.
    """
    work = work or Work()
    await work.refresh(engine, snapshot.paused_workflows)
    return MonitorData(
        snapshot=snapshot,
        tasks=work.tasks,
        workflows=work.workflows,
        events=tuple(log.entries() if log is not None else recent(home.logs, lines=EVENTS_SHOWN)),
        machine=read_machine(home.root),
    )
