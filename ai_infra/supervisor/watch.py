"""Watching: a death is seen by the kernel's word (pidfd), and healed by the same code whoever sees it.

The supervisor watches every window; every other process watches the supervisor, so its death is
healed too. Several may see one death: each takes the ledger's lock, looks again, and does only what is
still missing. Nothing is done on Unknown.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ai_infra.core import ids
from ai_infra.core.durable import is_locked, read_json
from ai_infra.core.events import Log
from ai_infra.core.home import Home
from ai_infra.core.process import ProcessState, last_exit, living_pid, lock_path
from ai_infra.core.settings import Settings
from ai_infra.supervisor.environment import check_size, window_env
from ai_infra.supervisor.ledger import (
    LEDGER,
    Ledger,
    LedgerChange,
    WindowRecord,
    after_death,
    after_restart,
    changing,
    read_ledger,
    wait_s,
)
from ai_infra.supervisor.spec import SessionSpec, WindowSpec
from ai_infra.supervisor.tmux import Pane, Present, Sight, Tmux, Unknown

TICK_S = 15.0  #: the supervisor looks so often, whatever pidfds say: for windows that were never there
TURN_S = 0.4  #: peers heal one after the other; the next steps in when the one before it did not


@dataclass(frozen=True, kw_only=True)
class Death:
    """A window's process that ended without being asked."""

    window: ids.WindowName
    worker: str  #: the life that ended; empty if it died before it had a name
    how: str  #: in words: "killed by signal 9"


OnDeath = Callable[[Death], Awaitable[None]]


class Starter:
    """Knows the command line, environment and folder of a window's process."""

    def __init__(self, home: Home, program: Path, env: Mapping[str, str]) -> None:
        self._home, self._program = home, program
        self._env = window_env(env, home.root)

    def check(self) -> None:
        """Raise SystemProblem when tmux will not take what start() gives it."""
        check_size(self._env)

    async def start(self, tmux: Tmux, pane: Pane) -> None:
        """Put the window's process into its pane."""
        await tmux.respawn(pane, [str(self._program), "run", pane.window], self._env, self._home.root)


