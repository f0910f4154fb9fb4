"""`ai-infra task dead-letters …`: tasks that failed for good, and what can be done with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.app.lookup import find_id, find_task
from ai_infra.cli.finding import agent_of_tasks
from ai_infra.cli.output import (
    examples,
    json_option,
    plain,
    print_json,
    run_async,
    say,
    show,
    show_task,
    width,
)
from ai_infra.core import ids
from ai_infra.core.errors import Conflict, Exit, NotFound, UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.tasks.engine import Engine
    from ai_infra.tasks.task import TaskView

MOST = 10_000

agent_option = click.option("--agent", help="Only tasks of this agent.")
reason_option = click.option("--reason", metavar="TEXT", help="Only those whose reason holds this text.")
all_option = click.option(
    "--all", "every", is_flag=True, help="Every dead letter that --agent and --reason leave."
)


@examples("ai-infra task dead-letters list", "ai-infra task dead-letters retry --all --agent code")
@click.group("dead-letters")
def dead_letters() -> None:
    """FAILED tasks: why, the end of what they wrote, how to run them again."""


@examples(
    "ai-infra task dead-letters list",
    "ai-infra task dead-letters list --agent qa --reason 'exit code 2' --json",
)
@dead_letters.command("list")
@agent_option
@reason_option
@click.option(
    "-n", "--limit", type=click.IntRange(1, MOST), default=30, show_default=True, help="At most so many."
)
@json_option
def list_(agent: str | None, reason: str | None, limit: int, as_json: bool) -> None:
    """List dead letters, the latest first, each with the command that runs it again."""
    settings = settings_from_env()

    async def act() -> list[TaskView]:
        from ai_infra.dashboard.tasklog import with_output

        async with engine_now(settings) as engine:
            latest = (await _chosen(settings, engine, agent, reason))[:limit]
            return [with_output(settings.home, view) for view in latest]

    found = run_async(act())
    if as_json:
        print_json([_letter(view) for view in found])
        return
    from ai_infra.dashboard.dead import dead_table

    show(dead_table(found, width()))


@examples("ai-infra task dead-letters show t-1kxs2fhj8abcde")
@dead_letters.command("show")
@click.argument("id")
@json_option
def show_(id: str, as_json: bool) -> None:
    """Show one dead letter: its reason and the end of its log. ID may be cut short."""
    settings = settings_from_env()

    async def act() -> TaskView:
        async with engine_now(settings) as engine:
            return await find_task(settings, engine, id)

    view = run_async(act())
    if view.state != "FAILED":
        raise Conflict(
            f"task {view.id} is {view.state}, no dead letter; `ai-infra task show {view.id}` shows it"
        )
    if as_json:
        print_json(_letter(view))
        return
    show_task(view, as_json=False)


@examples(
    "ai-infra task dead-letters retry t-1kxs2fhj8abcde",
    "ai-infra task dead-letters retry --all --agent code --reason 'killed by signal 9'",
)
@dead_letters.command()
@click.argument("names", metavar="[ID]...", nargs=-1)
@all_option
@agent_option
@reason_option
@json_option
def retry(names: tuple[str, ...], every: bool, agent: str | None, reason: str | None, as_json: bool) -> int:
    """Run dead letters again, oldest first, each with what was cancelled because of it.

    One that cannot be (an upstream of it failed as well) is named; the others run all the same, and the
    exit code is 1.
    """
    settings = settings_from_env()
    _check_choice(names, every, agent, reason)

    async def act() -> tuple[list[ids.TaskId], list[str]]:
        again: list[ids.TaskId] = []
        refused: list[str] = []
        async with engine_now(settings) as engine:
            for name in await _named(settings, engine, names, agent, reason):
                try:
                    again += await engine.retry(name) if name not in again else []
                except (Conflict, NotFound) as exc:
                    refused.append(str(exc))
        return again, refused

    again, refused = run_async(act())
    if as_json:
        print_json({"again": again, "refused": refused})
    else:
        for task in again:
            click.echo(f"{task} will run again")
        if not again and not refused:
            click.echo("no such dead letters")
        for words in refused:
            click.echo(f"ai-infra: {words}", err=True)
    return Exit.FAILED if refused else Exit.OK


@examples(
    "ai-infra task dead-letters drop t-1kxs2fhj8abcde",
    "ai-infra task dead-letters drop --all --reason 'exit code 2'",
)
@dead_letters.command()
@click.argument("names", metavar="[ID]...", nargs=-1)
@all_option
@agent_option
@reason_option
@json_option
def drop(names: tuple[str, ...], every: bool, agent: str | None, reason: str | None, as_json: bool) -> int:
    """Give dead letters up: they leave the list for the archive, with what was cancelled because of them.

    They cannot be retried any more; `task show` and `task stats` know them still. All are dropped, or none.
    """
    settings = settings_from_env()
    _check_choice(names, every, agent, reason)

    async def act() -> list[ids.TaskId]:
        from ai_infra.tasks.archive import Archive
        from ai_infra.tasks.retention import drop

        async with engine_now(settings) as engine:
            letters = await _named(settings, engine, names, agent, reason)
            return await drop(engine, Archive(settings.home.archive), letters)

    gone = run_async(act())
    if as_json:
        print_json(gone)
        return Exit.OK
    for task in gone:
        click.echo(f"{task} is dropped")
    if not gone:
        click.echo("no such dead letters")
    return Exit.OK


def _check_choice(names: tuple[str, ...], every: bool, agent: str | None, reason: str | None) -> None:
    if bool(names) == every:
        raise UsageError("say which: ids, or --all (with --agent and --reason, if you like)")
    if names and (agent or reason):
        raise UsageError("--agent and --reason choose among --all; leave them out beside an id")


async def _named(
    settings: Settings, engine: Engine, names: tuple[str, ...], agent: str | None, reason: str | None
) -> list[ids.TaskId]:
    """The ids that were given, or those of all that were chosen, oldest first."""
    if names:
        return list(dict.fromkeys([await find_id(settings, engine, name) for name in names]))
    return [view.id for view in reversed(await _chosen(settings, engine, agent, reason))]


async def _chosen(
    settings: Settings, engine: Engine, agent: str | None, reason: str | None
) -> list[TaskView]:
    """The latest dead letters that fit."""
    from ai_infra.tasks.task import State

    wanted = agent_of_tasks(settings, agent)
    found = await engine.list_tasks(state=State.FAILED, agent=wanted, limit=MOST)
    if len(found) == MOST:
        say(f"only the latest {MOST} dead letters were looked at; there may be more")
    return [view for view in found if (reason or "") in (view.error or "")]


def _letter(view: TaskView) -> dict[str, Any]:
    """A dead letter as JSON: the task, the end of its log, and what runs it again."""
    again = None if view.archive else f"ai-infra task retry {view.id}"
    return {**plain(view), "log_tail": str((view.result or {}).get("output_tail") or ""), "retry": again}
