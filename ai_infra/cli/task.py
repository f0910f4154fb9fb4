"""`ai-infra task …`: single tasks. The commands with files of their own are task_*.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ai_infra.app.command import engine_now, settings_from_env, who
from ai_infra.app.lookup import find_id, find_task
from ai_infra.cli.dead_letters import dead_letters
from ai_infra.cli.finding import agent_of_tasks
from ai_infra.cli.options import STATES, Duration
from ai_infra.cli.output import (
    examples,
    exit_of,
    json_option,
    print_json,
    run_async,
    show,
    show_task,
    width,
)
from ai_infra.cli.stats import stats
from ai_infra.cli.task_submit import submit
from ai_infra.cli.task_watch import watch
from ai_infra.cli.transfer import export, import_
from ai_infra.core import ids

if TYPE_CHECKING:
    from ai_infra.tasks.task import TaskView


@examples("ai-infra task list", "ai-infra task submit code -- git --version")
@click.group()
def task() -> None:
    """Submit, list, show, watch, wait for, cancel, retry tasks; dead letters, stats, export and import."""


for command in (submit, watch, dead_letters, stats, export, import_):
    task.add_command(command)


@examples(
    "ai-infra task list", "ai-infra task list --state FAILED", "ai-infra task list --agent code -n 5 --json"
)
@task.command("list")
@click.option("--state", type=click.Choice(STATES, case_sensitive=False), help="Only tasks in this state.")
@click.option("--agent", help="Only tasks of this agent.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 10_000), default=30, show_default=True, help="At most so many."
)
@json_option
def list_(state: str | None, agent: str | None, limit: int, as_json: bool) -> None:
    """List tasks, newest first."""
    from ai_infra.tasks.task import State

    settings = settings_from_env()
    of = agent_of_tasks(settings, agent)

    async def act() -> list[TaskView]:
        async with engine_now(settings) as engine:
            wanted = State(state.upper()) if state else None
            return await engine.list_tasks(state=wanted, agent=of, limit=limit)

    tasks = run_async(act())
    if as_json:
        print_json(tasks)
        return
    from ai_infra.dashboard.tables import task_table

    show(task_table(tasks, width()))


@examples("ai-infra task show t-1kxs2fhj8abcde", "ai-infra task show t-1kxs --json")
@task.command("show")
@click.argument("id")
@json_option
def show_(id: str, as_json: bool) -> None:
    """Show one task: its state and why, attempts, checks, output. ID may be cut short, and archived."""
    settings = settings_from_env()

    async def act() -> TaskView:
        async with engine_now(settings) as engine:
            return await find_task(settings, engine, id)

    show_task(run_async(act()), as_json)


@examples(
    "ai-infra task wait t-1kxs2fhj8abcde", "ai-infra task wait --timeout 60 t-1kxs2fhj8abcde t-1kxs2fhj9fghjk"
)
@task.command()
@click.argument("ids_", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=Duration(), help="How long to wait at most.")
@json_option
def wait(ids_: tuple[str, ...], timeout_s: float | None, as_json: bool) -> int:
    """Wait until tasks have ended; exits with 0 if all are COMPLETED, 1 if not, 8 when the time is over."""
    settings = settings_from_env()

    async def act() -> list[TaskView]:
        async with engine_now(settings) as engine:
            found = [await find_task(settings, engine, text) for text in ids_]
            ended = await engine.wait([view.id for view in found if not view.archive], timeout_s)
            fresh = {view.id: view for view in ended}
            return [fresh.get(view.id, view) for view in found]

    views = run_async(act())
    if as_json:
        print_json(views)
    else:
        from ai_infra.dashboard.tables import task_table

        show(task_table(views, width()))
    return exit_of(views)


@examples("ai-infra task cancel t-1kxs2fhj8abcde")
@task.command()
@click.argument("id")
@json_option
def cancel(id: str, as_json: bool) -> None:
    """End a task and what needs it; a running command is asked to stop, then killed."""
    settings = settings_from_env()

    async def act() -> Any:
        async with engine_now(settings) as engine:
            task = await find_id(settings, engine, id)
            return await engine.cancel(task, reason=f"by {who()}")

    verdict = run_async(act())
    if as_json:
        print_json(verdict)
        return
    for name in verdict.cancelled:
        click.echo(f"{name} is cancelled")
    for name in verdict.requested:
        click.echo(f"{name} is running and was told to stop")


@examples("ai-infra task retry t-1kxs2fhj8abcde")
@task.command()
@click.argument("id")
@json_option
def retry(id: str, as_json: bool) -> None:
    """Run a FAILED or CANCELLED task again, and what was cancelled because of it."""
    settings = settings_from_env()

    async def act() -> list[ids.TaskId]:
        async with engine_now(settings) as engine:
            return await engine.retry(await find_id(settings, engine, id))

    again = run_async(act())
    if as_json:
        print_json(again)
        return
    for name in again:
        click.echo(f"{name} will run again")
