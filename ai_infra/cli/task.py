"""`ai-infra task …`: single tasks."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

import click

from ai_infra.app.command import agents_with_window, engine_now, settings_from_env
from ai_infra.cli.output import examples, json_option, print_json, run_async, show, width
from ai_infra.core import ids
from ai_infra.core.errors import Exit, NotFound, UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.tasks.engine import Engine
    from ai_infra.tasks.task import Command, TaskView

STATES = ["PENDING", "READY", "ASSIGNED", "IN_PROGRESS", "BLOCKED", "COMPLETED", "FAILED", "CANCELLED"]


@examples("ai-infra task list", "ai-infra task submit code -- git --version")
@click.group()
def task() -> None:
    """Submit, list, show, wait for, cancel, retry tasks."""


@examples(
    "ai-infra task submit code -- git --version",
    "ai-infra task submit qa --shell 'make test | tail -5' --wait",
    "ai-infra task submit data --priority 9 --timeout 60 --expect-file out.csv -- python3 export.py",
)
@task.command()
@click.argument("agent")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--shell", "texts", multiple=True, metavar="TEXT", help="A command for bash; may be given several times."
)
@click.option("--name", help="What to call it; default: its first command.")
@click.option("--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 goes first.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1),
    default=300.0,
    show_default=True,
    help="Seconds.",
)
@click.option(
    "--attempts", type=click.IntRange(1, 100), default=4, show_default=True, help="Tries before it is FAILED."
)
@click.option("--expect-file", multiple=True, metavar="PATH", help="Must exist afterwards.")
@click.option("--expect-output", multiple=True, metavar="REGEX", help="Must be found in the output.")
@click.option("--wait", "-w", is_flag=True, help="Wait for its end and show it; exit by it.")
@json_option
def submit(
    agent: str, command: tuple[str, ...], texts: tuple[str, ...], wait: bool, as_json: bool, **more: Any
) -> int:
    """Give AGENT a COMMAND to run, in its scratch workspace; prints the task's id.

    The id is printed when the task is on disk: from then on it is run, whatever dies.
    """
    settings = settings_from_env()
    spec = _spec(settings, agent, command, texts, **more)

    async def act() -> TaskView | None:
        async with engine_now(settings) as engine:
            await engine.submit([spec])
            if not as_json:
                click.echo(spec.id)
            return (await engine.wait([spec.id]))[0] if wait else None

    view = run_async(act())
    if view is None:
        if as_json:
            print_json({"id": spec.id})
        return Exit.OK
    _show(view, as_json)
    return exit_of([view])


def _spec(
    settings: Settings,
    agent: str,
    command: tuple[str, ...],
    texts: tuple[str, ...],
    *,
    name: str | None,
    priority: int,
    timeout_s: float,
    attempts: int,
    expect_file: tuple[str, ...],
    expect_output: tuple[str, ...],
) -> Any:
    from ai_infra.tasks.spec import check_spec
    from ai_infra.tasks.task import Expect, TaskSpec

    agents = agents_with_window(settings)
    if agent not in agents:
        raise NotFound(f"no agent {agent!r}; there are {', '.join(agents)}")
    run: tuple[Command, ...] = (*([command] if command else []), *texts)
    if not run:
        raise UsageError("no command; say it after `--`, or with --shell TEXT")
    first = run[0] if isinstance(run[0], str) else shlex.join(run[0])
    spec = TaskSpec(
        id=ids.TaskId(ids.new_id("t")),
        name=name or " ".join(first.split())[:60],
        agent=ids.AgentName(agent),
        run=run,
        priority=priority,
        timeout_s=timeout_s,
        max_attempts=attempts,
        expect=(
            *(Expect(file=path) for path in expect_file),
            *(Expect(output_matches=p) for p in expect_output),
        ),
    )
    check_spec(spec)
    return spec


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
    if agent is not None and agent not in settings.agents:
        raise NotFound(f"no agent {agent!r}; there are {', '.join(settings.agents)}")

    async def act() -> list[TaskView]:
        async with engine_now(settings) as engine:
            wanted = State(state.upper()) if state else None
            return await engine.list_tasks(
                state=wanted, agent=ids.AgentName(agent) if agent else None, limit=limit
            )

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
    """Show one task: its state and why, attempts, checks, output. ID may be cut short."""
    settings = settings_from_env()

    async def act() -> TaskView:
        async with engine_now(settings) as engine:
            return await engine.get(await find_task(engine, id))

    _show(run_async(act()), as_json)


@examples(
    "ai-infra task wait t-1kxs2fhj8abcde", "ai-infra task wait --timeout 60 t-1kxs2fhj8abcde t-1kxs2fhj9fghjk"
)
@task.command()
@click.argument("ids_", metavar="ID...", nargs=-1, required=True)
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds to wait at most.")
@json_option
def wait(ids_: tuple[str, ...], timeout_s: float | None, as_json: bool) -> int:
    """Wait until tasks have ended; exits with 0 if all are COMPLETED, 1 if not, 8 when the time is over."""
    settings = settings_from_env()

    async def act() -> list[TaskView]:
        async with engine_now(settings) as engine:
            return await engine.wait([await find_task(engine, text) for text in ids_], timeout_s)

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
            return await engine.cancel(await find_task(engine, id), reason="cancelled by a person")

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
            return await engine.retry(await find_task(engine, id))

    again = run_async(act())
    if as_json:
        print_json(again)
        return
    for name in again:
        click.echo(f"{name} will run again")


def exit_of(views: list[TaskView]) -> Exit:
    """0 if every task is COMPLETED."""
    return Exit.OK if all(view.state == "COMPLETED" for view in views) else Exit.FAILED


async def find_task(engine: Engine, text: str) -> ids.TaskId:
    """The task whose id begins with `text`. Raises NotFound, UsageError when there are several."""
    if not ids.is_id(text):
        raise UsageError(f"{text!r} is no task id")
    found = await engine.find_by_prefix(text)
    if not found:
        raise NotFound(f"no task {text!r}; `ai-infra task list` shows them")
    if len(found) > 1 and text not in found:
        raise UsageError(f"{text!r} may mean {', '.join(found[:5])}; give more of the id")
    return ids.TaskId(text) if text in found else found[0]


def _show(view: TaskView, as_json: bool) -> None:
    if as_json:
        print_json(view)
        return
    from ai_infra.dashboard.tables import task_detail

    show(task_detail(view, width()))
