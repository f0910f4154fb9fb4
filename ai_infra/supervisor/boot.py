"""Boot and stop: `up` starts what is missing, `restart` replaces one window, `down` ends all.

Each may be called twice, and by two people at once: `run/up.lock` lets one at a time through.
Nothing of a person's other sessions, options or windows is touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Protocol

from ai_infra.core import ids
from ai_infra.core.durable import FileLock, read_json
from ai_infra.core.errors import (
    Conflict,
    ConnectorUnavailable,
    DeadlinePassed,
    NotFound,
    NotRunning,
)
from ai_infra.core.home import Home
from ai_infra.core.orphans import end_orphans, find_orphans
from ai_infra.core.process import ProcessState, living_pid
from ai_infra.core.settings import Settings, forget_overrides
from ai_infra.supervisor.ledger import Ledger, WindowRecord, changing, read_ledger
from ai_infra.supervisor.spec import SessionSpec, WindowSpec
from ai_infra.supervisor.tmux import Absent, Foreign, Present, Tmux, Unknown
from ai_infra.supervisor.watch import Starter, describe_end

POLL_S = 0.03
UP_LOCK_WAIT_S = 120.0
KILL_WAIT_S = 3.0  #: how long the kernel may take to end a killed process
LAST_LINES = 8


class Beat(Protocol):
    """The part of a heartbeat that says whether a window is READY."""

    @property
    def payload(self) -> Mapping[str, object]:
        """What the process said of itself."""


ReadBeats = Callable[[], Awaitable[Mapping[str, Beat]]]
Progress = Callable[[str, str, float], None]  #: window, state in words, seconds since the start


@dataclass(frozen=True, kw_only=True)
class UpReport:
    """What `up` did."""

    started: tuple[str, ...]
    kept: tuple[str, ...]
    took_s: float


class Session:
    """The session as a whole, as a command sees it."""

    def __init__(self, settings: Settings, spec: SessionSpec, tmux: Tmux, starter: Starter) -> None:
        self._settings, self._spec, self._tmux, self._starter = settings, spec, tmux, starter
        self._home = settings.home

    # -- up -------------------------------------------------------------------------------------------------

    async def up(self, read_beats: ReadBeats, progress: Progress) -> UpReport:
        """Start what is missing and wait until every window is READY.

        Raises Conflict (a session of that name is somebody else's), ConnectorUnavailable (tmux is silent),
        DeadlinePassed (a window does not come up; the message has its last lines), SystemProblem.
        """
        self._starter.check()
        began = time.monotonic()
        async with self._alone():
            started = await self._start_missing()
            for name in self._spec.names:
                progress(name, "starting" if name in started else "running", time.monotonic() - began)
            await self._wait_ready(self._spec.names, read_beats, progress, began)
        kept = tuple(name for name in self._spec.names if name not in started)
        return UpReport(started=tuple(started), kept=kept, took_s=time.monotonic() - began)

    async def _start_missing(self) -> list[str]:
        async with changing(self._home) as change:
            sight = await self._tmux.look()
            session_id = await self._ensure_session(sight)
            panes = sight.panes if isinstance(sight, Present) else {}
            started: list[str] = []
            ledger = replace(change.ledger, wanted=True, socket=await self._tmux.socket_path(session_id))
            for window in sorted(self._spec.windows, key=lambda w: w.name != "redis"):
                pane = panes.get(window.name)
                fresh = WindowRecord(restarts_total=ledger.record(window.name).restarts_total)
                if pane is None or pane.dead:
                    pane = pane or await self._tmux.add_window(session_id, window)
                    await self._starter.start(self._tmux, pane)
                    ledger = ledger.with_record(window.name, fresh)
                    started.append(window.name)
                elif ledger.record(window.name).state is ProcessState.STOPPED:  # a `restart` was cut off
                    ledger = ledger.with_record(window.name, fresh)
            change.save(ledger)
            await self._tmux.drop_spare(session_id)
        return started

    async def _ensure_session(self, sight: object) -> str:
        match sight:
            case Absent():
                return await self._tmux.create(self._spec)
            case Present(session_id=session_id, home=""):
                await self._tmux.adopt(session_id)
                return session_id
            case Present(session_id=session_id, home=home) if home == str(self._home.root):
                return session_id
            case Present(home=home):
                raise Conflict(
                    f"session {self._tmux.session!r} belongs to another installation (AI_INFRA_HOME={home}); "
                    "use that one, or set tmux.session to another name"
                )
            case Foreign():
                raise Conflict(
                    f"a tmux session named {self._tmux.session!r} exists and was not made by ai-infra; "
                    "rename it, or set tmux.session to another name"
                )
            case Unknown(reason=reason):
                raise ConnectorUnavailable(f"tmux: {reason}")
        raise AssertionError(sight)

    async def _wait_ready(
        self, names: Iterable[str], read_beats: ReadBeats, progress: Progress, began: float
    ) -> None:
        waiting = set(names)
        deadline = began + self._settings.supervisor.ready_timeout_s
        while waiting:
            beats = await read_beats()
            for name in [n for n in waiting if self._is_ready(n, beats)]:
                waiting.remove(name)
                progress(name, "ready", time.monotonic() - began)
            fatal = [n for n in waiting if read_ledger(self._home).record(n).state is ProcessState.FATAL]
            if fatal or (waiting and time.monotonic() > deadline):
                raise DeadlinePassed(await self._say_missing(sorted(fatal or waiting)))
            await asyncio.sleep(POLL_S if waiting else 0)

    def _is_ready(self, name: str, beats: Mapping[str, Beat]) -> bool:
        beat = beats.get(name)
        if beat is None or beat.payload.get("state") != ProcessState.RUNNING:
            return False
        return beat.payload.get("pid") == living_pid(self._home, name)

    async def _say_missing(self, names: list[str]) -> str:
        """Why these windows are not READY: how each ended, and its last lines."""
        sight = await self._tmux.look()
        parts = [f"not ready after {self._settings.supervisor.ready_timeout_s:g} s: {', '.join(names)}"]
        for name in names:
            pane = sight.panes.get(ids.WindowName(name)) if isinstance(sight, Present) else None
            ended = describe_end(self._home, pane) if pane is None or pane.dead else "still starting"
            shown = await self._tmux.capture(pane, LAST_LINES) if pane is not None else ""
            before = read_ledger(self._home).record(name).last_exit
            ended += f" (before that: {before})" if before and before != ended else ""
            parts.append(f"\n{name}: {ended}; last lines of its window:\n" + _indent(shown or "(nothing)"))
        parts.append(f"\nlogs: {self._home.logs}; `ai-infra doctor` checks the machine")
        return "\n".join(parts)

    # -- restart --------------------------------------------------------------------------------------------

    async def restart(self, name: str, read_beats: ReadBeats) -> None:
        """Replace one window's process: asked to stop, then killed, then started afresh; FATAL is cleared.

        The new one serves when this returns. Raises NotFound (no such window), NotRunning, DeadlinePassed,
        SystemProblem.
        """
        self._starter.check()
        began = time.monotonic()
        window = self._spec.find(name)
        if window is None:
            raise NotFound(f"no window {name!r}; there are {', '.join(self._spec.names)}")
        async with self._alone():
            await self._present()
            async with changing(self._home) as change:
                if not change.ledger.wanted:
                    raise NotRunning("the session is not up; `ai-infra up` starts it")
                stopped = WindowRecord(
                    state=ProcessState.STOPPED, restarts_total=change.ledger.record(name).restarts_total
                )
                change.save(change.ledger.with_record(name, stopped))
            try:
                await self._end([name], lambda *_: None)
            finally:  # also on Ctrl-C: a window is never left without its process
                await self._start_again(window)
            await self._wait_ready([name], read_beats, lambda *_: None, began)

    async def _start_again(self, window: WindowSpec) -> None:
        async with changing(self._home) as change:
            sight = await self._present()
            pane = sight.panes.get(window.name) or await self._tmux.add_window(sight.session_id, window)
            await self._starter.start(self._tmux, pane)
            total = change.ledger.record(window.name).restarts_total
            change.save(change.ledger.with_record(window.name, WindowRecord(restarts_total=total)))

    async def _present(self) -> Present:
        sight = await self._tmux.look()
        if isinstance(sight, Present) and sight.home == str(self._home.root):
            return sight
        if isinstance(sight, Unknown):
            raise ConnectorUnavailable(f"tmux: {sight.reason}")
        raise NotRunning("the session is not up; `ai-infra up` starts it")

    # -- down -----------------------------------------------------------------------------------------------

    async def down(self, progress: Progress) -> bool:
        """Drain and end every process, then the session; False if nothing was there. Twice is safe."""
        began = time.monotonic()

        def told(name: str, words: str) -> None:
            progress(name, words, time.monotonic() - began)

        async with self._alone():
            async with changing(self._home) as change:
                change.save(replace(change.ledger, wanted=False))
            living = living_names(self._home)
            sight = await self._tmux.look()
            ours = isinstance(sight, Present) and sight.home in ("", str(self._home.root))
            await self._end([n for n in living if n != "redis"], told)
            await self._end([n for n in living if n == "redis"], told)
            if isinstance(sight, Present) and ours:
                living_panes = _pidfds(pane.pid for pane in sight.panes.values() if not pane.dead)
                await self._tmux.kill_session(sight.session_id)
                await _until_gone(living_panes)
            orphans = await asyncio.to_thread(end_orphans, self._home)
            if orphans:
                told("commands", f"{orphans} left behind, killed")
                if left := await asyncio.to_thread(find_orphans, self._home):
                    told("commands", f"cannot be ended: pid {', '.join(map(str, left))}")
            if isinstance(sight, Unknown):
                raise ConnectorUnavailable(
                    f"the processes have ended, but tmux did not answer: {sight.reason}"
                )
            self._home.redis_socket.unlink(missing_ok=True)
            forget_overrides(self._home)
            async with changing(self._home) as change:
                change.save(Ledger())
        return bool(living) or ours

    async def _end(self, names: Iterable[str], told: Callable[[str, str], None]) -> None:
        """Ask, wait for the drain, insist, then kill; all `names` under one deadline."""
        grace_s = self._settings.supervisor.drain_s
        left = {name: pid for name in names if (pid := living_pid(self._home, name)) is not None}
        for number, wait_s in (
            (signal.SIGTERM, grace_s),
            (signal.SIGTERM, KILL_WAIT_S),
            (signal.SIGKILL, KILL_WAIT_S),
        ):
            for name, pid in left.items():
                if number is signal.SIGKILL:
                    told(name, "did not stop in time, killed")
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            left = await self._wait_ended(left, wait_s, told)
            if not left:
                return
        raise DeadlinePassed(
            f"cannot be ended, even by kill -9: {', '.join(f'{n} (pid {p})' for n, p in left.items())}"
        )

    async def _wait_ended(
        self, left: dict[str, int], wait_s: float, told: Callable[[str, str], None]
    ) -> dict[str, int]:
        deadline = time.monotonic() + wait_s
        while left and time.monotonic() < deadline:
            for name, pid in list(left.items()):
                if living_pid(self._home, name) != pid:
                    told(name, "stopped")
                    del left[name]
            await asyncio.sleep(POLL_S if left else 0)
        return left

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """One `up`, `down` or `restart` at a time. Raises Conflict when the other does not end."""
        lock = FileLock(self._home.run / "up.lock")
        deadline = time.monotonic() + UP_LOCK_WAIT_S
        while not lock.try_acquire():
            if time.monotonic() > deadline:
                holder = (read_json(lock.path) or {}).get("pid", "?")
                raise Conflict(f"another `ai-infra up`, `down` or `restart` (pid {holder}) has not ended")
            await asyncio.sleep(POLL_S)
        try:
            lock.write({"pid": os.getpid()})
            yield
        finally:
            lock.release()


def living_names(home: Home) -> list[str]:
    """Names of processes of this installation that live now, whatever the session file says."""
    found = sorted(path.stem for path in home.run.glob("*.lock"))
    return [name for name in found if name not in ("up", "heal") and living_pid(home, name) is not None]


def _pidfds(pids: Iterable[int]) -> list[int]:
    """Handles on living processes: unlike a pid, a handle never comes to mean another process."""
    found = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            found.append(os.pidfd_open(pid))
    return found


async def _until_gone(pidfds: list[int]) -> None:
    """Wait for processes that the end of their terminal ends; then kill what is left. Closes the handles."""
    deadline = time.monotonic() + KILL_WAIT_S
    left = list(pidfds)
    try:
        while left and time.monotonic() < deadline:
            ended, _, _ = select.select(left, [], [], 0)
            left = [fd for fd in left if fd not in ended]
            await asyncio.sleep(POLL_S if left else 0)
        for fd in left:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
    finally:
        for fd in pidfds:
            os.close(fd)


def _indent(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())
