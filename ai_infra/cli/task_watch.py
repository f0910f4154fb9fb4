"""`ai-infra task watch`: moves of tasks as they happen, a line each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.app.lookup import find_id, find_workflow_id
from ai_infra.cli.finding import known_agent
from ai_infra.cli.output import (
    examples,
    exit_of,
    in_colour,
    json_option,
    json_text,
    run_async,
    say,
    while_somebody_reads,
)
from ai_infra.core.errors import Exit, UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.tasks.views import Event


@examples(
    "ai-infra task watch",
    "ai-infra task watch t-1kxs2fhj8abcde",
    "ai-infra task watch --workflow w-1kxs --json",
    "ai-infra task watch --agent code",
)
@click.command()
@click.argument("id", required=False)
@click.option("--workflow", help="Only tasks of this workflow; its id may be cut short.")
@click.option("--agent", help="Only tasks of this agent.")
@json_option
def watch(id: str | None, workflow: str | None, agent: str | None, as_json: bool) -> int:
    """Print every move of a task as it happens: when, which, from what to what, and why.

    Until Ctrl-C; with the ID of a task (it may be cut short) until that has ended: exits with 0 if it is
    COMPLETED, else 1. The first line of a single task is its state now. --json prints an object a line.
    """
    if id is not None and (workflow is not None or agent is not None):
        raise UsageError("a task's ID goes without --workflow and --agent")
    settings = settings_from_env()
    return run_async(while_somebody_reads(_watch(settings, id, workflow, agent, as_json)))


async def _watch(
    settings: Settings, id: str | None, workflow: str | None, agent: str | None, as_json: bool
) -> int:
    from ai_infra.dashboard.moves import Wanted, follow_moves

    async with engine_now(settings) as engine:
        wanted = Wanted(
            task=await find_id(settings, engine, id) if id is not None else None,
            workflow=await find_workflow_id(settings, engine, workflow) if workflow is not None else None,
            agent=known_agent(settings, agent) if agent is not None else None,
        )
        view = await follow_moves(engine, wanted, _show_json if as_json else _show_line, say)
    return exit_of([view]) if view is not None else Exit.OK


def _show_line(event: Event) -> None:
    from ai_infra.dashboard.logs import print_out
    from ai_infra.dashboard.moves import move_line
    from ai_infra.dashboard.screen import terminal_width

    line, columns = move_line(event), terminal_width()
    print_out((line if columns is None else line.cut(columns)).text(colour=in_colour()))


def _show_json(event: Event) -> None:
    from ai_infra.dashboard.logs import print_out

    told = {"at": event.at, "task": event.task, "name": event.name, "agent": event.agent,
            "workflow": event.workflow, "from": event.from_state, "to": event.to_state,
            "attempt": event.attempt, "worker": event.worker, "reason": event.reason}  # fmt: skip
    print_out(json_text(told))
