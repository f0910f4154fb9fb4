"""`ai-infra workflow …`: files of tasks that depend on each other."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ai_infra.app.command import agents_with_window, engine_now, settings_from_env, who
from ai_infra.app.lookup import find_workflow, find_workflow_id
from ai_infra.cli.output import examples, json_option, print_json, run_async, show, width
from ai_infra.cli.workflow_hold import cancel, pause, resume
from ai_infra.core import ids
from ai_infra.core.durable import system_problem
from ai_infra.core.errors import Exit, NotFound, UsageError
from ai_infra.core.settings import Settings
from ai_infra.core.shipped import shipped

if TYPE_CHECKING:
    from ai_infra.tasks.engine import Engine
    from ai_infra.tasks.task import WorkflowView


@examples("ai-infra workflow list", "ai-infra workflow run six-tasks")
@click.group()
def workflow() -> None:
    """Run a file of tasks that depend on each other; show, pause, cancel what was run."""


for command in (cancel, pause, resume):
    workflow.add_command(command)


@examples(
    "ai-infra workflow run six-tasks",
    "ai-infra workflow run build.yaml --param branch=main",
    "ai-infra workflow run checkup --param repo=. --no-wait",
)
@workflow.command()
@click.argument("file")
@click.option(
    "--param", "-p", "params", multiple=True, metavar="NAME=VALUE", help="A parameter of the workflow."
)
@click.option("--no-wait", is_flag=True, help="Print the id and return at once.")
@json_option
def run(file: str, params: tuple[str, ...], no_wait: bool, as_json: bool) -> int:
    """Submit the workflow in FILE (or a shipped one by its name) and follow it to its end.

    Exits with 0 when every task is COMPLETED. An atomic one that fails is followed until it is undone.
    Ctrl-C stops the looking, not the work.
    """
    settings = settings_from_env()
    view = run_async(
        submit_and_follow(settings, _path(settings, file), _params(params), no_wait, quiet=as_json)
    )
    if as_json:
        print_json({"id": view.header.id} if no_wait else view)
    return Exit.OK if no_wait or view.state == "COMPLETED" else Exit.FAILED


async def submit_and_follow(
    settings: Settings, path: Path, params: dict[str, str], no_wait: bool = False, quiet: bool = False
) -> WorkflowView:
    """Submit a workflow file and follow it on the terminal; its last view."""
    from ai_infra.tasks.workflow import load_workflow

    workflow_id = ids.WorkflowId(ids.new_id("w"))
    folder = settings.home.workflows / workflow_id
    header, specs = load_workflow(
        path, params, agents=agents_with_window(settings), workflow_dir=folder, workflow_id=workflow_id
    )
    async with engine_now(settings) as engine:
        _make(folder)
        await engine.submit(specs, workflow=header)
        if not quiet:
            click.echo(workflow_id)
        if no_wait:
            return await engine.workflow(workflow_id)
        if quiet:
            return await engine.wait_workflow(workflow_id)
        return await follow(engine, workflow_id)


async def follow(engine: Engine, workflow_id: ids.WorkflowId) -> WorkflowView:
    """Draw a workflow live until it ends."""
    from ai_infra.dashboard.live import follow_workflow

    last = await engine.last_event_id()

    async def changes(wait_s: float) -> None:
        nonlocal last
        events = await engine.events(last, block_s=wait_s)
        last = events[-1].id if events else last

    return await follow_workflow(lambda: engine.workflow(workflow_id), changes)


@examples("ai-infra workflow list", "ai-infra workflow list --json")
@workflow.command("list")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 1000), default=20, show_default=True, help="At most so many."
)
@json_option
def list_(limit: int, as_json: bool) -> None:
    """List workflows that were run, newest first, and the shipped ones that can be."""
    settings = settings_from_env()

    async def act() -> list[WorkflowView]:
        async with engine_now(settings) as engine:
            return await engine.list_workflows(limit)

    found = run_async(act())
    if as_json:
        print_json(found)
        return
    from ai_infra.dashboard.tables import workflow_table

    show(workflow_table(found, width()))
    click.echo(f"can be run by name: {', '.join(_shipped_names(settings))}")


@examples("ai-infra workflow show w-1kxs2fhj8abcde", "ai-infra workflow show w-1kxs2fhj8abcde --follow")
@workflow.command("show")
@click.argument("id")
@click.option("-f", "--follow", "go_on", is_flag=True, help="Go on showing it until it ends.")
@json_option
def show_(id: str, go_on: bool, as_json: bool) -> int:
    """Show one workflow as a tree. ID may be cut short, and archived."""
    settings = settings_from_env()

    live = go_on and not as_json

    async def act() -> WorkflowView | None:
        async with engine_now(settings) as engine:
            view = await find_workflow(settings, engine, id)
            if not live or any(task.archive for task in view.tasks):
                return view
            await follow(engine, view.header.id)
            return None

    view = run_async(act())
    if as_json:
        print_json(view)
    elif view is not None:
        from ai_infra.dashboard.tables import workflow_tree

        show(workflow_tree(view, width()))
    return Exit.OK


@examples("ai-infra workflow undo w-1kxs2fhj8abcde")
@workflow.command()
@click.argument("id")
@json_option
def undo(id: str, as_json: bool) -> int:
    """Take back what a workflow did: run the undo commands of its completed tasks, the last one first.

    For a workflow that has ended; an atomic one that failed was undone by itself. Exits with 0 when all that
    was completed is undone. ID may be cut short.
    """
    settings = settings_from_env()

    async def act() -> WorkflowView:
        async with engine_now(settings) as engine:
            found = await find_workflow_id(settings, engine, id)
            await engine.undo_workflow(found, reason=f"{who()} asked for it")
            return await (engine.wait_workflow(found) if as_json else follow(engine, found))

    view = run_async(act())
    if as_json:
        print_json(view)
    return Exit.OK if view.undo is not None and view.undo.complete else Exit.FAILED


def _path(settings: Settings, file: str) -> Path:
    """A file as named; else a workflow of the user's or a shipped one of that name. Raises NotFound."""
    if os.path.exists(file) or "/" in file or file.endswith((".yaml", ".yml")):
        if not os.path.isfile(file):
            raise NotFound(f"{file}: {'is not a file' if os.path.exists(file) else 'no such file'}")
        return Path(file)
    for folder in (settings.home.config / "workflows", shipped("config/workflows")):
        if os.path.isfile(folder / f"{file}.yaml"):
            return folder / f"{file}.yaml"
    raise NotFound(f"no workflow {file!r}; name a file, or one of {', '.join(_shipped_names(settings))}")


def _shipped_names(settings: Settings) -> list[str]:
    folders = (settings.home.config / "workflows", shipped("config/workflows"))
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def _params(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name:
            raise UsageError(f"--param {text!r}: say NAME=VALUE")
        if name in found:
            raise UsageError(f"--param {name}: given twice")
        found[name] = value
    return found


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise system_problem(folder, exc) from exc
