"""What the tests of the dashboard draw: sessions, tasks and workflows of a busy day, and hostile ones."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any

from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.core.process import ProcessState
from ai_infra.dashboard.ink import Line
from ai_infra.dashboard.machine import Machine
from ai_infra.dashboard.monitor import MonitorData
from ai_infra.supervisor.snapshot import AgentLoad, Health, Snapshot, WindowStatus
from ai_infra.tasks.task import State, TaskSpec, TaskView, WorkflowHeader, WorkflowView, workflow_state

NOW = datetime(2026, 11, 20, 12, 3, 1, tzinfo=UTC)
AGENTS = ("supervisor", "code", "data", "infra", "research", "qa")
HOSTILE = (
    "\x1b[31mred\x1b[0m \x1b]52;c;ZXZpbA==\x07clip \x1b]0;title\x1b\\ \u202egnp.exe\u2066 "
    "日本語テキスト 🚀👩\u200d🚀 ❤\ufe0f "
    "two\nlines\r\x9b2J\x00\x7f\t" + "e" + "\u0301" * 40
)
BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


def task(
    name: str = "inventory",
    state: State = State.COMPLETED,
    *,
    agent: str = "research",
    needs: tuple[str, ...] = (),
    workflow: str | None = "w-1kxs2fhj8abcde",
    attempt: int = 1,
    error: str | None = None,
    result: dict[str, Any] | None = None,
    waits: tuple[str, ...] = (),
    run: tuple[Any, ...] = (("git", "log", "--oneline"), "wc -l < 'a b'"),
) -> TaskView:
    began = state not in (State.BLOCKED, State.READY, State.PENDING) or attempt > 1
    ended = state in (State.COMPLETED, State.FAILED, State.CANCELLED)
    spec = TaskSpec(
        id=TaskId(f"t-{name[:20]}"),
        name=name,
        agent=AgentName(agent),
        run=run,
        needs=tuple(TaskId(f"t-{need}") for need in needs),
        workflow=WorkflowId(workflow) if workflow else None,
        description="counts what there is",
    )
    return TaskView(
        spec=spec,
        state=state,
        attempt=attempt if began else 0,
        worker=WorkerId(f"{agent}.6fk2m9q1x0") if began else None,
        created_at=ago(300),
        ready_at=ago(290),
        started_at=ago(200) if began else None,
        finished_at=ago(100) if ended else None,
        error=error,
        result=result,
        open_needs=len(waits),
        waits=tuple(TaskId(f"t-{name}") for name in waits),
    )


def workflow(*tasks: TaskView, name: str = "checkup") -> WorkflowView:
    counts: dict[State, int] = {}
    for one in tasks:
        counts[one.state] = counts.get(one.state, 0) + 1
    header = WorkflowHeader(
        id=WorkflowId("w-1kxs2fhj8abcde"), name=name, description="looks at a repository", submitted_by="ada"
    )
    return WorkflowView(header=header, tasks=tasks, state=workflow_state(counts), counts=counts)


def checkup() -> WorkflowView:
    """A check-up on its way: one part failed, one runs again, the report waits."""
    return workflow(
        task("inventory"),
        task("measures", State.IN_PROGRESS, agent="data", needs=("inventory",), attempt=2),
        task(
            "lint",
            State.FAILED,
            agent="code",
            needs=("inventory",),
            error="command 1 of 2 exit 1: ruff check\nmore",
        ),
        task("tests", State.READY, agent="qa", needs=("inventory",)),
        task("machine", agent="infra"),
        task(
            "report",
            State.BLOCKED,
            agent="supervisor",
            needs=("inventory", "measures", "lint", "tests", "machine"),
            waits=("measures", "tests"),
        ),
    )


def window(name: str, index: int, **fields: Any) -> WindowStatus:
    is_agent = name in AGENTS
    defaults: dict[str, Any] = {
        "state": ProcessState.RUNNING,
        "health": Health.HEALTHY,
        "pid": 4000 + index,
        "uptime_s": 11520.0,
        "rss_bytes": 41 * 2**20,
        "cpu_percent": 0.1 * index,
        "beat_age_s": 1.0,
        "restarts": 0,
        "restart_in_s": None,
        "last_exit": "",
        "activity": {},
        "load": AgentLoad(ready=3, blocked=2, done_last_hour=40, failed_last_hour=index % 2)
        if is_agent
        else None,
    }
    return WindowStatus(name=name, index=index, is_agent=is_agent, **{**defaults, **fields})


def snapshot(*, hostile: bool = False, **fields: Any) -> Snapshot:
    windows = [window(name, i) for i, name in enumerate((*AGENTS, "monitor", "logs", "redis"))]
    running = {
        "task": "t-measures",
        "task_name": "measures",
        "attempt": 2,
        "task_started_at": NOW.timestamp() - 75,
    }
    windows[2] = window("data", 2, activity={**running, "task_name": HOSTILE} if hostile else running)
    dead = {"pid": None, "uptime_s": None, "rss_bytes": None, "cpu_percent": None, "restarts": 2}
    waits = {"state": ProcessState.BACKOFF, "restart_in_s": 3.2, "last_exit": "killed by signal 9"}
    windows[4] = window("research", 4, health=Health.OFFLINE, **dead, **waits)
    defaults: dict[str, Any] = {
        "at": NOW.timestamp(),
        "session": "ai-infrastructure",
        "home": "/home/ada/.ai-infra",
        "up": True,
        "wanted": True,
        "windows": tuple(windows),
        "redis": "unix:///home/ada/.ai-infra/run/redis.sock",
        "redis_ok": True,
        "durable": True,
        "problems": (HOSTILE,) if hostile else (),
    }
    return Snapshot(**{**defaults, **fields})


def entry(event: str = "task_started", seconds_ago: float = 0.0, **fields: Any) -> dict[str, Any]:
    at = ago(seconds_ago).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return {"at": at, "level": "info", "process": "code", "event": event, **fields}


def monitor_data(*, hostile: bool = False, **fields: Any) -> MonitorData:
    name = HOSTILE if hostile else "lint"
    events = [entry(seconds_ago=60 - i, task=f"t-{i}", name=f"{name}{i}", attempt=1) for i in range(60)]
    flow = workflow(*checkup().tasks, name=HOSTILE) if hostile else checkup()
    ended = task(name, State.FAILED, agent="code", error=HOSTILE if hostile else "exit 1")
    return MonitorData(
        snapshot=snapshot(hostile=hostile, **fields),
        tasks=(*checkup().tasks, ended),
        workflows=(flow,),
        events=tuple(events),
        machine=Machine(
            load=0.42, cpus=2, memory_used_bytes=3 * 2**30, memory_total_bytes=8 * 2**30, disk_used=0.41
        ),
    )


def assert_fits(lines: list[Line] | tuple[Line, ...], width: int) -> None:
    """No line is wider than `width` or holds anything that moves a cursor or turns text around."""
    for line in lines:
        assert line.width <= width, (line.width, line.plain)
        assert line.plain.isprintable(), ascii(line.plain)
        assert not set(line.plain) & set(BIDI), ascii(line.plain)


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """A test that is a coroutine, run in a loop of its own."""

    @functools.wraps(test)
    def run(*args: Any, **fixtures: Any) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **fixtures), 30))

    return run
