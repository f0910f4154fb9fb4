"""The archive: finished tasks in files, one a day by their end, `archive/tasks-YYYY-MM-DD.jsonl.gz`.

A task is written here, and on disk, before Redis forgets it; who dies in between leaves it in both
places, and it may come here twice: of several lines the last holds, and Redis goes before all of them.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_infra.core.durable import FileLock, system_problem
from ai_infra.core.errors import Conflict, SystemProblem
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.members import Member, append, check_rest, members
from ai_infra.tasks.record import Record, TaskRecord, WorkflowRecord, read_fields, read_line
from ai_infra.tasks.task import TaskView, WorkflowView

_NAME = re.compile(r"tasks-(\d{4}-\d\d-\d\d)\.jsonl\.gz")
_LAST = "\U0010ffff"  # sorts behind every character of an id


class Archive:
    """The files of one installation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    # -- writing --------------------------------------------------------------------------------------------

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the one who writes. Raises Conflict when somebody else does, SystemProblem."""
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise system_problem(self.folder, exc) from exc
        lock = FileLock(self.folder / ".lock")
        if not lock.try_acquire():
            raise Conflict(f"{self.folder}: somebody else is writing to the archive; try again in a moment")
        try:
            yield
        finally:
            lock.release()

    def append(self, records: Sequence[Record]) -> None:
        """Add finished tasks and their workflows; on disk when this returns. Only in `writing()`."""
        flows = {record.id: record for record in records if isinstance(record, WorkflowRecord)}
        days: dict[str, list[TaskRecord]] = defaultdict(list)
        for record in records:
            if isinstance(record, TaskRecord):
                days[_day(record.ended_ms)].append(record)
        for day, tasks in days.items():
            named = {task.workflow for task in tasks if task.workflow}
            own = [flows[name].line() for name in sorted(named) if name in flows]
            text = "".join((*own, *(task.line() for task in tasks)))
            append(self.folder / f"tasks-{day}.jsonl.gz", text.encode(), _note(tasks, sorted(named)))

    # -- reading --------------------------------------------------------------------------------------------

    def find(self, text: str, limit: int = 10) -> list[TaskView]:
        """The tasks whose id is `text`, or else begins with it, newest files first."""
        found: dict[TaskId, TaskView] = {}
        for member in self._members("task", text):
            for record in self.read(member):
                if isinstance(record, TaskRecord) and record.id.startswith(text):
                    found[record.id] = record.view(member.path.name)
            if TaskId(text) in found:
                return [found[TaskId(text)]]
            if len(found) >= limit:
                break
        return list(found.values())[:limit]

    def find_workflows(self, text: str) -> dict[WorkflowId, WorkflowView]:
        """The workflows whose id is `text`, or else begins with it, with their tasks that are here."""
        headers: dict[WorkflowId, WorkflowRecord] = {}
        tasks: dict[TaskId, tuple[int, TaskView]] = {}
        for member in reversed(list(self._members("flow", text))):
            for record in self.read(member):
                if isinstance(record, WorkflowRecord) and record.id.startswith(text):
                    headers[record.id] = record
                elif isinstance(record, TaskRecord) and (record.workflow or "").startswith(text):
                    tasks[record.id] = int(record.fields.get("q", 0)), record.view(member.path.name)
        in_order = [view for _, view in sorted(tasks.values(), key=lambda pair: pair[0])]
        wanted = [WorkflowId(text)] if text in headers else list(headers)
        return {
            name: WorkflowView.of(headers[name].header(), [v for v in in_order if v.spec.workflow == name])
            for name in wanted
        }

    def ended(self, since_ms: int = 0) -> Iterator[TaskRecord]:
        """Each task that ended since then once, without spec and result; newest parts first."""
        seen: set[TaskId] = set()
        for path in reversed(self.files()):
            if path.name < f"tasks-{_day(since_ms)}":
                return
            for member in reversed(self._members_of(path)):
                if member.note.get("until", since_ms) < since_ms:
                    continue
                for line in reversed(self._lines(member)):
                    record = read_fields(line)
                    if record and record.ended_ms >= since_ms and record.id not in seen:
                        seen.add(record.id)
                        yield record

    def in_order(self) -> Iterator[Record]:
        """Workflows and tasks, each task once, in the order of their ends. Reads every file twice."""
        everything = [member for path in self.files() for member in self._members_of(path)]
        times = Counter(record.id for member in everything for record in self.read(member))
        for member in everything:
            for record in self.read(member):
                times[record.id] -= 1
                if isinstance(record, WorkflowRecord) or times[record.id] == 0:
                    yield record

    def files(self) -> list[Path]:
        """The files, oldest first."""
        try:
            return sorted(path for path in self.folder.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise system_problem(self.folder, exc) from exc

    def read(self, member: Member) -> list[Record]:
        """The records of one part. Raises SystemProblem when it is damaged."""
        try:
            return [read_line(line) for line in self._lines(member)]
        except ValueError as exc:
            raise _damaged(member, exc) from exc

    def _lines(self, member: Member) -> list[str]:
        try:
            return member.read().decode().splitlines()
        except (ValueError, OSError) as exc:
            raise _damaged(member, exc) from exc

    def _members(self, kind: str, text: str) -> Iterator[Member]:
        """Parts that may hold an id that begins with `text`, newest first."""
        for path in reversed(self.files()):
            for member in reversed(self._members_of(path)):
                first, last = member.note.get(kind) or ("", "")
                if first <= text + _LAST and text <= last:
                    yield member

    def _members_of(self, path: Path) -> list[Member]:
        try:
            found = list(members(path))
            if found:  # else it is none of ours
                check_rest(path, found[-1].start + found[-1].size)
            return found
        except OSError as exc:
            raise system_problem(path, exc) from exc


def _damaged(member: Member, exc: Exception) -> SystemProblem:
    return SystemProblem(f"{member.path}: cannot be read ({exc}); move it away to go on without it")


def _note(tasks: Sequence[TaskRecord], flows: Sequence[str]) -> Mapping[str, Any]:
    """What a part holds: ids from and to, ends from and to."""
    names = [task.id for task in tasks]
    ends = [task.ended_ms for task in tasks]
    note: dict[str, Any] = {
        "task": [min(names), max(names)],
        "since": min(ends),
        "until": max(ends),
        "count": len(names),
    }
    return {**note, "flow": [flows[0], flows[-1]]} if flows else note


def _day(ms: int) -> str:
    return f"{datetime.fromtimestamp(ms / 1000, UTC):%Y-%m-%d}"
