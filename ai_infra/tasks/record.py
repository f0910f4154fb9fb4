"""Records: a finished or exported task as one line of JSON, with whatever fields it had in Redis.

    {"task":{"id":…,"s":"COMPLETED","fi":"1795…",…},"spec":{…},"result":{…}}
    {"workflow":{"id":…,"header":{…},"ts":"1795…"}}

The fields are those of the task's hash (see connectors/redis.py), unread: a later version's are kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_infra.core.ids import TaskId, WorkerId, WorkflowId, is_id
from ai_infra.tasks.spec import SpecError, check_spec, dump_json, load_header, load_spec
from ai_infra.tasks.submit import further_fields
from ai_infra.tasks.task import (
    MAX_RESULT_BYTES,
    MAX_VALUE_BYTES,
    TERMINAL,
    State,
    TaskSpec,
    TaskView,
    WorkflowHeader,
)
from ai_infra.tasks.views import read_instant, read_time

_COUNTS = (
    "at",
    "ex",
    "ds",
    "f",
    "q",
    "n",
    "mx",
    "dl",
    "md",
    "p",
    "sc",
    "nb",
    "dd",
    "ts",
    "rd",
    "st",
    "fi",
    "cs",
)  #: whole numbers, where present
#: what few tasks have in their hash, and what its absence means; `x` says that there is some of the others
_FURTHER = {"dl": "1000", "md": "60000", "nb": "", "dd": "", "ky": "", "lk": "", "un": ""}
_MOST_FIELDS = 100
_NEEDED = ("s", "a", "p", "mx", "r", "at", "nm", "ts")
_MOST_RESULT = MAX_RESULT_BYTES + MAX_VALUE_BYTES + 100  #: with what a task handed in
_TASK_LINE = '{"task":'
_DECODER = json.JSONDecoder()


@dataclass(frozen=True, kw_only=True)
class TaskRecord:
    """One task."""

    id: TaskId
    fields: Mapping[str, str]  #: its hash
    spec_text: str
    result_text: str | None

    @property
    def state(self) -> State:
        """Where it stood."""
        return State(self.fields["s"])

    @property
    def ended_ms(self) -> int:
        """When it ended; 0: it had not."""
        return int(self.fields.get("fi", 0)) if self.state in TERMINAL else 0

    @property
    def workflow(self) -> WorkflowId | None:
        """Whose part it is."""
        flow = self.fields.get("wf")
        return WorkflowId(flow) if flow else None

    def line(self) -> str:
        """As it is written, with its newline."""
        head = dump_json({"id": self.id, **self.fields})
        result = "" if self.result_text is None else f',"result":{self.result_text}'
        return f'{{"task":{head},"spec":{self.spec_text}{result}}}\n'

    def view(self, archive: str | None = None) -> TaskView:
        """As commands show it; `archive` names the file it comes from."""
        fields = self.fields
        worker = fields.get("w")
        return TaskView(
            spec=load_spec(self.spec_text),
            state=self.state,
            attempt=int(fields["at"]),
            worker=WorkerId(worker) if worker else None,
            created_at=read_instant(fields["ts"]),
            ready_at=read_time(fields.get("rd")),
            started_at=read_time(fields.get("st")),
            finished_at=read_time(fields.get("fi")),
            error=fields.get("er"),
            result=None if self.result_text is None else json.loads(self.result_text),
            open_needs=0,
            waits=(),
            excused=int(fields.get("ex", 0)),
            deaths=int(fields.get("ds", 0)),
            archive=archive,
        )


@dataclass(frozen=True, kw_only=True)
class WorkflowRecord:
    """What a workflow is, beside its tasks."""

    id: WorkflowId
    header_text: str
    created_ms: str

    def line(self) -> str:
        """As it is written, with its newline."""
        name = dump_json(self.id)
        return f'{{"workflow":{{"header":{self.header_text},"id":{name},"ts":"{self.created_ms}"}}}}\n'

    def header(self) -> WorkflowHeader:
        """As commands show it."""
        return load_header(self.header_text)


Record = TaskRecord | WorkflowRecord


def read_rows(rows: Sequence[Any], flows: Sequence[Any]) -> list[Record]:
    """From the `rows` and `flows` of connectors/engine/archive.lua; workflows first."""
    found: list[Record] = [WorkflowRecord(id=id, header_text=text, created_ms=ts) for id, text, ts in flows]
    for id, flat, spec, result in rows:
        fields = {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
        found.append(TaskRecord(id=id, fields=fields, spec_text=spec, result_text=result))
    return found


def read_line(text: str) -> Record:
    """What a line holds; nothing of it is checked but its form. Raises ValueError saying what is wrong."""
    data = json.loads(text)
    if not isinstance(data, dict):
        raise ValueError("is not a JSON object")
    if isinstance(flow := data.get("workflow"), dict) and data.keys() == {"workflow"}:
        if set(flow) != {"id", "header", "ts"} or not all(isinstance(flow[k], str) for k in ("id", "ts")):
            raise ValueError("its workflow does not hold id, header and ts")
        return WorkflowRecord(id=flow["id"], header_text=dump_json(flow["header"]), created_ms=flow["ts"])
    fields = data.get("task")
    if not isinstance(fields, dict) or not data.keys() <= {"task", "spec", "result"} or "spec" not in data:
        raise ValueError("is neither a task nor a workflow")
    if not all(isinstance(value, str) for value in fields.values()) or "id" not in fields:
        raise ValueError("its task holds something that is no text, or has no id")
    id = TaskId(fields.pop("id"))
    result = dump_json(data["result"]) if "result" in data else None
    return TaskRecord(id=id, fields=fields, spec_text=dump_json(data["spec"]), result_text=result)


def read_fields(line: str) -> TaskRecord | None:
    """The task of a line that line() wrote, without spec and result, which cost most; or None."""
    if not line.startswith(_TASK_LINE):
        return None
    fields, _ = _DECODER.raw_decode(line, len(_TASK_LINE))
    return TaskRecord(id=TaskId(fields.pop("id")), fields=fields, spec_text="", result_text=None)


def check_workflow(record: WorkflowRecord) -> None:
    """Raise ValueError unless it may come in from outside."""
    header = record.header()
    if not is_id(record.id) or header.id != record.id:
        raise SpecError(f"workflow {record.id!r}: its id is none, or not that of its header")
    if not _is_count(record.created_ms):
        raise SpecError(f"workflow {record.id}: ts is not an instant in ms")


def check_task(record: TaskRecord) -> TaskSpec:
    """The spec of a task that may come in from outside. Raises UsageError naming the task and the field."""
    spec = load_spec(record.spec_text)
    check_spec(spec)
    fields, who = record.fields, f"task {record.id}"
    if len(fields) > _MOST_FIELDS:
        raise SpecError(f"{who}: has {len(fields)} fields, more than {_MOST_FIELDS}")
    if missing := [name for name in _NEEDED if name not in fields]:
        raise SpecError(f"{who}: the field {missing[0]!r} is missing")
    if fields["s"] not in list(State):
        raise SpecError(f"{who}: {fields['s']!r} is no state of a task")
    for name in _COUNTS:
        if name in fields and not _is_count(fields[name]):
            raise SpecError(f"{who}: the field {name!r} is not a whole number")
    if record.state in TERMINAL and "fi" not in fields:
        raise SpecError(f"{who}: is {record.state} without the instant of its end ('fi')")
    _check_same(record, spec)
    _check_special(record, spec)
    result = record.result_text
    if result is not None and (len(result) > _MOST_RESULT or not result.startswith("{")):
        raise SpecError(f"{who}: its result is no JSON object of at most {_MOST_RESULT} bytes")
    return spec


def _check_same(record: TaskRecord, spec: TaskSpec) -> None:
    """The engine looks at the fields, the agent at the spec: they must say the same."""
    told = {
        "id": (record.id, spec.id),
        "a": (record.fields["a"], spec.agent),
        "nm": (record.fields["nm"], spec.name),
        "p": (record.fields["p"], str(spec.priority)),
        "mx": (record.fields["mx"], str(spec.max_attempts)),
        "r": (record.fields["r"], spec.needs_rule.value),
        "wf": (record.fields.get("wf", ""), spec.workflow or ""),
        "nd": (record.fields.get("nd", ""), " ".join(spec.needs)),
    }
    further = further_fields(spec)
    set_by_spec = {str(further[i]): str(further[i + 1]) for i in range(0, len(further), 2)}
    for name, usual in _FURTHER.items():
        told[name] = record.fields.get(name, usual), set_by_spec.get(name, usual)
    for name, (field, said) in told.items():
        if field != said:
            raise SpecError(f"task {spec.id}: the field {name!r} is {field!r}, its spec says {said!r}")


def _check_special(record: TaskRecord, spec: TaskSpec) -> None:
    """What only few tasks have, and undo.lua takes for granted."""
    fields, who = record.fields, f"task {record.id}"
    marks = fields.get("ua", "")
    rare = spec.not_before or spec.deadline_at or spec.key or spec.locks or spec.undo or marks
    if rare and "x" not in fields:
        raise SpecError(f"{who}: the field 'x' is missing")
    if not set(marks) <= set("ufarl" if spec.workflow else "uf"):
        raise SpecError(f"{who}: the field 'ua' is {marks!r}, which is no mark of such a task")
    if "cs" in fields and not spec.undo:
        raise SpecError(f"{who}: the field 'cs' is there, but its spec has no undo")


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 17
