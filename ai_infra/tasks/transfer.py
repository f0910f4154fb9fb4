"""Transfer: tasks to a file and back, for another installation, or the same one emptied.

JSON lines: a head with the version of the format, workflows and tasks (see record.py), and an end, so that a
file that was cut is seen. A name that ends in `.gz` means a compressed file.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from ai_infra.core.durable import system_problem
from ai_infra.core.errors import AiInfraError, Conflict, NotFound, UsageError
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.calls import IDS_A_CALL
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.record import (
    Record,
    TaskRecord,
    WorkflowRecord,
    check_task,
    check_workflow,
    read_line,
)
from ai_infra.tasks.task import TERMINAL, State

FORMAT = "tasks"
VERSION = 1
_MAX_LINE = 4 * 1024 * 1024
_WHOSE = re.compile(r"\btask (\S+)")


class ImportProblem(UsageError):
    """A file that cannot be imported; the message names file and line."""


# -- out ----------------------------------------------------------------------------------------------------


async def export_lines(
    engine: Engine, archive: Archive | None = None, states: Collection[State] = ()
) -> AsyncIterator[str]:
    """The lines of an export: all tasks, or those in `states` and what they need; `archive`: its tasks."""
    yield (
        json.dumps({"ai-infra": FORMAT, "version": VERSION, "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"})
        + "\n"
    )
    wanted = await _chosen(engine, states) if states else None
    flows: dict[WorkflowId, WorkflowRecord | None] = {}  # None: it is written
    async for record in _all(engine, archive):
        if isinstance(record, WorkflowRecord):
            flows.setdefault(record.id, record)
        elif wanted is None or record.id in wanted or record.state in states:
            flow = flows.get(record.workflow) if record.workflow else None
            if flow is not None:
                yield flow.line()
                flows[flow.id] = None
            yield record.line()
    yield '{"end":true}\n'


async def _all(engine: Engine, archive: Archive | None) -> AsyncIterator[Record]:
    """Of what is in both, the one in Redis."""
    if archive is not None:
        part: list[Record] = []
        for record in archive.in_order():
            part.append(record)
            if len(part) == IDS_A_CALL:
                for one in await _only_archived(engine, part):
                    yield one
                part = []
        for one in await _only_archived(engine, part):
            yield one
    async for record in engine.records():
        yield record


async def _only_archived(engine: Engine, records: list[Record]) -> list[Record]:
    missing = set(await engine.missing([r.id for r in records if isinstance(r, TaskRecord)]))
    return [r for r in records if isinstance(r, WorkflowRecord) or r.id in missing]


async def _chosen(engine: Engine, states: Collection[State]) -> set[TaskId]:
    """The tasks in these states, and what the open ones among them need, or they could not be open."""
    needs: dict[TaskId, list[TaskId]] = {}
    chosen: list[TaskId] = []
    async for record in engine.records():
        if isinstance(record, TaskRecord):
            is_open = record.state not in TERMINAL
            needs[record.id] = [TaskId(n) for n in record.fields.get("nd", "").split()] if is_open else []
            if record.state in states:
                chosen.append(record.id)
    found: set[TaskId] = set()
    while chosen:
        task = chosen.pop()
        if task not in found:
            found.add(task)
            chosen += needs.get(task, [])
    return found


# -- in -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Imported:
    """What an import did."""

    imported: int
    there: int  #: were here already, and were left alone


async def import_file(engine: Engine, path: Path, agents: Collection[str]) -> Imported:
    """Take in all that the file holds, or nothing. Raises ImportProblem, Conflict, NotFound."""
    lines: dict[TaskId, int] = {}
    flows: dict[WorkflowId, WorkflowRecord] = {}
    wanted: dict[TaskId, int] = {}
    parts: dict[str, int] = {}
    for number, record in _records(path):
        try:
            _check(record, lines, flows, wanted, number, agents)
        except (AiInfraError, ValueError) as exc:
            raise ImportProblem(f"{path}:{number}: {exc}") from exc
        if isinstance(record, TaskRecord) and record.workflow:
            parts.setdefault(record.workflow, number)
    for need in await engine.missing(list(wanted)):
        raise ImportProblem(
            f"{path}:{wanted[TaskId(need)]}: needs task {need}, neither above it in the file nor here"
        )
    for flow in await engine.missing_workflows([name for name in parts if name not in flows]):
        raise ImportProblem(f"{path}:{parts[flow]}: is of workflow {flow}, neither in the file nor here")
    tasks = (record for _, record in _records(path) if isinstance(record, TaskRecord))
    try:
        came, there = await engine.import_records(flows, tasks)
    except (Conflict, NotFound) as exc:
        whose = _WHOSE.search(str(exc))
        line = lines.get(TaskId(whose[1])) if whose else None
        raise type(exc)(f"{path}:{line}: {exc}; nothing was imported" if line else f"{path}: {exc}") from exc
    return Imported(imported=came, there=there)


def _check(
    record: Record,
    lines: dict[TaskId, int],
    flows: dict[WorkflowId, WorkflowRecord],
    wanted: dict[TaskId, int],
    number: int,
    agents: Collection[str],
) -> None:
    if isinstance(record, WorkflowRecord):
        check_workflow(record)
        if flows.setdefault(record.id, record) != record:
            raise UsageError(f"workflow {record.id} comes twice, and differently")
        return
    spec = check_task(record)
    if spec.id in lines:
        raise UsageError(f"task {spec.id} comes twice, first in line {lines[spec.id]}")
    lines[spec.id] = number
    if record.state not in TERMINAL:
        if spec.agent not in agents:
            raise UsageError(f"task {spec.id} is for the agent {spec.agent!r}; there are {', '.join(agents)}")
        wanted.update({need: number for need in spec.needs if need not in lines and need not in wanted})


def _records(path: Path) -> Iterator[tuple[int, Record]]:
    """The records of a file with their lines. Raises ImportProblem."""
    with _opened(path) as file:
        number, ended = 0, False
        while text := _line(path, file, number + 1):
            number += 1
            if ended:
                raise ImportProblem(f"{path}:{number}: stands behind the end line")
            try:
                if number == 1:
                    _check_head(text)
                elif text.rstrip() == '{"end":true}':
                    ended = True
                else:
                    yield number, read_line(text)
            except (ValueError, RecursionError) as exc:
                raise ImportProblem(f"{path}:{number}: {exc or 'nested too deeply'}") from exc
        if not ended:
            raise ImportProblem(
                f"{path}:{number + 1}: the end line is missing; the file was cut, export it again"
            )


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    try:
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
            plain.seek(0)
            with gzip.open(plain) if packed else plain as file:
                yield file  # type: ignore[misc]  # both read bytes
    except FileNotFoundError as exc:
        raise NotFound(f"{path}: no such file") from exc
    except OSError as exc:
        raise system_problem(path, exc) from exc


def _line(path: Path, file: IO[bytes], number: int) -> str:
    try:
        line = file.readline(_MAX_LINE)
        if len(line) == _MAX_LINE:
            raise ImportProblem(f"{path}:{number}: the line is longer than {_MAX_LINE} bytes")
        return line.decode()
    except UnicodeDecodeError as exc:
        raise ImportProblem(f"{path}:{number}: is not UTF-8") from exc
    except (gzip.BadGzipFile, zlib.error, EOFError) as exc:
        raise ImportProblem(f"{path}:{number}: the compressed file is damaged or cut: {exc}") from exc


def _check_head(text: str) -> None:
    head = json.loads(text)
    if (
        not isinstance(head, dict)
        or head.get("ai-infra") != FORMAT
        or not isinstance(head.get("version"), int)
    ):
        raise ValueError("is not the head of an export; `ai-infra task export` writes such files")
    if head["version"] > VERSION:
        raise ValueError(
            f"its format is {head['version']}, this ai-infra reads up to {VERSION}; update this installation"
        )
