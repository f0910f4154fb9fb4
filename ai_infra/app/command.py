"""The parts of one command: settings, the session, the task engine, a snapshot."""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ai_infra.core.errors import ConfigError, ConnectorError, ConnectorUnavailable, NotRunning, SystemProblem
from ai_infra.core.home import Home
from ai_infra.core.settings import Settings, load_settings
from ai_infra.core.shipped import shipped

if TYPE_CHECKING:
    from ai_infra.supervisor.boot import Session
    from ai_infra.supervisor.snapshot import AgentLoad, PausedWorkflow, Snapshot
    from ai_infra.supervisor.spec import SessionSpec
    from ai_infra.supervisor.tmux import Tmux
    from ai_infra.tasks.engine import Engine
    from ai_infra.tasks.task import WorkflowView
    from ai_infra.tasks.views import AgentCounts, BeatView


def settings_from_env() -> Settings:
    """The settings of this command or process. Raises ConfigError."""
    return load_settings(Home.from_env(os.environ), os.environ)


def settings_to_stop_with() -> Settings:
    """Settings for `down`: it must work while a file of the user's is broken, then with the shipped ones."""
    home = Home.from_env(os.environ)
    try:
        return settings_from_env()
    except ConfigError:
        return load_settings(home, {}, own_files=False)


HEALED_S = 8.0  #: a Redis that died is back by then, most times


def owner_of(settings: Settings) -> str:
    """Whose tasks stand in a Redis of the user's, so that nobody takes another's; empty for our own Redis."""
    return "" if settings.embedded_redis else f"{settings.home.root}@{os.uname().nodename}"


def login() -> str:
    """Who types this command, as the kernel has it: no variable can say otherwise."""
    import pwd

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"uid{os.geteuid()}"


def who() -> str:
    """Who types this command, in words: a person, or a task that an agent runs."""
    from ai_infra.core.orphans import task_in

    of = task_in(os.environ)
    return f"task {of[1]} of {of[0]}" if of is not None else login()


def program() -> Path:
    """The `ai-infra` of this installation: the one beside the Python that runs this."""
    return Path(sys.prefix) / "bin" / "ai-infra"


@asynccontextmanager
async def engine_now(settings: Settings, wait_s: float | None = None) -> AsyncIterator[Engine]:
    """The task engine for a command. Raises NotRunning (no answer from Redis), SystemProblem (disk full).

    Without `wait_s` it waits until a Redis that has just died is healed.
    """
    from ai_infra.connectors.redis import Connection
    from ai_infra.supervisor.ledger import read_ledger
    from ai_infra.tasks.engine import Engine

    usual_s = 2.0
    if settings.embedded_redis and not settings.home.redis_socket.exists() and not settings.home.is_full():
        if not read_ledger(settings.home).wanted:
            raise NotRunning("the session is not up; `ai-infra up` starts it")
        usual_s = HEALED_S
    wait_s = usual_s if wait_s is None else wait_s
    try:
        connection = await Connection.open(
            settings.redis_url, prefix=settings.redis.prefix, wait_s=wait_s, owner=owner_of(settings)
        )
        engine = Engine(connection, settings.tasks.aging_s)
        try:
            yield engine
        finally:
            engine.close()
    except ConnectorUnavailable as exc:
        raise _why_away(settings, exc) from exc


def _why_away(settings: Settings, exc: ConnectorUnavailable) -> SystemProblem | NotRunning:
    if settings.embedded_redis and settings.home.is_full():
        return SystemProblem(f"{settings.home.root}: the disk is full, so Redis waits; free some space")
    return NotRunning(f"{exc}; `ai-infra up` starts the session, `ai-infra doctor` checks it")


def agents_with_window(settings: Settings) -> list[str]:
    """The agents that tasks can be given to. Raises ConfigError."""
    from ai_infra.supervisor.spec import load_session

    windows = load_session(settings).names
    return [name for name in settings.agents if name in windows]


