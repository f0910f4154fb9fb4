"""The agents, one a line: process, queue, what each does, pause and rate. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.ink import Line, Page, Style, ink
from ai_infra.dashboard.windows import HEALTH_STYLES, STATE_STYLES, doing
from ai_infra.supervisor.snapshot import AgentLoad, Snapshot, WindowStatus

_NONE = AgentLoad()


def agent_table(snapshot: Snapshot, descriptions: Mapping[str, str], width: int = 80) -> Page:
    """What `ai-infra agent list` prints."""
    rows = [window for window in snapshot.windows if window.is_agent]

    def column(
        title: str,
        cell: Callable[[WindowStatus, AgentLoad], Line],
        *,
        goes: int = 0,
        right: bool = False,
        shrink_to: int | None = None,
    ) -> Column:
        cells = [cell(row, row.load or _NONE) for row in rows]
        return Column(title=title, cells=cells, priority=goes, right=right, shrink_to=shrink_to)

    columns = [
        column("agent", lambda w, _: ink(w.name, Style.BOLD), shrink_to=10),
        column("state", lambda w, _: ink(w.state.value, STATE_STYLES[w.state])),
        column("health", lambda w, _: ink(w.health.value, HEALTH_STYLES[w.health]), goes=4),
        column("doing", lambda w, _: doing(w, snapshot.at, None), goes=2, shrink_to=24),
        column("ready", lambda _, load: _count(load.ready), goes=1, right=True),
        column("blocked", lambda _, load: _count(load.blocked + load.delayed), goes=3, right=True),
        column("paused", lambda _, load: ink(load.paused, Style.WARN), shrink_to=20),
        column("rate", lambda _, load: ink(_rate(load.rate_per_minute)), goes=5),
        column(
            "description", lambda w, _: ink(descriptions.get(w.name, ""), Style.DIM), goes=6, shrink_to=16
        ),
    ]
    return Page(tuple(grid(columns, width) if rows else [ink("no agents", Style.DIM)]))


def _count(number: int) -> Line:
    return ink(number, Style.PLAIN if number else Style.DIM)


def _rate(per_minute: float) -> str:
    return f"{per_minute:g}/min" if per_minute else ""
