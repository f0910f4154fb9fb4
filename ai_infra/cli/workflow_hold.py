"""`ai-infra workflow cancel|pause|resume`: a workflow that was submitted is ended, held, or let go on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from ai_infra.app.command import engine_now, settings_from_env, who
from ai_infra.app.lookup import find_workflow_id
from ai_infra.cli.output import by_whom, examples, json_option, print_json, run_async
from ai_infra.core import ids
from ai_infra.core.errors import Conflict

if TYPE_CHECKING:
    from ai_infra.tasks.views import CancelVerdict


@examples(
    "ai-infra workflow cancel w-1kxs2fhj8abcde", "ai-infra workflow cancel w-1kxs --reason 'wrong branch'"
)
@click.command()
@click.argument("id")
@click.option("--reason", default="", help="Why; its tasks show it.")
@json_option
def cancel(id: str, reason: str, as_json: bool) -> None:
    """End every open task of a workflow; running commands are asked to stop, then killed.

    ID may be cut short.
    """
    settings = settings_from_env()

    async def act() -> tuple[ids.WorkflowId, CancelVerdict]:
        async with engine_now(settings) as engine:
            found = await find_workflow_id(settings, engine, id)
            return found, await engine.cancel_workflow(found, reason=reason or f"by {who()}")

    found, verdict = run_async(act())
    if not verdict.cancelled and not verdict.requested:
        raise Conflict(f"workflow {found} has ended already")
    if as_json:
        print_json({"id": found, "cancelled": verdict.cancelled, "requested": verdict.requested})
        return
    told = f"{len(verdict.requested)} running and told to stop"
    click.echo(f"{found}: {len(verdict.cancelled)} tasks cancelled, {told}")


@examples("ai-infra workflow pause w-1kxs2fhj8abcde --reason 'the database is down'")
@click.command()
@click.argument("id")
@click.option("--reason", default="", help="Why; shown wherever somebody may wonder.")
@json_option
def pause(id: str, reason: str, as_json: bool) -> None:
    """Begin no more tasks of a workflow; what runs goes on. ID may be cut short.

    Remembered until `ai-infra workflow resume`, whatever restarts.
    """
    settings = settings_from_env()
    why = by_whom(reason)

    async def act() -> ids.WorkflowId:
        from ai_infra.tasks.task import TERMINAL

        async with engine_now(settings) as engine:
            found = await find_workflow_id(settings, engine, id)
            state = (await engine.workflow(found)).state
            if state in TERMINAL:
                raise Conflict(f"workflow {found} is {state}; there is nothing to pause")
            await engine.pause_workflow(found, why)
            return found

    found = run_async(act())
    if as_json:
        print_json({"paused": found, "reason": why})
        return
    click.echo(f"{found} is paused; what runs goes on; `ai-infra workflow resume {found}` lets it go on")


@examples("ai-infra workflow resume w-1kxs2fhj8abcde")
@click.command()
@click.argument("id")
@json_option
def resume(id: str, as_json: bool) -> None:
    """Let a paused workflow go on. ID may be cut short."""
    settings = settings_from_env()

    async def act() -> tuple[ids.WorkflowId, bool]:
        async with engine_now(settings) as engine:
            found = await find_workflow_id(settings, engine, id)
            paused = {flow.header.id for flow in await engine.paused_workflows()}
            await engine.resume_workflow(found)
            return found, found in paused

    found, was_paused = run_async(act())
    if as_json:
        print_json({"resumed": found, "was_paused": was_paused})
        return
    click.echo(f"{found} goes on" if was_paused else f"{found} was not paused")
