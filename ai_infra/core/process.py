"""The process contract: how every window's process starts, says it lives, drains, and ends.

- One life at a time: the kernel holds `run/NAME.lock` for as long as the process lives; it names its pid.
- Start is recovery: main() puts right what the last life left, then calls ready().
- The first SIGTERM, SIGINT or SIGHUP asks to stop (`stop`); the second insists (`insist`).
- The end is recorded by the process itself in `run/NAME.exit.json`, since tmux may not know it.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Awaitable, Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from ai_infra.core import durable, ids
from ai_infra.core.errors import AiInfraError, Conflict, Exit
from ai_infra.core.events import Log, now_text
from ai_infra.core.home import Home

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
LOCK_RETRY_S = 0.05
CPU_SPAN_S = 1.0  #: a share of CPU over less than this says nothing


class ProcessState(StrEnum):
    """Where a window's process is in its life; the last four are the supervisor's words for it."""

    STARTING = "STARTING"
    RUNNING = "RUNNING"
    STOPPING = "STOPPING"
    BACKOFF = "BACKOFF"  #: died; will be started again at a known time
    STOPPED = "STOPPED"  #: a person stopped it
    EXITED = "EXITED"  #: died; nobody has decided yet
    FATAL = "FATAL"  #: died too often; waits for a person


class Process:
    """One life of one window's process, as its own code sees it."""

    def __init__(self, name: ids.WindowName, home: Home, log: Log) -> None:
        self.name, self.home, self.log = name, home, log
        self.worker = ids.new_worker_id(ids.AgentName(name))
        self.state = ProcessState.STARTING
        self.stop = asyncio.Event()  #: set by the first signal (begin_stop): finish what you do
        self.insist = asyncio.Event()  #: set by the second: stop now
        self.changed = (
            asyncio.Event()
        )  #: set with every change of state, so that the heartbeat tells it at once
        self.asked_by = ""  #: name of the first signal
        self.activity: dict[str, Any] = {}  #: what the heartbeat tells of the work
        self._started_s = time.time()
        self._cpu_mark = (time.monotonic(), _cpu_s())
        self._lock = durable.FileLock(lock_path(home, name))

    def ready(self) -> None:
        """Say that this process can serve, unless it is stopping; the next heartbeat carries it."""
        if self.stop.is_set():
            return
        self.state = ProcessState.RUNNING
        self.changed.set()
        self.log("ready", after_s=round(time.time() - self._started_s, 3))

    def begin_stop(self) -> None:
        """Finish what runs and take nothing new; the next heartbeat says so. Twice is safe."""
        self.state = ProcessState.STOPPING
        self.stop.set()
        self.changed.set()

    def payload(self) -> dict[str, Any]:
        """What a heartbeat says: pid, worker, state, memory, CPU since the last call, activity."""
        now, cpu_s = time.monotonic(), _cpu_s()
        then, before_s = self._cpu_mark
        if now - then > CPU_SPAN_S:
            self._cpu_mark = (now, cpu_s)
        return {
            "pid": os.getpid(),
            "worker": self.worker,
            "state": self.state.value,
            "started_at": self._started_s,
            "rss_bytes": _rss_bytes(),
            "cpu_percent": round(100 * (cpu_s - before_s) / (now - then), 1)
            if now - then > CPU_SPAN_S
            else None,
            **self.activity,
        }

    def run(self, main: Callable[[], Awaitable[None]], *, wait_s: float) -> Exit:
        """Live: take the lock (waiting `wait_s` for the last life to end), run main(), record the end."""
        if not self._take_lock(wait_s):
            holder = (durable.read_json(self._lock.path) or {}).get("pid", "?")
            raise Conflict(
                f"{self.name}: already running as pid {holder}; `ai-infra restart {self.name}` replaces it"
            )
        threading.excepthook = self._thread_failed
        self._say_who()
        self.log("started", pid=os.getpid(), worker=self.worker)
        code, reason = Exit.OK, "finished"
        try:
            asyncio.run(self._with_signals(main))
            reason = f"asked by {self.asked_by}" if self.asked_by else reason
        except BaseException as exc:  # noqa: BLE001 the rim of the process: whatever it is, it is recorded
            code, reason = self._explain(exc)
        self._record_end(code, reason)
        return code

    def _thread_failed(self, what: threading.ExceptHookArgs) -> None:
        """Told in the log: a terminal that takes nothing would hold the thread, and with it our end."""
        name = what.thread.name if what.thread else "?"
        self.log("thread_failed", level="warning", thread=name, reason=repr(what.exc_value)[:500])

    def keep_lock(self) -> None:
        """Take the lock again if its file was removed, for others know by it that we live; called often."""
        if self._lock.is_in_place():
            return
        again = durable.FileLock(self._lock.path)
        try:
            taken = again.try_acquire()
        except AiInfraError:
            return  # the home is gone, or the disk full: we live on, unseen
        if not taken:
            self.log("lock_lost", level="error")
            self.begin_stop()
            return
        self._lock.release()
        self._lock = again
        self._say_who()
        self.log("lock_made_again", level="warning")

    def _say_who(self) -> None:
        self._lock.write({"pid": os.getpid(), "worker": self.worker, "started_at": self._started_s})

    async def _with_signals(self, main: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        if sys.version_info < (3, 12):  # later ones wait for a child by pidfd by themselves
            watcher = asyncio.PidfdChildWatcher()
            watcher.attach_loop(loop)
            asyncio.get_event_loop_policy().set_child_watcher(watcher)
        for number in _SIGNALS:
            loop.add_signal_handler(number, self._on_signal, number)
        await main()

    def _on_signal(self, number: signal.Signals) -> None:
        if self.stop.is_set():
            self.insist.set()
            return
        self.asked_by = signal.Signals(number).name
        self.log("stop_asked", signal=self.asked_by)
        self.begin_stop()

    def _explain(self, exc: BaseException) -> tuple[Exit, str]:
        """Exit code and one line for what ended main(); the trace of a bug goes to the log file."""
        while isinstance(exc, BaseExceptionGroup):
            exc = exc.exceptions[0]
        if isinstance(exc, AiInfraError):
            self.log("stopped_by_error", level="error", reason=str(exc))
            return exc.exit_code, str(exc)
        trace = "".join(traceback.format_exception(exc))
        self.log("crashed", level="error", reason=repr(exc), trace=trace)
        return Exit.FAILED, f"bug: {exc!r} (trace in logs/{self.name}.jsonl)"

    def _take_lock(self, wait_s: float) -> bool:
        deadline = time.monotonic() + wait_s
        while not self._lock.try_acquire():
            if time.monotonic() > deadline:
                return False
            time.sleep(LOCK_RETRY_S)
        return True

    def _record_end(self, code: Exit, reason: str) -> None:
        record = {"pid": os.getpid(), "code": int(code), "reason": reason, "at": now_text()}
        try:
            durable.write_json(exit_path(self.home, self.name), record)
        except AiInfraError as exc:
            print(exc, file=sys.stderr)
        self.log("exited", code=int(code), reason=reason)
        self._lock.release()


def lock_path(home: Home, name: str) -> Path:
    """The file whose lock a process holds while it lives."""
    return home.run / f"{name}.lock"


def exit_path(home: Home, name: str) -> Path:
    """Where the last life of a process says how it ended."""
    return home.run / f"{name}.exit.json"


def living_pid(home: Home, name: str) -> int | None:
    """The pid of the process that holds `name`'s lock; None when nobody does."""
    path = lock_path(home, name)
    if not durable.is_locked(path):
        return None
    pid = (durable.read_json(path) or {}).get("pid")
    return pid if isinstance(pid, int) else None


def last_exit(home: Home, name: str, pid: int) -> dict[str, Any] | None:
    """How the life with this pid ended, if it could say so itself (kill -9 leaves no record)."""
    record = durable.read_json(exit_path(home, name))
    return record if record and record.get("pid") == pid else None


def _cpu_s() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _rss_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES
