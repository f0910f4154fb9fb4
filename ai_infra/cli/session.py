"""`up`, `down`, `status`, `attach`, `restart`, `logs`: the session as a whole."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING

import click

from ai_infra.app.command import (
    engine_now,
    find_tmux,
    owner_of,
    program,
    read_snapshot,
    session_of,
    settings_from_env,
    settings_to_stop_with,
)
from ai_infra.cli.output import examples, in_colour, json_option, print_json, run_async, show, width
from ai_infra.core import settings as settings_room
from ai_infra.core.errors import (
    Conflict,
    ConnectorError,
    ConnectorUnavailable,
    Exit,
    NotFound,
    NotRunning,
    SystemProblem,
    UsageError,
)
from ai_infra.core.settings import Settings
from ai_infra.supervisor.ledger import read_ledger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ai_infra.supervisor.boot import Beat, UpReport


@examples("ai-infra up", "ai-infra up --json", "AI_INFRA_REDIS_URL=redis://localhost:6380/0 ai-infra up")
@click.command()
@json_option
def up(as_json: bool) -> None:
    """Start the session, or what is missing of it, and wait until every window is READY.

    Run again it starts only what is missing, and windows that were given up (FATAL).
    """
    settings = settings_from_env()
    settings.home.ensure()
    _check_machine(settings)
    settings_room.record_overrides(settings.home, os.environ, keep=read_ledger(settings.home).wanted)
    report = run_async(_up(settings, quiet=as_json))
    if as_json:
        print_json({"session": settings.tmux.session, **vars(report)})
        return
    verb = f"{len(report.started)} started" if report.started else "nothing to start"
    click.echo(
        f"session {settings.tmux.session} is up: {verb}, "
        f"{len(report.kept)} already running, {report.took_s:.1f} s"
    )
    click.echo(f"look at it: {_attach_words(settings)}")


async def _up(settings: Settings, quiet: bool) -> UpReport:
    progress = _silent if quiet else _print_progress
    session = await session_of(settings, os.environ)
    return await session.up(lambda: _read_beats(settings), progress)


async def _read_beats(settings: Settings) -> Mapping[str, Beat]:
    """Every heartbeat; none while Redis is not there yet."""
    try:
        async with engine_now(settings, wait_s=1.0) as engine:
            return await engine.beats()
    except (NotRunning, ConnectorError, SystemProblem):
        return {}


def _print_progress(name: str, words: str, at_s: float) -> None:
    if words != "starting" or sys.stdout.isatty():
        click.echo(f"  {at_s:5.1f} s  {name:<12}{words}")


def _silent(name: str, words: str, at_s: float) -> None:
    """For --json."""


def _check_machine(settings: Settings) -> None:
    """What would make every window fail is said before any is started. Raises SystemProblem, ConfigError."""
    from ai_infra.connectors.embedded_redis import find_server
    from ai_infra.supervisor.tmux import tmux_version

    tmux_version()
    if settings.embedded_redis:
        find_server()
    else:
        run_async(_reach_redis(settings))
    if not program().exists():
        raise SystemProblem(f"{program()}: not there; run install.sh again")


async def _reach_redis(settings: Settings) -> None:
    """A server of the user's must answer before anything is started. Raises ConnectorError, SystemProblem."""
    from ai_infra.connectors.redis import Connection

    opening = Connection.open(
        settings.redis_url, prefix=settings.redis.prefix, wait_s=3, owner=owner_of(settings)
    )
    (await opening).close()


def _attach_words(settings: Settings) -> str:
    socket = settings.tmux.socket
    server = [] if socket == "default" else ["-S" if "/" in socket else "-L", socket]
    return shlex.join(["tmux", *server, "attach", "-t", settings.tmux.session])


@examples("ai-infra down")
@click.command()
def down() -> None:
    """Stop every process and end the session.

    Running commands get their grace, then are killed; their tasks go back to the queue. Nothing is lost:
    `ai-infra up` goes on where this stopped. Other tmux sessions are not touched.
    """
    _not_from_inside("down", "it would end the agent that runs it")
    settings = settings_to_stop_with()
    if not settings.home.run.exists():
        if not run_async(_is_there(settings)):
            click.echo("nothing was running")
            return
        settings.home.ensure()  # somebody removed it under a running session
    was_up = run_async(_down(settings))
    click.echo(f"session {settings.tmux.session} is down" if was_up else "nothing was running")


async def _down(settings: Settings) -> bool:
    return await (await session_of(settings, os.environ, stopping=True)).down(_print_progress)


async def _is_there(settings: Settings) -> bool:
    from ai_infra.supervisor.tmux import Present

    sight = await (await find_tmux(settings)).look()
    return isinstance(sight, Present) and sight.home == str(settings.home.root)


