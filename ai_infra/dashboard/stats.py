"""Statistics of tasks: a line per agent, and why some failed. Pure."""

from __future__ import annotations

from collections.abc import Callable

from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.ink import Line, Page, Style, ink
from ai_infra.dashboard.words import duration
from ai_infra.tasks.statistics import AgentStatistics, Spread, Statistics

ALL = "all"


def stats_page(stats: Statistics, width: int = 80) -> Page:
    """What `ai-infra task stats` prints."""
    if not stats.agents:
        return Page((ink(f"no task has ended in the last {duration(stats.since_s)}", Style.DIM).cut(width),))
    rows: list[tuple[str, AgentStatistics]] = [*stats.agents.items()]
    if len(rows) > 1:
        rows.append((ALL, stats.all))

    def column(title: str, cell: Callable[[AgentStatistics], Line], goes: int = 0) -> Column:
        return Column(title=title, cells=[cell(row) for _, row in rows], priority=goes, right=True)

    columns = [
        Column(title="agent", cells=[ink(name, Style.BOLD) for name, _ in rows]),
        column("done", lambda s: _number(s.completed, Style.GOOD)),
        column("failed", lambda s: _number(s.failed, Style.BAD)),
        column("cancelled", lambda s: _number(s.cancelled, Style.WARN), 4),
        column("retries", lambda s: _number(s.retries, Style.WARN), 3),
        column("deaths", lambda s: _number(s.deaths, Style.BAD), 6),
        column("per hour", lambda s: ink(f"{s.per_hour:g}"), 2),
        column("waited p50/p95/max", lambda s: _spread(s.wait), 5),
        column("ran p50/p95/max", lambda s: _spread(s.duration), 1),
    ]
    head = ink(f"ended in the last {duration(stats.since_s)}", Style.DIM).cut(width)
    return Page((head, *grid(columns, width), *_causes(stats, width)))


def _number(count: int, style: Style) -> Line:
    return ink(count, style if count else Style.DIM)


def _spread(spread: Spread) -> Line:
    if spread.p50_s is None:
        return Line()
    return ink(" / ".join(_short(seconds) for seconds in (spread.p50_s, spread.p95_s, spread.max_s)))


def _short(seconds: float | None) -> str:
    """Most waits are milliseconds."""
    return f"{seconds * 1000:.0f}ms" if seconds is not None and seconds < 1 else duration(seconds)


def _causes(stats: Statistics, width: int) -> list[Line]:
    causes = [(name, cause) for name, row in stats.agents.items() for cause in row.causes]
    if not causes:
        return []
    columns = [
        Column(title="agent", cells=[ink(name, Style.BOLD) for name, _ in causes]),
        Column(title="failed", cells=[ink(cause.tasks, Style.BAD) for _, cause in causes], right=True),
        Column(title="because", cells=[ink(cause.reason) for _, cause in causes], shrink_to=20),
        Column(title="for example", cells=[ink(cause.example, Style.DIM) for _, cause in causes], priority=1),
    ]
    return [Line(), ink("causes", Style.DIM), *grid(columns, width)]
