"""A snapshot: everything about the session at one moment, as plain values for whoever draws or prints it.

Three sources, each of which may be silent: tmux (windows), the ledger (deaths and restarts), Redis
(heartbeats, tasks). What a silent source would have told is None or empty, and `problems` says so.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from ai_infra.core.process import ProcessState, living_pid
from ai_infra.core.settings import Settings
from ai_infra.supervisor.ledger import Ledger, WindowRecord, read_ledger
from ai_infra.supervisor.spec import SessionSpec
from ai_infra.supervisor.tmux import Absent, Pane, Present, Sight


class Health(StrEnum):
    """How well a process does its work."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"  #: over 20 % of attempts failed, or work waits over 30 s on average
    UNHEALTHY = "unhealthy"  #: over half of the attempts of the last hour failed
    OFFLINE = "offline"  #: no heartbeat for 30 s, or no process


DEGRADED_ERRORS, UNHEALTHY_ERRORS = 0.2, 0.5
DEGRADED_WAIT_S = 30.0


@dataclass(frozen=True, kw_only=True)
class AgentLoad:
    """The tasks of one agent: how many now, and how the last hour went."""

    ready: int = 0
    active: int = 0
    blocked: int = 0
    delayed: int = 0
    completed: int = 0
    failed: int = 0
    done_last_hour: int = 0
    failed_last_hour: int = 0
    wait_s: float = 0.0  #: mean time from ready to start in the last hour
    duration_s: float = 0.0  #: mean run time in the last hour
    paused: str = ""  #: why it begins no task; "" while it goes on
    rate_per_minute: float = 0.0  #: it begins at most so many tasks a minute; 0: no limit


@dataclass(frozen=True, kw_only=True)
class PausedWorkflow:
    """An open workflow of which nothing more begins."""

    id: str
    name: str
    reason: str


@dataclass(frozen=True, kw_only=True)
class WindowStatus:
    """One window and the process in it."""

    name: str
    index: int
    is_agent: bool
    state: ProcessState
    health: Health
    pid: int | None
    uptime_s: float | None
    rss_bytes: int | None
    cpu_percent: float | None
    beat_age_s: float | None
    restarts: int
    restart_in_s: float | None
    last_exit: str
    activity: Mapping[str, Any]  #: of the heartbeat: `task`, `task_name`, `doing` …
    load: AgentLoad | None


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """The whole session at `at` (POSIX seconds)."""

    at: float
    session: str
    home: str
    up: bool
    wanted: bool
    windows: tuple[WindowStatus, ...]
    redis: str  #: where it is, without password
    redis_ok: bool
    durable: bool  #: whether an acknowledged task survives the death of Redis
    problems: tuple[str, ...]
    paused_workflows: tuple[PausedWorkflow, ...] = ()

    @property
    def is_well(self) -> bool:
        """Up, and every window running."""
        return self.up and not self.problems and all(w.state is ProcessState.RUNNING for w in self.windows)


class BeatLike(Protocol):
    """A heartbeat as stored: what was said, and how long ago."""

    @property
    def payload(self) -> Mapping[str, Any]:
        """What the process said of itself."""

    @property
    def age_s(self) -> float:
        """Seconds since it was said."""


def judge_health(load: AgentLoad | None, beat_age_s: float | None, alive: bool, offline_s: float) -> Health:
    """O1's four words. Pure."""
    if not alive or beat_age_s is None or beat_age_s > offline_s:
        return Health.OFFLINE
    if load is None or load.done_last_hour + load.failed_last_hour == 0:
        return Health.HEALTHY
    errors = load.failed_last_hour / (load.done_last_hour + load.failed_last_hour)
    if errors > UNHEALTHY_ERRORS:
        return Health.UNHEALTHY
    if errors > DEGRADED_ERRORS or load.wait_s > DEGRADED_WAIT_S:
        return Health.DEGRADED
    return Health.HEALTHY


def take_snapshot(
    settings: Settings,
    spec: SessionSpec,
    sight: Sight,
    beats: Mapping[str, BeatLike],
    loads: Mapping[str, AgentLoad],
    *,
    redis: str,
    redis_ok: bool,
    durable: bool,
    problems: tuple[str, ...] = (),
    paused_workflows: tuple[PausedWorkflow, ...] = (),
) -> Snapshot:
    """Put the three sources together; reads the ledger and locks, asks nobody else."""
    ledger = read_ledger(settings.home)
    now = time.time()
    panes = sight.panes if isinstance(sight, Present) and sight.home == str(settings.home.root) else {}
    windows = []
    for window in spec.windows:
        beat = beats.get(window.name)
        load = loads.get(window.name, AgentLoad()) if window.name in settings.agents else None
        windows.append(
            _window(
                settings, window.name, window.index, panes.get(window.name), ledger, beat, load, now, sight
            )
        )
    return Snapshot(
        at=now,
        session=spec.name,
        home=str(settings.home.root),
        up=bool(panes),
        wanted=ledger.wanted,
        windows=tuple(windows),
        redis=redis,
        redis_ok=redis_ok,
        durable=durable,
        problems=problems + _tmux_problems(sight, ledger, str(settings.home.root)),
        paused_workflows=paused_workflows,
    )


def _window(
    settings: Settings,
    name: str,
    index: int,
    pane: Pane | None,
    ledger: Ledger,
    beat: BeatLike | None,
    load: AgentLoad | None,
    now: float,
    sight: Sight,
) -> WindowStatus:
    record = ledger.record(name)
    pid = living_pid(settings.home, name)
    fresh = beat if beat is not None and beat.payload.get("pid") == pid else None
    said: Mapping[str, Any] = fresh.payload if fresh is not None else {}
    started_at = said.get("started_at")
    known = ("pid", "worker", "state", "started_at", "rss_bytes", "cpu_percent")
    return WindowStatus(
        name=name,
        index=index,
        is_agent=name in settings.agents,
        state=_state(record, pane, pid, said, sight),
        health=judge_health(
            load, fresh.age_s if fresh else None, pid is not None, settings.supervisor.offline_s
        ),
        pid=pid,
        uptime_s=max(0.0, now - started_at) if started_at else None,
        rss_bytes=said.get("rss_bytes"),
        cpu_percent=said.get("cpu_percent"),
        beat_age_s=fresh.age_s if fresh else None,
        restarts=record.restarts_total,
        restart_in_s=max(0.0, record.restart_at - now) if record.restart_at else None,
        last_exit=record.last_exit,
        activity={key: value for key, value in said.items() if key not in known},
        load=load,
    )


def _state(
    record: WindowRecord, pane: Pane | None, pid: int | None, said: Mapping[str, Any], sight: Sight
) -> ProcessState:
    """The ledger's word where it waits; else the process's own; else what tmux sees."""
    if record.state is not ProcessState.RUNNING:
        return record.state
    if pid is not None:
        return ProcessState(said["state"]) if said.get("state") else ProcessState.STARTING
    if pane is not None and not pane.dead:
        return ProcessState.STARTING
    return ProcessState.STOPPED if isinstance(sight, Absent) else ProcessState.EXITED


def _tmux_problems(sight: Sight, ledger: Ledger, home: str) -> tuple[str, ...]:
    if isinstance(sight, Present):
        foreign = sight.home not in ("", home)
        return (f"the session of this name belongs to AI_INFRA_HOME={sight.home}",) if foreign else ()
    if isinstance(sight, Absent):
        return ("the session should be up and is not; `ai-infra up` brings it back",) if ledger.wanted else ()
    return (f"tmux is unclear: {getattr(sight, 'reason', 'a session of that name is not ours')}",)
