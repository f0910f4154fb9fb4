"""History: every task that ended since an instant, once, from Redis and from the archive."""

from __future__ import annotations

from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.statistics import Past


async def past_tasks(engine: Engine, archive: Archive, since_ms: int) -> list[Past]:
    """What ended since then. The archive is read last: what moves meanwhile is met there."""
    found = {past.id: past async for past in engine.past(since_ms)}
    for record in archive.ended(since_ms):
        if record.id not in found:
            found[record.id] = Past.of_record(record)
    return list(found.values())