async def find_tmux(settings: Settings) -> Tmux:
    """The server that the session is on: where `up` made it, if it is there; else where the settings say."""
    from ai_infra.supervisor.ledger import read_ledger
    from ai_infra.supervisor.tmux import Absent, Tmux

    ledger = read_ledger(settings.home)
    if ledger.socket:
        made_on = Tmux(replace(settings.tmux, socket=ledger.socket), settings.home.root)
        if not isinstance(await made_on.look(), Absent):
            return made_on
    return Tmux(settings.tmux, settings.home.root)


async def session_of(settings: Settings, env: Mapping[str, str], *, stopping: bool = False) -> Session:
    """The session, as `up`, `down` and `restart` use it. Raises ConfigError, but not to one who stops it."""
    from ai_infra.supervisor.boot import Session
    from ai_infra.supervisor.spec import load_session
    from ai_infra.supervisor.watch import Starter

    starter = Starter(settings.home, program(), env)
    try:
        spec = load_session(settings)
    except ConfigError:
        if not stopping:
            raise
        spec = load_session(settings, shipped("config/tmux/session.yaml"))
    return Session(settings, spec, await find_tmux(settings), starter)


async def read_snapshot(settings: Settings) -> Snapshot:
    """The whole session at this moment, for one command; whatever is silent is said in it."""
    try:
        async with engine_now(settings) as engine:
            return await take(settings, engine)
    except (ConnectorError, SystemProblem) as exc:
        return await take(settings, None, (str(exc),))
    except NotRunning:
        return await take(settings, None)


async def take(
    settings: Settings,
    engine: Engine | None,
    problems: tuple[str, ...] = (),
    spec: SessionSpec | None = None,
    tmux: Tmux | None = None,
) -> Snapshot:
    """A snapshot from an open engine; without one, what tmux and the ledger tell.

    `spec` and `tmux` are looked up where they are not at hand.
    """
    from ai_infra.supervisor.snapshot import take_snapshot
    from ai_infra.supervisor.spec import load_session

    sight = await (tmux or await find_tmux(settings)).look()
    beats: Mapping[str, BeatView] = {}
    loads: Mapping[str, AgentLoad] = {}
    paused: tuple[PausedWorkflow, ...] = ()
    if engine is not None:
        try:
            beats = await engine.beats()
            loads = {str(name): _load(counts) for name, counts in (await engine.counts()).items()}
            paused = _open_paused(await engine.paused_workflows())
        except ConnectorError as exc:
            engine, problems = None, (*problems, str(exc))
    return take_snapshot(
        settings,
        spec or load_session(settings),
        sight,
        beats,
        loads,
        redis="embedded" if settings.embedded_redis else "a server of yours",
        redis_ok=engine is not None,
        durable=engine is not None and engine.connection.durability == "always",
        problems=problems,
        paused_workflows=paused,
    )


def _open_paused(flows: Sequence[WorkflowView]) -> tuple[PausedWorkflow, ...]:
    from ai_infra.supervisor.snapshot import PausedWorkflow
    from ai_infra.tasks.task import TERMINAL

    return tuple(
        PausedWorkflow(id=flow.header.id, name=flow.header.name, reason=flow.paused)
        for flow in flows
        if flow.state not in TERMINAL
    )


def _load(counts: AgentCounts) -> AgentLoad:
    from ai_infra.supervisor.snapshot import AgentLoad

    return AgentLoad(
        ready=counts.ready,
        active=counts.active,
        blocked=counts.blocked,
        delayed=counts.delayed,
        completed=counts.completed,
        failed=counts.failed,
        done_last_hour=counts.hour_done,
        failed_last_hour=counts.hour_failed,
        wait_s=counts.hour_mean_wait_s or 0.0,
        duration_s=counts.hour_mean_duration_s or 0.0,
        paused=counts.paused,
        rate_per_minute=counts.rate_per_minute,
    )