class Watcher:
    """Keeps `watched` windows alive until cancelled."""

    def __init__(
        self,
        *,
        settings: Settings,
        spec: SessionSpec,
        tmux: Tmux,
        starter: Starter,
        watched: Sequence[ids.WindowName],
        me: ids.WindowName,
        log: Log,
        on_death: OnDeath | None = None,
    ) -> None:
        self._settings, self._spec, self._tmux, self._starter = settings, spec, tmux, starter
        self._watched, self._me, self._log, self._on_death = watched, me, log, on_death
        self._is_supervisor = me == "supervisor"
        self._deaths: asyncio.Queue[Death] = asyncio.Queue()
        self._wake = asyncio.Event()
        self._pidfds: dict[int, int] = {}  # pid → its pidfd, watched by the loop
        self._unknown_said = False

    async def run(self) -> None:
        """Watch for ever. A failure to heal is logged and tried again at the next tick."""
        telling = asyncio.create_task(self._tell_deaths(), name="tell-deaths")
        try:
            while True:
                self._wake.clear()
                due_s = None
                try:
                    due_s = await self._look()
                except Exception as exc:  # noqa: BLE001 the rim: who heals others must not die of what killed them
                    self._log("healing_failed", level="error", reason=str(exc) or repr(exc))
                await self._sleep(due_s)
        finally:
            telling.cancel()
            for pid in list(self._pidfds):
                self._unfollow(pid)

    async def _tell_deaths(self) -> None:
        """Beside the watch: what follows from a death may wait for Redis, and Redis may wait to be healed."""
        while True:
            death = await self._deaths.get()
            if self._on_death is not None:
                await self._on_death(death)

    async def kill_hung(self, name: str, pid: int) -> None:
        """End a process that its peers agree is hung; the watch then heals it as any death."""
        if read_ledger(self._settings.home).wanted and living_pid(self._settings.home, name) == pid:
            self._log("hung_process_killed", level="warning", window=name, pid=pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- seeing ---------------------------------------------------------------------------------------------

    async def _look(self) -> float | None:
        """See what there is, and heal what is missing; seconds until the next thing is due, or None.

        The supervisor asks tmux for all. A peer reads the supervisor's lock, and asks only if it is free.
        """
        if not self._is_supervisor:
            self._watched = self._watched_by_peer()
            pid = living_pid(self._settings.home, "supervisor")
            if pid is not None:
                self._follow([pid])
                return math.inf
        return await self._reconcile()

    def _watched_by_peer(self) -> list[ids.WindowName]:
        """The supervisor; and everybody else while it is given up, so that its end is not everybody's."""
        given_up = read_ledger(self._settings.home).record("supervisor").state is ProcessState.FATAL
        names = [name for name in self._spec.names if name != self._me]
        return names if given_up else [name for name in names if name == "supervisor"]

    def _follow(self, pids: Iterable[int]) -> None:
        """Be woken when one of these ends; at once, if it has ended already."""
        for pid in pids:
            if pid not in self._pidfds:
                try:
                    self._pidfds[pid] = os.pidfd_open(pid)
                except ProcessLookupError:
                    self._wake.set()
                    continue
                asyncio.get_running_loop().add_reader(self._pidfds[pid], self._ended, pid)

    def _ended(self, pid: int) -> None:
        self._unfollow(pid)
        self._wake.set()

    def _unfollow(self, pid: int) -> None:
        fd = self._pidfds.pop(pid)
        asyncio.get_running_loop().remove_reader(fd)
        os.close(fd)

    async def _sleep(self, due_s: float | None) -> None:
        """Until `due_s` has passed (None: a tick; inf: for ever), or a followed process has ended."""
        with contextlib.suppress(TimeoutError):
            tick_s = TICK_S if self._is_supervisor else self._settings.supervisor.heartbeat_s
            limit_s = tick_s if due_s is None else None if due_s == math.inf else min(due_s, tick_s)
            async with asyncio.timeout(limit_s):
                await self._wake.wait()

    # -- healing --------------------------------------------------------------------------------------------

    async def _reconcile(self) -> float | None:
        """Do what is due for every watched window; seconds until the next thing is due, or None."""
        sight = await self._tmux.look()
        if not self._certain(sight):
            return None
        assert isinstance(sight, Present)
        self._follow(
            pane.pid for name, pane in sight.panes.items() if name in self._watched and not pane.dead
        )
        if all(self._is_well(name, sight) for name in self._watched):
            return None
        due: list[float] = []
        async with changing(self._settings.home) as change:
            if not change.ledger.wanted:
                if (self._settings.home.run / LEDGER).exists() or not sight.home:
                    return None  # brought down, or made by tmuxp and not by `up` yet
                self._log(
                    "ledger_lost", level="warning"
                )  # `down` leaves one behind: this was not a person's wish
                change.save(Ledger(wanted=True))
            again = await self._tmux.look()  # somebody may have healed it while we waited for the lock
            if not isinstance(again, Present):
                return None
            for window in self._spec.windows:
                if window.name in self._watched:
                    await self._heal(window, again, change, due)
        return min(due) if due else None

    def _certain(self, sight: Sight) -> bool:
        if isinstance(sight, Present):
            self._unknown_said = False
            return True
        if not self._unknown_said:
            reason = sight.reason if isinstance(sight, Unknown) else "the session is not there"
            self._log("tmux_unclear", level="warning", reason=reason)
            self._unknown_said = True
        return False

    def _is_well(self, name: ids.WindowName, sight: Present) -> bool:
        pane = sight.panes.get(name)
        record = read_ledger(self._settings.home).record(name)
        return pane is not None and not pane.dead and record.state is ProcessState.RUNNING

    async def _heal(self, window: WindowSpec, sight: Present, change: LedgerChange, due: list[float]) -> None:
        """One window, with the lock held: note its death, or start it if that is due."""
        record = change.ledger.record(window.name)
        pane = sight.panes.get(window.name)
        if record.state is ProcessState.FATAL or self._is_being_replaced(record):
            return
        if pane is not None and not pane.dead:
            if record.state is ProcessState.BACKOFF:
                change.save(change.ledger.with_record(window.name, after_restart(record, time.time())))
            return
        now = time.time()
        if record.state is not ProcessState.BACKOFF:
            how = describe_end(self._settings.home, pane)
            holder = read_json(lock_path(self._settings.home, window.name)) or {}
            self._deaths.put_nowait(Death(window=window.name, worker=str(holder.get("worker", "")), how=how))
            record = after_death(record, how, now, self._settings.supervisor)
            change.save(change.ledger.with_record(window.name, record))
            self._say_death(window.name, record, now)
        if record.state is not ProcessState.BACKOFF:
            return
        left_s = wait_s(record, now, self._turn_s(), self._settings.supervisor)
        if left_s <= 0:
            await self._restart(window, pane, sight, change, record)
        due.append(left_s)  # after a restart: look again at once, to follow the new process

    def _is_being_replaced(self, record: WindowRecord) -> bool:
        """A person's `restart` is at it; if that was cut off, the window is ours to heal."""
        return record.state is ProcessState.STOPPED and is_locked(self._settings.home.run / "up.lock")

    def _turn_s(self) -> float:
        """The first of the spec heals at once, the next a moment later if it is still needed."""
        return 0.0 if self._is_supervisor else TURN_S * max(0, self._spec.names.index(self._me) - 1)

    async def _restart(
        self,
        window: WindowSpec,
        pane: Pane | None,
        sight: Present,
        change: LedgerChange,
        record: WindowRecord,
    ) -> None:
        if pane is None:
            pane = await self._tmux.add_window(sight.session_id, window)
        await self._starter.start(self._tmux, pane)
        record = after_restart(record, time.time())
        change.save(change.ledger.with_record(window.name, record))
        limit = self._settings.supervisor.restart_limit
        self._log(
            "window_restarted", window=window.name, by=self._me, restart=len(record.restarts), limit=limit
        )

    def _say_death(self, name: str, record: WindowRecord, now: float) -> None:
        if record.state is ProcessState.FATAL:
            self._log("window_fatal", level="error", window=name, how=record.last_exit,
                      restarts=len(record.restarts), clear=f"ai-infra restart {name}")  # fmt: skip
        else:
            delay_s = round(wait_s(record, now, 0.0, self._settings.supervisor), 1)
            self._log("window_died", level="warning", window=name, how=record.last_exit, restart_in_s=delay_s)


def describe_end(home: Home, pane: Pane | None) -> str:
    """How a window's process ended: its own record first, then tmux's, which may be empty."""
    if pane is None:
        return "its window was closed"
    own = last_exit(home, pane.window, pane.pid)
    if own is not None:
        return f"exit {own['code']}: {own['reason']}"
    if pane.exit_signal:
        return f"killed by signal {pane.exit_signal}"
    return f"exit {pane.exit_status}" if pane.exit_status is not None else "ended without a record (killed?)"
