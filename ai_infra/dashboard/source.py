"""What one frame of the monitor shows, gathered; reads only."""

from __future__ import annotations

from ai_infra.core.home import Home
from ai_infra.dashboard.logs import Recent, recent
from ai_infra.dashboard.machine import read_machine
from ai_infra.dashboard.monitor import MonitorData
from ai_infra.supervisor.snapshot import Snapshot
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import TERMINAL, State

RUNNING_SHOWN, ENDED_SHOWN, WORKFLOWS_SHOWN, EVENTS_SHOWN = 20, 10, 8, 40


async def monitor_data(
    snapshot: Snapshot, engine: Engine, home: Home, log: Recent | None = None
) -> MonitorData:
    """Tasks that run and those that ended last, open workflows, log entries, the machine.

    With a `log` kept from frame to frame only its new entries are read. Raises ConnectorUnavailable when
    Redis is away.
    """
    running = await engine.list_tasks(state=State.IN_PROGRESS, limit=RUNNING_SHOWN)
    completed = await engine.list_tasks(state=State.COMPLETED, limit=ENDED_SHOWN)
    failed = await engine.list_tasks(state=State.FAILED, limit=ENDED_SHOWN)
    workflows = await engine.list_workflows(limit=WORKFLOWS_SHOWN)
    return MonitorData(
        snapshot=snapshot,
        tasks=(*running, *completed, *failed),
        workflows=tuple(flow for flow in workflows if flow.state not in TERMINAL),
        events=tuple(log.entries() if log is not None else recent(home.logs, lines=EVENTS_SHOWN)),
        machine=read_machine(home.root),
    )
