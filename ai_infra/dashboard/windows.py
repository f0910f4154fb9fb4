"""The windows of a session, one a line: what each process is, does, and takes. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ai_infra.core.process import ProcessState
from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.ink import Line, Style, ink, join
from ai_infra.dashboard.words import duration, size
from ai_infra.supervisor.snapshot import AgentLoad, Health, Snapshot, WindowStatus
from ai_infra.tasks.task import ACTIVE, TaskView

STATE_STYLES: Mapping[ProcessState, Style] = {
    ProcessState.RUNNING: Style.GOOD,
    ProcessState.STARTING: Style.WARN,
    ProcessState.STOPPING: Style.WARN,
    ProcessState.BACKOFF: Style.WARN,
    ProcessState.STOPPED: Style.DIM,
    ProcessState.EXITED: Style.BAD,
    ProcessState.FATAL: Style.BAD,
}
HEALTH_STYLES: Mapping[Health, Style] = {
    Health.HEALTHY: Style.GOOD,
    Health.DEGRADED: Style.WARN,
    Health.UNHEALTHY: Style.BAD,
    Health.OFFLINE: Style.BAD,
}

_UNWELL = (ProcessState.BACKOFF, ProcessState.EXITED, ProcessState.FATAL)

Cell = Callable[[WindowStatus], Line]


def windows(snapshot: Snapshot, width: int, tasks: Sequence[TaskView] = ()) -> list[Line]:
    """A title and a line per window; `tasks` tells of those that run."""
    running = {str(task.worker).partition(".")[0]: task for task in tasks if task.state in ACTIVE}
    rows = snapshot.windows

    def column(
        title: str, cell: Cell, *, goes: int = 0, right: bool = False, shrink_to: int | None = None
    ) -> Column:
        cells = [cell(row) for row in rows]
        return Column(title=title, cells=cells, priority=goes, right=right, shrink_to=shrink_to)

    columns = [
        column("#", lambda w: ink(w.index, Style.DIM), goes=9, right=True),
        column("window", lambda w: ink(w.name, Style.BOLD), shrink_to=10),
        column("state", _state),
        column("health", lambda w: ink(w.health.value, HEALTH_STYLES[w.health]), goes=2),
        column("doing", lambda w: doing(w, snapshot.at, running.get(w.name)), goes=1, shrink_to=24),
        column("ready", _load(lambda load: load.ready), goes=3, right=True),
        column("blocked", _load(lambda load: load.blocked + load.delayed), goes=6, right=True),
        column("done/h", _load(lambda load: load.done_last_hour), goes=5, right=True),
        column("failed/h", _load(lambda load: load.failed_last_hour, Style.BAD), goes=4, right=True),
        column("cpu", _cpu, goes=7, right=True),
        column("memory", lambda w: ink(size(w.rss_bytes)), goes=8, right=True),
        column("restarts", lambda w: ink(w.restarts or "", Style.WARN), goes=10, right=True),
        column("uptime", lambda w: ink(duration(w.uptime_s)), goes=11, right=True),
        column("last end", _last_end, goes=12, shrink_to=20),
    ]
    return grid(columns, width)


def _state(window: WindowStatus) -> Line:
    state = ink(window.state.value, STATE_STYLES[window.state])
    if window.restart_in_s is None:
        return state
    return join([state, ink(f"{window.restart_in_s:.0f}s", Style.WARN)], " ")


def doing(window: WindowStatus, at: float, task: TaskView | None) -> Line:
    """Why it does not run; else its task by its own word, by the engine's, or what it says of itself."""
    if window.state in _UNWELL:
        return ink(window.last_exit, Style.BAD)
    said = window.activity
    if said.get("task"):
        attempt, began_at = said.get("attempt"), said.get("task_started_at")
        took_s = at - began_at if isinstance(began_at, int | float) else None
        work = _work(said.get("task_name", said["task"]), attempt if isinstance(attempt, int) else 1, took_s)
        return join([work, _then(window)], " ")
    if task is not None:
        took_s = at - task.started_at.timestamp() if task.started_at else None
        return join([_work(task.name, task.attempt, took_s), _then(window)], " ")
    if window.is_agent and window.state is ProcessState.RUNNING:
        paused = window.load.paused if window.load is not None else ""
        return ink(f"paused: {paused}", Style.WARN) if paused else ink("idle", Style.DIM)
    return ink(said.get("doing", ""))


def _then(window: WindowStatus) -> Line:
    return ink("then paused" if window.load is not None and window.load.paused else "", Style.WARN)


def _work(name: object, attempt: int, took_s: float | None) -> Line:
    again = ink(f"attempt {attempt}" if attempt > 1 else "", Style.WARN)
    return join([ink(name, Style.ACCENT), again, ink(duration(took_s), Style.DIM)], " ")


def _load(of: Callable[[AgentLoad], int], style: Style = Style.PLAIN) -> Cell:
    """A number of an agent's tasks; zero is pale."""

    def cell(window: WindowStatus) -> Line:
        count = of(window.load) if window.load is not None else None
        return Line() if count is None else ink(count, style if count else Style.DIM)

    return cell


def _cpu(window: WindowStatus) -> Line:
    return ink("" if window.cpu_percent is None else f"{window.cpu_percent:.1f}%")


def _last_end(window: WindowStatus) -> Line:
    """How the last life ended, where this one came by itself."""
    return ink(window.last_exit if window.restarts and window.state not in _UNWELL else "", Style.DIM)
