"""`ai-infra task stats`: what became of the tasks that ended lately."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.cli.output import examples, json_option, print_json, run_async, show, width
from ai_infra.core.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ai_infra.tasks.statistics import Statistics

_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 604800}
_LONGEST_S = 3660 * 86400


@examples(
    "ai-infra task stats",
    "ai-infra task stats --since 7d --agent code",
    "ai-infra task stats --since 1h --json",
)
@click.command()
@click.option(
    "--since", default="24h", show_default=True, metavar="TIME", help="How far back: 30m, 24h, 7d, 2w."
)
@click.option("--agent", help="Only tasks of this agent.")
@json_option
def stats(since: str, agent: str | None, as_json: bool) -> None:
    """Count ends, waits, durations, retries and causes of failure; archived tasks are counted, too."""
    settings = settings_from_env()
    since_s = _seconds(since)
    if agent is not None and agent not in settings.agents:
        raise NotFound(f"no agent {agent!r}; there are {', '.join(settings.agents)}")

    async def act() -> Statistics:
        from ai_infra.tasks.archive import Archive
        from ai_infra.tasks.history import past_tasks
        from ai_infra.tasks.statistics import summarise

        since_ms = max(0, round((time.time() - since_s) * 1000))
        async with engine_now(settings) as engine:
            found = await past_tasks(engine, Archive(settings.home.archive), since_ms)
        return summarise((past for past in found if agent in (None, past.agent)), since_s)

    told = run_async(act())
    if as_json:
        print_json(told)
        return
    from ai_infra.dashboard.stats import stats_page

    show(stats_page(told, width()))


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d{1,6})([mhdw])", text)
    seconds = int(found[1]) * _UNITS[found[2]] if found else 0
    if not 0 < seconds <= _LONGEST_S:
        raise UsageError(f"--since {text!r}: say a number and m, h, d or w, as in 24h; at most ten years")
    return seconds
