"""A window's process, built from its parts and taken down in reverse.

Every one has the process contract, a watch over its peers, a connection to Redis and a heartbeat; around what
its room does. The watch needs no Redis, so that the window of Redis is healed, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ai_infra.app.command import owner_of, program, settings_from_env, take
from ai_infra.core import ids
from ai_infra.core.errors import ConfigError, ConnectorError, ConnectorUnavailable, Exit, NotFound
from ai_infra.core.events import EventLog
from ai_infra.core.orphans import end_orphans
from ai_infra.core.process import Process, living_pid
from ai_infra.core.settings import Settings, TmuxSettings
from ai_infra.dashboard.pane import AgentPane, SupervisorPane
from ai_infra.supervisor.spec import SIDECARS, load_session
from ai_infra.supervisor.tmux import Present, Tmux
from ai_infra.supervisor.watch import Death, Starter, Watcher

if TYPE_CHECKING:
    from ai_infra.supervisor.snapshot import Snapshot
    from ai_infra.tasks.engine import Engine

T = TypeVar("T")

RECONNECT_S = 1.0
SETTINGS_EVERY_S = 1.0  #: files of settings that are wrong are read again so often
STATUS_EVERY_S = 5.0
GOODBYE_S = 1.0  #: for the last word to Redis
EXTRA_LOCK_WAIT_S = 5.0  #: a life that ends takes its drain, and a little more


def run_window(name: str) -> Exit:
    """Live as the window `name` until asked to stop; the exit code of the process."""
    said = ""
    while True:
        try:
            return _window(name).run()
        except ConfigError as exc:  # a person has the file open, maybe: that is no death to be counted
            if str(exc) != said:
                said = str(exc)
                print(f"{said}\nwaiting until it is put right", file=sys.stderr, flush=True)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends this, and says nothing
            time.sleep(SETTINGS_EVERY_S)


def _window(name: str) -> Window:
    """Raises ConfigError, NotFound, SystemProblem."""
    settings = settings_from_env()
    if name not in settings.agents and name not in SIDECARS:
        raise NotFound(f"no agent or sidecar {name!r}; there are {', '.join([*settings.agents, *SIDECARS])}")
    settings.home.ensure()
    return Window(name, settings)


class Window:
    """One life of one window's process."""

    def __init__(self, name: str, settings: Settings) -> None:
        self._settings = settings
        is_agent = name in settings.agents
        self._pane = AgentPane(task_logs=settings.home.task_logs) if is_agent else SupervisorPane()
        quiet = name in ("monitor", "logs")  # these draw something else
        log_file = settings.home.logs / f"{name}.jsonl"
        self._log = EventLog(log_file, name, settings.logs.max_bytes, None if quiet else self._pane.event)
        self._process = Process(ids.WindowName(name), settings.home, self._log)
        self._spec = load_session(settings)
        self._tmux = Tmux(_tmux_around(settings), settings.home.root)
        self._watcher = self._build_watcher()
        self._engine: Engine | None = None

    def run(self) -> Exit:
        """Live; returns when the process should exit."""
        mains: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {
            "supervisor": self._supervisor,
            "monitor": self._monitor,
            "logs": self._logs,
            "redis": self._redis,
        }
        main = mains.get(self._process.name, self._agent)

        async def watched() -> None:
            async with self._side(self._watch(), "watch"):
                await main()

        try:
            return self._process.run(watched, wait_s=self._settings.supervisor.drain_s + EXTRA_LOCK_WAIT_S)
        finally:
            self._log.close()

    # -- what each kind of window does ----------------------------------------------------------------------

    async def _agent(self) -> None:
        async with self._connected() as engine:
            await self._work(engine)

    async def _work(self, engine: Engine) -> None:
        """Be a worker, with a heartbeat that goes on while it drains."""
        from ai_infra.agents.mail import Mail
        from ai_infra.agents.worker import Worker

        assert isinstance(self._pane, AgentPane)
        self._link_program()
        worker = Worker(self._process, self._settings, engine, self._pane, dict(os.environ))
        await worker.recover()
        mail = Mail(self._process, self._settings.home, engine)

        async def beat() -> None:
            said = await self._beat(engine, self._process.worker)
            worker.note_pause(said.paused)
            for task in (*said.cancelled, *said.lost):
                worker.cancel(task)

        async with self._beating(engine, beat), self._side(mail.serve(), "mail"):
            self._process.ready()
            await worker.serve()

    async def _supervisor(self) -> None:
        async with (
            self._connected() as engine,
            self._side(engine.run_timers(), "timers"),
            self._side(self._keep_status(engine), "status"),
            self._side(self._keep_archive(engine), "archive"),
        ):
            await self._work(engine)

    async def _monitor(self) -> None:
        from ai_infra.dashboard.logs import Recent
        from ai_infra.dashboard.monitor import run_monitor
        from ai_infra.dashboard.source import EVENTS_SHOWN, Work, monitor_data

        home = self._settings.home
        log, work = Recent(home.logs, EVENTS_SHOWN), Work()
        async with self._connected() as engine, self._beating(engine):
            self._process.ready()

            async def read() -> Any:
                return await monitor_data(await self._take(engine), engine, home, log, work)

            await run_monitor(read, self._process.stop)

    async def _logs(self) -> None:
        from ai_infra.dashboard.logs import follow
        from ai_infra.dashboard.outlet import Outlet

        async with self._connected() as engine, self._beating(engine):
            self._process.ready()
            outlet = Outlet()
            while not self._process.stop.is_set():
                try:
                    await follow(self._settings.home.logs, self._process.stop, emit=outlet.write)
                except NotFound:  # a person removed the folder
                    self._settings.home.ensure()

    async def _redis(self) -> None:
        from ai_infra.connectors.embedded_redis import EmbeddedRedis

        home = self._settings.home
        server = EmbeddedRedis(home, lambda words, level: self._log("redis_said", level, words=words))
        try:
            await self._unless_stopped(server.start())
            async with self._connected() as engine, self._beating(engine):
                facts = engine.connection.facts
                self._log("redis_serves", pid=server.pid, version=facts.version, durability=facts.durability,
                          socket=str(home.redis_socket))  # fmt: skip
                self._process.ready()
                async with self._side(server.watch(), "redis-watch"):
                    await self._process.stop.wait()
                    if self._process.asked_by == "SIGHUP":  # the whole session ends: the others still need us
                        await self._others_gone()
        finally:
            await server.stop(self._settings.supervisor.drain_s)

    # -- parts ----------------------------------------------------------------------------------------------

    def _build_watcher(self) -> Watcher:
        """The supervisor watches every other window; everybody else watches the supervisor."""
        name = self._process.name
        is_supervisor = name == "supervisor"
        return Watcher(
            settings=self._settings,
            spec=self._spec,
            tmux=self._tmux,
            starter=Starter(self._settings.home, program(), os.environ),
            watched=[n for n in self._spec.names if (n == "supervisor") != is_supervisor],
            me=name,
            log=self._log,
            on_death=self._after_death if is_supervisor else None,
        )

    async def _watch(self) -> None:
        """Watch over others until we are asked to stop ourselves: who leaves starts nothing new."""
        watching = asyncio.create_task(self._watcher.run(), name="watcher")
        stopping = asyncio.create_task(self._process.stop.wait(), name="stop")
        try:
            await asyncio.wait({watching, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            stopping.cancel()

    @asynccontextmanager
    async def _side(self, work: Awaitable[None], name: str) -> AsyncIterator[None]:
        """Run `work` beside a block; if it fails, the process is asked to stop, and that is its end."""

        async def run() -> None:
            try:
                await work
            except Exception:
                self._process.begin_stop()
                raise

        task = asyncio.create_task(run(), name=name)
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[Engine]:
        """The task engine, as soon as Redis answers; waits for as long as nobody asks us to stop."""
        self._engine = await self._unless_stopped(self._connect())
        try:
            yield self._engine
        finally:
            self._engine.close()
            self._engine = None

    async def _unless_stopped(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of `work`; ConnectorUnavailable when we are asked to stop before it is there."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._process.stop.wait(), name="stop")
        try:
            await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise ConnectorUnavailable("asked to stop before Redis was there")
            return working.result()
        finally:
            working.cancel()
            stopping.cancel()

    async def _connect(self) -> Engine:
        from ai_infra.connectors.redis import Connection
        from ai_infra.tasks.engine import Engine

        redis = self._settings.redis
        while True:
            try:
                connection = await Connection.open(
                    self._settings.redis_url, prefix=redis.prefix, wait_s=10, owner=owner_of(self._settings)
                )
                return Engine(connection, self._settings.tasks.aging_s)
            except ConnectorUnavailable as exc:
                self._log("redis_away", level="warning", reason=str(exc))
                await asyncio.sleep(RECONNECT_S)

    @asynccontextmanager
    async def _beating(
        self, engine: Engine, beat: Callable[[], Awaitable[object]] | None = None
    ) -> AsyncIterator[None]:
        """Heartbeats: at once, with every change of state, and at the end; else at their interval."""

        async def once() -> None:
            await self._beat(engine, None)

        async with self._side(self._beat_on(beat or once), "heartbeat"):
            yield
        with contextlib.suppress(ConnectorError, TimeoutError):
            async with asyncio.timeout(GOODBYE_S):
                await engine.forget_beat(self._process.name)

    async def _beat_on(self, beat: Callable[[], Awaitable[object]]) -> None:
        while True:
            self._process.changed.clear()
            try:
                await beat()
            except ConnectorError as exc:
                self._log("heartbeat_failed", level="debug", reason=str(exc))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._settings.supervisor.heartbeat_s):
                    await self._process.changed.wait()

    async def _beat(self, engine: Engine, worker: ids.WorkerId | None) -> Any:
        settings = self._settings
        self._process.keep_lock()
        said = await engine.beat(
            self._process.name,
            worker,
            self._process.payload(),
            settings.tasks.lease_s,
            settings.supervisor.offline_s,
        )
        beats = await engine.beats() if said.suspects else {}
        for name in said.suspects:
            if name in beats and name != self._process.name:
                await self._watcher.kill_hung(name, int(beats[name].payload.get("pid", 0)))
        return said

    async def _after_death(self, death: Death) -> None:
        """What a dead agent was running is ended, and what it held goes back to the queue at once."""
        if death.window not in self._settings.agents:
            return
        ended = 0
        if living_pid(self._settings.home, death.window) is None:  # else its next life has done this already
            ended = await asyncio.to_thread(end_orphans, self._settings.home, death.window)
        if self._engine is None or not death.worker:
            return
        with contextlib.suppress(ConnectorError):  # else its next life takes them back
            reason = f"the agent died: {death.how}"
            tasks = await self._engine.release(ids.WorkerId(death.worker), reason=reason)
            if tasks or ended:
                self._log("tasks_released", agent=death.window, tasks=tasks, commands_ended=ended)

    async def _take(self, engine: Engine) -> Snapshot:
        return await take(self._settings, engine, spec=self._spec, tmux=self._tmux)

    async def _keep_status(self, engine: Engine) -> None:
        """Keep the session's status line true."""
        from ai_infra.dashboard.statusline import status_text

        said = ""
        while True:
            try:
                text = status_text(await self._take(engine))
                sight = await self._tmux.look() if text != said else None
                if isinstance(sight, Present):
                    await self._tmux.set_status(sight.session_id, text)
                    said = text
            except Exception as exc:  # noqa: BLE001 the rim: a status line is not worth a process
                self._log("status_line_failed", level="debug", reason=str(exc) or repr(exc))
            await asyncio.sleep(STATUS_EVERY_S)

    async def _keep_archive(self, engine: Engine) -> None:
        """Old finished tasks go into files, and what they left on disk goes."""
        from ai_infra.app.keeping import Keeper

        await Keeper(self._settings, engine, self._log).run()

    async def _others_gone(self) -> None:
        from ai_infra.supervisor.boot import living_names

        deadline = asyncio.get_running_loop().time() + self._settings.supervisor.drain_s
        while not self._process.insist.is_set() and asyncio.get_running_loop().time() < deadline:
            if living_names(self._settings.home) == [self._process.name]:
                return
            await asyncio.sleep(0.05)

    def _link_program(self) -> None:
        """`ai-infra` in the PATH of tasks is this installation's."""
        link = self._settings.home.run / "bin" / "ai-infra"
        link.parent.mkdir(mode=0o700, exist_ok=True)
        if not link.is_symlink() or Path(os.readlink(link)) != program():
            beside = link.with_name(f".{os.getpid()}")
            beside.symlink_to(program())
            beside.replace(link)


def _tmux_around(settings: Settings) -> TmuxSettings:
    """The server whose pane we are in, whatever name the settings have for it."""
    socket = os.environ.get("TMUX", "").rsplit(",", 2)[0]
    return replace(settings.tmux, socket=socket) if socket else settings.tmux
