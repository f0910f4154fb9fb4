"""Keeping: finished tasks on their way into files, whole tasks in and out, and what statistics count.

Every call here is bounded on the server: about 1 MB of an answer, a few milliseconds of work.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ai_infra.connectors.wire import Word
from ai_infra.core.errors import ConnectorUnavailable
from ai_infra.core.ids import TaskId, WorkflowId, new_id
from ai_infra.tasks.calls import IDS_A_CALL, Calls
from ai_infra.tasks.record import Record, TaskRecord, WorkflowRecord, read_rows
from ai_infra.tasks.statistics import Past

_INDEXES = ("done", "dead", "gone")
_ROWS_A_CALL = 200
_LETTERS_A_CALL = 50
_IMPORT_BYTES = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A part of what may go."""

    records: list[Record]
    skips: tuple[int, int, int]  #: for the next call: how many stay that would be old enough
    more: bool
    oldest_kept_ms: int  #: the end of the oldest task that is not old enough; 0: there is none, or unknown


class Keeping(Calls):
    """The part of the engine that files and statistics use."""

    async def finished(
        self, *, keep: int, before_ms: int, skips: Sequence[int] = (0, 0, 0), limit: int = IDS_A_CALL
    ) -> Finished:
        """The oldest finished tasks that are not among the newest `keep`, or ended before `before_ms`.

        Those that are needed stay: their workflow has not ended, or a task that has not ended needs them.
        """
        rows, flows, after, more, kept = await self._call("finished", keep, before_ms, limit, *skips)
        return Finished(
            records=read_rows(rows, flows),
            skips=(after[0], after[1], after[2]),
            more=bool(more),
            oldest_kept_ms=int(kept),
        )

    async def forget(self, records: Sequence[Record], *, of_open_workflows: bool = False) -> list[TaskId]:
        """Remove these tasks, which are safe elsewhere; the ids of those that are gone.

        One that was tried again since it was read, or is needed, stays.
        """
        pairs = [(r.id, r.fields["fi"]) for r in records if isinstance(r, TaskRecord)]
        gone: list[TaskId] = []
        while pairs:
            part = pairs[:_ROWS_A_CALL]
            words = [word for pair in part for word in pair]
            seen, ids = await self._call("forget", int(of_open_workflows), *words)
            gone += ids
            pairs = pairs[max(seen, 1) :]
        return gone

    async def dead_letters(self, tasks: Sequence[TaskId]) -> list[Record]:
        """These FAILED tasks and what was cancelled because of them. Raises NotFound, and Conflict."""
        found: dict[str, Record] = {}
        for first in range(0, len(tasks), _LETTERS_A_CALL):
            reply = await self._call("dropped", *tasks[first : first + _LETTERS_A_CALL])
            found |= {record.id: record for record in read_rows(*reply)}
        return list(found.values())

    async def missing(self, tasks: Sequence[str]) -> list[str]:
        """Those tasks that are not in Redis."""
        return await self._missing("t:", tasks)

    async def missing_workflows(self, workflows: Sequence[str]) -> list[str]:
        """Those workflows of which no task is in Redis."""
        return await self._missing("wt:", workflows)

    async def _missing(self, kind: str, names: Sequence[str]) -> list[str]:
        out: list[str] = []
        for first in range(0, len(names), IDS_A_CALL):
            out += await self._call("missing", kind, *names[first : first + IDS_A_CALL])
        return out

    async def records(self) -> AsyncIterator[Record]:
        """Every task in the order of submission, as it stood when read; workflows before their tasks."""
        after, there = "0", True
        known: set[str] = set()
        while there:
            rows, flows, after, there = await self._call("records", after, _ROWS_A_CALL)
            for record in read_rows(rows, flows):
                if isinstance(record, TaskRecord) or record.id not in known:
                    yield record
                known.update({record.id} if isinstance(record, WorkflowRecord) else ())

    async def past(self, since_ms: int) -> AsyncIterator[Past]:
        """What statistics count of every task that ended since then."""
        for index in _INDEXES:
            at, same, there = str(since_ms), 0, True
            while there:
                rows = await self._call("history", index, at, same, _ROWS_A_CALL)
                for *row, _ in rows:
                    yield Past.of(row)
                there = len(rows) == _ROWS_A_CALL
                if there:  # many may have ended in one instant
                    last = rows[-1][-1]
                    newer = sum(row[-1] == last for row in rows)
                    same = same + newer if last == at else newer
                    at = last

    # ------------------------------------------------------------ coming in

    async def import_records(
        self, flows: Mapping[WorkflowId, WorkflowRecord], tasks: Iterable[TaskRecord]
    ) -> tuple[int, int]:
        """Take in tasks as they stood: all of them, or none; how many came, and how many were here.

        Finished ones keep their end; open ones are open again, and what ran is READY. The same task again is
        left alone; one that is different is a Conflict.
        """
        sub, total, here, left = new_id("imp"), 0, 0, dict(flows)
        try:
            for part in _parts(tasks):
                total += len(part)
                here += await self._call("import", sub, *_words(part, left))
        except BaseException as exc:
            if not isinstance(exc, ConnectorUnavailable):  # else it is undone by its deadline
                await self._call_until_done("abort", sub)
            raise
        await self._call_until_done("commit", sub)
        return total - here, here

    async def _call_until_done(self, function: str, sub: str) -> None:
        while await self._call(function, sub, IDS_A_CALL) > 0:
            pass


def _parts(tasks: Iterable[TaskRecord]) -> Iterator[list[TaskRecord]]:
    part: list[TaskRecord] = []
    size = 0
    for record in tasks:
        part.append(record)
        size += len(record.spec_text) + len(record.result_text or "")
        if size >= _IMPORT_BYTES or len(part) == _ROWS_A_CALL:
            yield part
            part, size = [], 0
    if part:
        yield part


def _words(tasks: Sequence[TaskRecord], flows: dict[WorkflowId, WorkflowRecord]) -> list[Word]:
    """The words of one call: tasks, and the workflows whose first they are, taken out of `flows`."""
    heads = [flows.pop(task.workflow) for task in tasks if task.workflow in flows]
    words: list[Word] = [len(heads)]
    for head in heads:
        words += [head.id, head.header_text, head.created_ms]
    for task in tasks:
        flat = [word for pair in task.fields.items() for word in pair]
        words += [task.id, task.spec_text, task.result_text or "", len(flat), *flat]
    return words
