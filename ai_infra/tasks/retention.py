"""Retention: finished tasks that are old, or too many, go from Redis into the archive, part by part.

Order: read what may go, have it in the file and on disk, then let Redis forget it. Who dies in between
leaves a task in both places, never in none; the next pass writes it once more.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass

from ai_infra.core.ids import TaskId
from ai_infra.core.settings import TaskSettings
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine

DAY_S = 86400.0
PART = 100  #: tasks a call; the server is busy with it for 3 ms
PAUSE_S = 0.005  #: between parts, so that workers come first


@dataclass(frozen=True, kw_only=True)
class Passed:
    """What a pass did."""

    archived: int
    due_s: float | None  #: until the oldest that is kept becomes too old; None: nothing is kept


async def archive_finished(engine: Engine, archive: Archive, limits: TaskSettings) -> Passed:
    """Move everything that need not stay. Raises Conflict (another writes), SystemProblem, ConnectorError."""
    keep_s = limits.keep_finished_days * DAY_S
    before_ms = max(0, round((time.time() - keep_s) * 1000))
    archived, skips = 0, (0, 0, 0)
    with archive.writing():
        while True:
            part = await engine.finished(
                keep=limits.keep_finished, before_ms=before_ms, skips=skips, limit=PART
            )
            gone: list[TaskId] = []
            if part.records:
                await asyncio.to_thread(archive.append, part.records)
                gone = await engine.forget(part.records)
                archived += len(gone)
            progress = gone or part.skips != skips
            skips = part.skips
            if not part.more or not progress:
                break
            await asyncio.sleep(PAUSE_S)
    kept = part.oldest_kept_ms
    due_s = max(0.0, kept / 1000 + keep_s - time.time()) if kept else None
    return Passed(archived=archived, due_s=due_s)


async def drop(engine: Engine, archive: Archive, letters: list[TaskId]) -> list[TaskId]:
    """Move dead letters into the archive, with what was cancelled because of them; the ids of all.

    Raises NotFound, and Conflict: no dead letter, or a task that has not ended needs it.
    """
    with archive.writing():
        records = await engine.dead_letters(letters)
        await asyncio.to_thread(archive.append, records)
        return await engine.forget(records, of_open_workflows=True)
