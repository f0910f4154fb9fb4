"""`ai-infra agent …`: the agents, and their pauses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ai_infra.app.command import agents_with_window, engine_now, read_snapshot, settings_from_env
from ai_infra.cli.finding import known_agent
from ai_infra.cli.output import by_whom, examples, json_option, print_json, run_async, show, width
from ai_infra.core import ids
from ai_infra.core.errors import UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.supervisor.snapshot import Snapshot


@examples("ai-infra agent list", "ai-infra agent pause code --reason 'the disk is full'")
@click.group()
def agent() -> None:
    """List, pause and resume agents."""


@examples("ai-infra agent list", "ai-infra agent list --json")
@agent.command("list")
@json_option
def list_(as_json: bool) -> None:
    """List the agents: process, queue, what each does, whether it is paused and why, its rate."""
    settings = settings_from_env()
    found = run_async(read_snapshot(settings))
    if as_json:
        print_json(_rows(settings, found))
        return
    from ai_infra.dashboard.agents import agent_table

    descriptions = {name: one.description for name, one in settings.agents.items()}
    show(agent_table(found, descriptions, width()))


def _rows(settings: Settings, found: Snapshot) -> list[dict[str, object]]:
    rows = []
    for window in found.windows:
        if window.is_agent and window.load is not None:
            about = settings.agents[window.name]
            load = dict(vars(window.load))
            rows.append(
                {
                    "name": window.name,
                    "description": about.description,
                    "state": window.state,
                    "health": window.health,
                    "activity": window.activity,
                    "paused": load.pop("paused"),
                    "rate_per_minute": load.pop("rate_per_minute"),
                    "load": load,
                }
            )
    return rows


@examples("ai-infra agent pause code", "ai-infra agent pause --all --reason 'backup of the disk'")
@agent.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All agents.")
@click.option("--reason", default="", help="Why; shown wherever somebody may wonder.")
@json_option
def pause(names: tuple[str, ...], every: bool, reason: str, as_json: bool) -> None:
    """Let agents begin no more tasks; what they do they finish.

    Their queues go on taking tasks. Remembered until `ai-infra agent resume`, whatever restarts.
    """
    settings = settings_from_env()
    agents = _named(settings, names, every)
    why = by_whom(reason)

    async def act() -> None:
        async with engine_now(settings) as engine:
            for name in agents:
                await engine.pause_agent(name, why)

    run_async(act())
    if as_json:
        print_json({"paused": agents, "reason": why})
        return
    for name in agents:
        click.echo(
            f"{name} is paused; what it does it finishes; `ai-infra agent resume {name}` lets it go on"
        )


@examples("ai-infra agent resume code", "ai-infra agent resume --all")
@agent.command()
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option("--all", "every", is_flag=True, help="All agents.")
@json_option
def resume(names: tuple[str, ...], every: bool, as_json: bool) -> None:
    """Let paused agents go on."""
    settings = settings_from_env()
    agents = _named(settings, names, every)

    async def act() -> dict[ids.AgentName, str]:
        async with engine_now(settings) as engine:
            before = await engine.counts()
            for name in agents:
                await engine.resume_agent(name)
            return {name: before[name].paused if name in before else "" for name in agents}

    before = run_async(act())
    if as_json:
        print_json(
            {"resumed": agents, "paused_before": {n: reason for n, reason in before.items() if reason}}
        )
        return
    for name, was_paused in before.items():
        click.echo(f"{name} goes on" if was_paused else f"{name} was not paused")


def _named(settings: Settings, names: tuple[str, ...], every: bool) -> list[ids.AgentName]:
    if every == bool(names):
        raise UsageError("name one agent or more, or say --all")
    if every:
        return [ids.AgentName(name) for name in agents_with_window(settings)]
    return [known_agent(settings, name) for name in names]