def _not_from_inside(what: str, why: str) -> None:
    """Refuse to a task what would end the task in the middle of it."""
    if os.environ.get("AI_INFRA_TASK_ID"):
        raise Conflict(f"a task cannot call `ai-infra {what}`: {why}; let a person or another agent do it")


@examples("ai-infra status", "ai-infra status --json")
@click.command()
@json_option
def status(as_json: bool) -> int:
    """Show every window: is it alive, busy, healthy; what waits, what failed.

    Exits with 0 when all is well, 3 when the session is not up, 1 when something needs a look.
    """
    settings = settings_from_env()
    found = run_async(read_snapshot(settings))
    if as_json:
        print_json({**vars(found), "is_well": found.is_well})
    else:
        from ai_infra.dashboard.tables import status_table

        show(status_table(found, width()))
    if found.is_well:
        return Exit.OK
    return Exit.FAILED if found.up else Exit.NOT_RUNNING


@examples("ai-infra attach", "ai-infra attach code")
@click.command()
@click.argument("window", required=False)
def attach(window: str | None) -> None:
    """Show the session in this terminal, at WINDOW if one is named. Ctrl-b d leaves it running."""
    from ai_infra.supervisor.tmux import Absent, Present, Unknown

    settings = settings_from_env()
    tmux = run_async(find_tmux(settings))
    sight = run_async(tmux.look())
    if isinstance(sight, Unknown):
        raise ConnectorUnavailable(f"tmux is unclear: {sight.reason}")
    if isinstance(sight, Absent):
        raise NotRunning("the session is not up; `ai-infra up` starts it")
    if not isinstance(sight, Present):
        raise Conflict(f"session {settings.tmux.session!r} was not made by ai-infra")
    pane = next((pane for name, pane in sight.panes.items() if name == window), None)
    if window is not None and pane is None:
        raise NotFound(f"no window {window!r}; there are {', '.join(sight.panes)}")
    if not sys.stdin.isatty():
        raise SystemProblem("attach needs a terminal; this is none")
    around = os.environ.get("TMUX", "").rsplit(",", 2)[0]
    inside = bool(around) and around == run_async(tmux.socket_path(sight.session_id))
    env = {name: value for name, value in os.environ.items() if name != "TMUX" or inside}
    window_id = pane.window_id if pane else None
    os.execvpe("tmux", tmux.attach_argv(sight.session_id, window_id, inside=inside), env)


@examples("ai-infra restart code", "ai-infra restart redis")
@click.command()
@click.argument("window")
def restart(window: str) -> None:
    """Replace the process of WINDOW: asked to stop, then killed, then started afresh. Clears FATAL."""
    if window == os.environ.get("AI_INFRA_AGENT"):
        _not_from_inside(f"restart {window}", "that is the agent that runs it")
    settings = settings_from_env()
    _need_home(settings)
    run_async(_restart(settings, window))
    click.echo(f"{window} was restarted")


async def _restart(settings: Settings, window: str) -> None:
    session = await session_of(settings, os.environ)
    await session.restart(window, lambda: _read_beats(settings))


def _need_home(settings: Settings) -> None:
    if not settings.home.run.exists():
        raise NotRunning("the session is not up; `ai-infra up` starts it")


@examples("ai-infra logs", "ai-infra logs code -f", "ai-infra logs -n 200 --json")
@click.command()
@click.argument("window", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on showing what is logged, until Ctrl-C.")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(0, 100_000),
    default=50,
    show_default=True,
    help="Lines to begin with.",
)
@json_option
def logs(window: str | None, follow: bool, lines: int, as_json: bool) -> None:
    """Show what the processes logged, merged by time; of WINDOW only, if one is named."""
    from ai_infra.dashboard import logs as view

    settings = settings_from_env()
    names = _log_names(settings, window)
    if as_json and follow:
        raise UsageError("--json and --follow do not go together")
    if as_json:
        print_json(view.recent(settings.home.logs, names, lines, level="debug"))
        return
    if follow:
        import asyncio

        run_async(view.follow(settings.home.logs, asyncio.Event(), names, lines))
        return
    for entry in view.recent(settings.home.logs, names, lines):
        columns = width() if sys.stdout.isatty() else None
        click.echo(view.format_entry(entry, columns, colour=in_colour()))


def _log_names(settings: Settings, window: str | None) -> list[str] | None:
    if window is None:
        return None
    from ai_infra.supervisor.spec import load_session

    known = load_session(settings).names
    if window not in known:
        raise NotFound(f"no window {window!r}; there are {', '.join(known)}")
    return [window]
