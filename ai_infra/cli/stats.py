"""`ai-infra task stats`: what became of the tasks that ended lately."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.cli.finding import agent_of_tasks
from ai_infra.cli.options import Duration
from ai_infra.cli.output import examples, json_option, print_json, run_async, show, width

if TYPE_CHECKING:
    from ai_infra.tasks.statistics import Statistics


@examples(
    "ai-infra task stats",
    "ai-infra task stats --since 7d --agent code",
    "ai-infra task stats --since 1h --json",
)
@click.command()
@click.option(
    "--since",
    "since_s",
    type=Duration(1),
    default="24h",
    show_default=True,
    help="How far back: 30m, 24h, 7d.",
)
@click.option("--agent", help="Only tasks of this agent.")
@json_option
def stats(since_s: float, agent: str | None, as_json: bool) -> None:
    """Count ends, waits, durations, retries and causes of failure; archived tasks are counted, too."""
    settings = settings_from_env()
    wanted = agent_of_tasks(settings, agent)

    async def act() -> Statistics:
        from ai_infra.tasks.archive import Archive
        from ai_infra.tasks.history import past_tasks
        from ai_infra.tasks.statistics import summarise

        since_ms = max(0, round((time.time() - since_s) * 1000))
        async with engine_now(settings) as engine:
            found = await past_tasks(engine, Archive(settings.home.archive), since_ms)
        return summarise((past for past in found if wanted in (None, past.agent)), since_s)

    told = run_async(act())
    if as_json:
        print_json(told)
        return
    from ai_infra.dashboard.stats import stats_page

    show(stats_page(told, width()))
