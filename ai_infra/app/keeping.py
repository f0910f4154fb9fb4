"""The keeper: the supervisor's side task that moves old finished tasks into files and removes what they left.

It works when there is need: a task has moved, or the oldest that is kept has become too old; at most
once a minute.
An idle system costs it one blocked read an hour.
"""

from __future__ import annotations

import asyncio
import time

from ai_infra.core.errors import Conflict, ConnectorError, ConnectorUnavailable
from ai_infra.core.events import EventLog
from ai_infra.core.settings import Settings
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.litter import tidy
from ai_infra.tasks.retention import DAY_S, archive_finished

PASS_EVERY_S = 60.0  #: between two passes, at least
LOOK_EVERY_S = 3600.0  #: the longest sleep
TIDY_EVERY_S = DAY_S


class Keeper:
    """Retention, for as long as the supervisor lives."""

    def __init__(self, settings: Settings, engine: Engine, log: EventLog) -> None:
        self._settings, self._engine, self._log = settings, engine, log
        self._archive = Archive(settings.home.archive)
        self._last = "0-0"  #: event that the last pass has seen
        self._tidied_at: float | None = None

    async def run(self) -> None:
        """For ever; what goes wrong is logged and tried again."""
        while True:
            due_s = await self._pass()
            await asyncio.sleep(PASS_EVERY_S)
            await self._sleep(due_s)

    async def _pass(self) -> float | None:
        """One pass; seconds until the next is due should nothing move, or None."""
        try:
            self._last = await self._engine.last_event_id()
            passed = await archive_finished(self._engine, self._archive, self._settings.tasks)
            if passed.archived:
                self._log("tasks_archived", tasks=passed.archived)
            await self._tidy()
        except (ConnectorUnavailable, Conflict):  # away, or a person drops dead letters just now
            return 0.0
        except Exception as exc:  # noqa: BLE001 the rim: a full disk, a damaged file; the tasks go on
            self._log("archive_failed", level="warning", reason=(str(exc) or repr(exc))[:500])
            return 0.0
        return passed.due_s

    async def _tidy(self) -> None:
        if self._tidied_at is not None and time.monotonic() - self._tidied_at < TIDY_EVERY_S:
            return
        self._tidied_at = time.monotonic()
        removed = await tidy(self._engine, self._settings.home, self._settings.tasks.keep_logs_days * DAY_S)
        if removed:
            self._log("litter_removed", entries=removed)

    async def _sleep(self, due_s: float | None) -> None:
        """Until a task moves, or a pass is due."""
        wait_s = LOOK_EVERY_S if due_s is None else min(max(0.0, due_s - PASS_EVERY_S), LOOK_EVERY_S)
        deadline = time.monotonic() + wait_s
        while (left := deadline - time.monotonic()) > 0:
            try:
                if await self._engine.events(self._last, block_s=left, limit=1):
                    return
            except ConnectorError:
                await asyncio.sleep(min(PASS_EVERY_S, left))
            except (
                ValueError
            ):  # somebody wrote beside the engine: no move, and the next pass goes on after it
                return
