"""The ledger of windows: what is wanted, and what has been done about each death.

A file, not Redis: the window of Redis is one of those looked after. It is changed only under the lock
`run/heal.lock`, which the kernel gives back when its holder dies; a reader needs no lock.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from ai_infra.core import durable
from ai_infra.core.errors import Conflict
from ai_infra.core.home import Home
from ai_infra.core.process import ProcessState
from ai_infra.core.settings import SupervisorSettings

LEDGER = "windows.json"
LOCK_WAIT_S = 15.0  #: nobody holds the lock for longer than a few tmux calls
CLOCK_GRAIN_S = 0.001  #: POSIX seconds as floats are no finer than this, all told
_LOCK_RETRY_S = 0.03


@dataclass(frozen=True, kw_only=True)
class WindowRecord:
    """What has been done about one window. Times are POSIX seconds."""

    state: ProcessState = ProcessState.RUNNING  #: RUNNING, BACKOFF, STOPPED or FATAL
    restarts: tuple[float, ...] = ()  #: automatic restarts that still count against the limit
    restarts_total: int = 0
    restart_at: float | None = None  #: in BACKOFF: when it will be started again
    last_exit: str = ""  #: how the last life ended, in words


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """Whether the session is wanted, and the record of each window."""

    wanted: bool = False
    socket: str = ""  #: path of the tmux server's socket that the session was made on
    windows: Mapping[str, WindowRecord] = field(default_factory=dict)

    def record(self, name: str) -> WindowRecord:
        """The record of a window; a new one where there is none."""
        return self.windows.get(name, WindowRecord())

    def with_record(self, name: str, record: WindowRecord) -> Ledger:
        """This ledger with one record changed."""
        return replace(self, windows={**self.windows, name: record})


def after_death(record: WindowRecord, last_exit: str, now: float, policy: SupervisorSettings) -> WindowRecord:
    """What follows from a death: BACKOFF with a doubling delay, or FATAL. Pure."""
    recent = tuple(at for at in record.restarts if now - policy.restart_window_s < at <= now)
    if len(recent) >= policy.restart_limit:
        return replace(
            record, state=ProcessState.FATAL, restarts=recent, restart_at=None, last_exit=last_exit
        )
    delay_s = min(policy.restart_delay_s * 2.0 ** min(len(recent), 60), policy.restart_delay_max_s)
    return replace(
        record, state=ProcessState.BACKOFF, restarts=recent, restart_at=now + delay_s, last_exit=last_exit
    )


def wait_s(record: WindowRecord, now: float, turn_s: float, policy: SupervisorSettings) -> float:
    """Seconds until a window in BACKOFF is due for one whose turn comes `turn_s` later. Pure.

    More than the longest delay means that the clock was set back: it is due now.
    """
    left = (record.restart_at or now) + turn_s - now
    return left if 0 < left <= policy.restart_delay_max_s + turn_s + CLOCK_GRAIN_S else 0.0


def after_restart(record: WindowRecord, now: float) -> WindowRecord:
    """The record once the window was started again by itself."""
    return replace(
        record,
        state=ProcessState.RUNNING,
        restarts=(*record.restarts, now),
        restarts_total=record.restarts_total + 1,
        restart_at=None,
    )


def read_ledger(home: Home) -> Ledger:
    """The ledger as it stands; an absent or unreadable one says that nothing is wanted."""
    found = durable.read_json(home.run / LEDGER) or {}
    tables = found.get("windows")
    windows = {name: _record(table) for name, table in tables.items()} if isinstance(tables, dict) else {}
    socket = str(found.get("socket", ""))
    return Ledger(wanted=bool(found.get("wanted")), socket=socket, windows=windows)


@asynccontextmanager
async def changing(home: Home) -> AsyncIterator[LedgerChange]:
    """Hold the lock for a block; the change is written by LedgerChange.save(). Raises Conflict."""
    lock = durable.FileLock(home.run / "heal.lock")
    deadline = time.monotonic() + LOCK_WAIT_S
    while not lock.try_acquire():
        if time.monotonic() > deadline:
            raise Conflict(
                f"{lock.path}: held for over {LOCK_WAIT_S:g} s by another process; see `ai-infra doctor`"
            )
        await asyncio.sleep(_LOCK_RETRY_S)
    try:
        yield LedgerChange(home)
    finally:
        lock.release()


class LedgerChange:
    """The ledger while its lock is held."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.ledger = read_ledger(home)

    def save(self, ledger: Ledger) -> None:
        """Write it; on disk when this returns."""
        self.ledger = ledger
        windows = {name: _plain(record) for name, record in ledger.windows.items()}
        table = {"wanted": ledger.wanted, "socket": ledger.socket, "windows": windows}
        durable.write_json(self._home.run / LEDGER, table)


def _plain(record: WindowRecord) -> dict[str, Any]:
    return {**record.__dict__, "state": record.state.value, "restarts": list(record.restarts)}


def _record(table: Any) -> WindowRecord:
    """A record as it was written; a new one for anything else."""
    try:
        restart_at = table["restart_at"]
        return WindowRecord(
            state=ProcessState(table["state"]),
            restarts=tuple(float(at) for at in table["restarts"]),
            restarts_total=int(table["restarts_total"]),
            restart_at=None if restart_at is None else float(restart_at),
            last_exit=str(table["last_exit"]),
        )
    except (TypeError, KeyError, ValueError, AttributeError, OverflowError):
        return WindowRecord()
