"""Specs: checked before they are written, and their stored form (JSON, keys sorted, defaults left out).

The text is canonical: equal specs give equal text, so a submit repeated after a lost answer is recognised.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ai_infra.core.errors import UsageError
from ai_infra.core.ids import AgentName, TaskId, WorkflowId, is_id, is_name
from ai_infra.tasks.retry import rule_problem
from ai_infra.tasks.task import (
    MAX_PRIORITY,
    MAX_SPEC_BYTES,
    MIN_PRIORITY,
    Command,
    Expect,
    NeedsRule,
    TaskSpec,
    WorkflowHeader,
)

_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_NEEDS = 5000
_MAX_RULES = 20  #: of one list; each may be a search of seconds
_MAX_LOCKS = 20
UNDO_SUFFIX = ".undo"


class SpecError(UsageError):
    """A task is not well formed; the message names the task and the field."""


def check_spec(spec: TaskSpec) -> None:
    """Raise SpecError unless `spec` may be submitted."""
    if not is_id(spec.id):
        raise SpecError(
            f"task id {spec.id!r}: use up to 80 letters, digits and _ . : - (first a letter or digit)"
        )
    for field, problem in _problems(spec):
        raise SpecError(f"task {spec.id}: {field} {problem}")


def _problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = _name_problems(spec) + _number_problems(spec) + _time_problems(spec) + _claim_problems(spec)
    if spec.kind != "run":
        found.append(("kind", f"{spec.kind!r} is not known; known: run"))
    if not spec.run:
        found.append(("run", "is empty; give at least one command"))
    found += [("run", problem) for command in spec.run if (problem := command_problem(command))]
    found += [("env", problem) for name, value in spec.env.items() if (problem := env_problem(name, value))]
    if spec.values is None:  # else they are checked when they are filled
        found += [("expect", p) for e in spec.expect if (p := expect_problem(e))]
    return found + _retry_problems(spec) + _late_problems(spec) + undo_problems(spec)


def _name_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    if not spec.name or len(spec.name) > 120 or not spec.name.isprintable():
        found.append(("name", "must be 1 to 120 printable characters"))
    if not is_name(spec.agent):
        found.append(("agent", f"{spec.agent!r} is not a name ([a-z][a-z0-9_-]*)"))
    if spec.workflow is not None and not is_id(spec.workflow):
        found.append(("workflow", f"{spec.workflow!r} is not an id"))
    if len(set(spec.needs)) != len(spec.needs):
        found.append(("needs", "names an upstream twice"))
    if len(spec.needs) > _MAX_NEEDS:
        found.append(("needs", f"names more than {_MAX_NEEDS} upstreams"))
    found += [("needs", f"{need!r} is not an id") for need in spec.needs if not is_id(need)]
    return found


def _number_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    if not MIN_PRIORITY <= spec.priority <= MAX_PRIORITY:
        found.append(("priority", f"{spec.priority} is outside {MIN_PRIORITY} to {MAX_PRIORITY}"))
    if not 1 <= spec.max_attempts <= 100:
        found.append(("max_attempts", f"{spec.max_attempts} is outside 1 to 100"))
    if not (math.isfinite(spec.timeout_s) and spec.timeout_s > 0):
        found.append(("timeout_s", f"{spec.timeout_s} is not a number above 0"))
    for name in ("retry_delay_s", "retry_max_delay_s"):
        value = getattr(spec, name)
        if not (math.isfinite(value) and value >= 0):
            found.append((name, f"{value} is not a number of 0 or more"))
    return found


def _time_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    for name in ("not_before", "deadline_at"):
        value = getattr(spec, name)
        if value is not None and value.tzinfo is None:
            found.append((name, f"{value} has no time zone"))
    if not found and spec.not_before and spec.deadline_at and spec.deadline_at <= spec.not_before:
        found.append(("deadline_at", "is not after not_before, so the task could never run"))
    return found


def _claim_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    if spec.key is not None and not is_id(spec.key):
        found.append(
            ("key", f"{spec.key!r}: use up to 80 letters, digits and _ . : - (first a letter or digit)")
        )
    if spec.key is not None and spec.workflow is not None:
        found.append(("key", "is for single tasks, not for those of a workflow"))
    found += [
        ("locks", f"{name!r} is not a name ([a-z][a-z0-9_-]*)") for name in spec.locks if not is_name(name)
    ]
    if len(set(spec.locks)) != len(spec.locks) or len(spec.locks) > _MAX_LOCKS:
        found.append(("locks", f"must be up to {_MAX_LOCKS} different names"))
    return found


def _retry_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    if spec.soft_timeout_s is not None and not 0 < spec.soft_timeout_s < spec.timeout_s:
        found.append(
            ("soft_timeout_s", f"{spec.soft_timeout_s:g} is not below timeout_s, {spec.timeout_s:g}")
        )
    for name in ("retry_only_for", "retry_not_for"):
        rules = getattr(spec, name)
        if len(rules) > _MAX_RULES:
            found.append((name, f"holds {len(rules)} rules, more than {_MAX_RULES}"))
        found += [(name, problem) for rule in rules if (problem := rule_problem(rule))]
    return found


def _late_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    found = []
    for name, where in spec.inputs.items():
        fits = len(where) == 1 and 0 <= where[0] < len(spec.needs)
        if not fits and not (len(where) == 2 and 0 <= where[0] <= where[1] <= len(spec.needs)):
            found.append(("inputs", f"{name!r} is {where!r}, which is no place or range of needs"))
    if spec.when is not None and (spec.values is None or not spec.when.strip()):
        found.append(("when", "needs a condition, and values"))
    return found


def env_problem(name: str, value: str) -> str | None:
    """Why a variable cannot be set, or None."""
    if not _ENV_NAME.fullmatch(name):
        return f"{name!r} is not a variable name"
    return f"{name} holds a NUL byte" if "\0" in value else None


def undo_problems(spec: TaskSpec) -> list[tuple[str, str]]:
    """What is wrong with its undo commands, and with what is kept for the task that runs them."""
    found = [("undo", problem) for command in spec.undo if (problem := command_problem(command))]
    if spec.undo_of is not None and (spec.undo or spec.id != undo_id(spec.undo_of)):
        found.append(("undo_of", "is for tasks that the engine makes; leave it out"))
    if spec.undo_of is None and spec.id.endswith(UNDO_SUFFIX):
        found.append(("id", f"ends with {UNDO_SUFFIX}, which is kept for tasks that undo others"))
    if spec.undo_on_failure and not spec.undo:
        found.append(("undo_on_failure", "says when to run undo, and there is none"))
    if spec.undo and spec.workflow is None:
        found.append(("undo", "is for tasks of a workflow"))
    if spec.undo and not is_id(undo_id(spec.id)):
        found.append(("id", f"is too long: {undo_id(spec.id)} must be an id, too"))
    if spec.undo and len(spec.name) > 115:
        found.append(("name", "must be at most 115 characters in a task with undo"))
    return found


def undo_id(task: TaskId) -> TaskId:
    """The id of the task that undoes `task`."""
    return TaskId(task + UNDO_SUFFIX)


def command_problem(command: Command) -> str | None:
    """Why `command` cannot be run, or None."""
    words = (command,) if isinstance(command, str) else command
    if not words or not words[0].strip():
        return "holds an empty command"
    return "holds a NUL byte" if any("\0" in word for word in words) else None


def expect_problem(expect: Expect) -> str | None:
    """Why `expect` cannot be checked, or None."""
    if expect.output_matches is not None:
        try:
            re.compile(expect.output_matches)
        except re.error as exc:
            return f"output_matches {expect.output_matches!r} is not a regular expression: {exc}"
    if expect.file is not None and (not expect.file or "\0" in expect.file):
        return "file is not a path"
    return command_problem(expect.command) if expect.command is not None else None


def dump_spec(spec: TaskSpec) -> str:
    """The stored form of `spec`; raises SpecError over MAX_SPEC_BYTES."""
    data: dict[str, Any] = {"id": spec.id, "name": spec.name, "agent": spec.agent, "run": spec.run}
    for name, (_, default) in _OPTIONAL.items():
        value = getattr(spec, name)
        if value != default:
            data[name] = value.isoformat() if isinstance(value, datetime) else value
    if spec.expect:
        data["expect"] = [_dump_expect(e) for e in spec.expect]
    if spec.env:
        data["env"] = dict(spec.env)
    text = dump_json(data)
    if len(text) > MAX_SPEC_BYTES:
        raise SpecError(
            f"task {spec.id}: {len(text)} bytes, more than {MAX_SPEC_BYTES}; put the text in a file"
        )
    return text


def dump_json(value: Any) -> str:
    """Compact ASCII JSON with sorted keys."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as exc:
        raise SpecError(f"not JSON: {exc}") from exc


def _dump_expect(expect: Expect) -> dict[str, Any]:
    data = {k: v for k, v in vars(expect).items() if v is not None}
    if expect.json_path is not None:
        data["equals"] = expect.equals
    return data


# name: (type of the JSON value, default); what is at its default is not written
_OPTIONAL: dict[str, tuple[type | tuple[type, ...], Any]] = {
    "kind": (str, "run"),
    "priority": (int, 5),
    "timeout_s": ((int, float), 300.0),
    "max_attempts": (int, 4),
    "needs": (list, ()),
    "needs_rule": (str, NeedsRule.ALL_SUCCEEDED),
    "workflow": (str, None),
    "description": (str, ""),
    "cwd": (str, None),
    "retry_delay_s": ((int, float), 1.0),
    "retry_max_delay_s": ((int, float), 60.0),
    "not_before": (str, None),
    "deadline_at": (str, None),
    "key": (str, None),
    "locks": (list, ()),
    "retry_only_for": (list, ()),
    "retry_not_for": (list, ()),
    "soft_timeout_s": ((int, float), None),
    "inputs": (dict, {}),
    "values": (dict, None),
    "when": (str, None),
    "undo": (list, ()),
    "undo_on_failure": (bool, False),
    "undo_of": (str, None),
}
_REQUIRED: dict[str, type] = {"id": str, "name": str, "agent": str, "run": list}
_EXPECT: dict[str, type | tuple[type, ...]] = {
    "exit_code": int,
    "output_matches": str,
    "file": str,
    "json_path": str,
    "equals": object,
    "command": (str, list),
}
_KNOWN = {*_REQUIRED, *_OPTIONAL, "expect", "env"}


def load_spec(text: str) -> TaskSpec:
    """The spec that `text` stores; raises SpecError for anything dump_spec() would not have written."""
    try:
        data = json.loads(text)
    except ValueError as exc:
        raise SpecError(f"stored task is not JSON: {exc}") from exc
    if not isinstance(data, dict):
        raise SpecError("stored task is not a JSON object")
    who = data.get("id", "?")
    if unknown := data.keys() - _KNOWN:
        raise SpecError(f"stored task {who}: unknown field {min(unknown)!r}")
    values = {name: _typed(data, name, kind, who) for name, kind in _REQUIRED.items()}
    for name, (kind, _) in _OPTIONAL.items():
        if name in data:
            values[name] = _typed(data, name, kind, who)
    return _build(values, data, who)


def _build(values: dict[str, Any], data: dict[str, Any], who: str) -> TaskSpec:
    values["id"], values["agent"] = TaskId(values["id"]), AgentName(values["agent"])
    values["run"] = tuple(_command(c, who) for c in values["run"])
    if "needs" in values:
        values["needs"] = tuple(TaskId(n) for n in _strings(values["needs"], "needs", who))
    if "needs_rule" in values:
        values["needs_rule"] = _rule(values["needs_rule"], who)
    if "workflow" in values:
        values["workflow"] = WorkflowId(values["workflow"])
    if "undo" in values:
        values["undo"] = tuple(_command(c, who) for c in values["undo"])
    if "undo_of" in values:
        values["undo_of"] = TaskId(values["undo_of"])
    if "locks" in values:
        values["locks"] = tuple(_strings(values["locks"], "locks", who))
    for name in ("not_before", "deadline_at"):
        if name in values:
            values[name] = _instant(values[name], name, who)
    for name in ("timeout_s", "retry_delay_s", "retry_max_delay_s", "soft_timeout_s"):
        if name in values:
            values[name] = float(values[name])
    for name in ("retry_only_for", "retry_not_for"):
        if name in values:
            values[name] = tuple(_strings(values[name], name, who))
    if "inputs" in values:
        values["inputs"] = {name: _places(where, who) for name, where in values["inputs"].items()}
    if "env" in data:
        values["env"] = _string_map(data["env"], "env", who)
    if "expect" in data:
        values["expect"] = tuple(_expect(e, who) for e in _typed(data, "expect", list, who))
    return TaskSpec(**values)


def _typed(data: Mapping[str, Any], name: str, kind: type | tuple[type, ...], who: str) -> Any:
    value = data.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind not in (bool, object)):
        raise SpecError(f"stored task {who}: field {name!r} is missing or of the wrong type")
    return value


def _rule(text: str, who: str) -> NeedsRule:
    try:
        return NeedsRule(text)
    except ValueError as exc:
        raise SpecError(f"stored task {who}: unknown needs_rule {text!r}") from exc


def _instant(text: str, name: str, who: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError as exc:
        raise SpecError(f"stored task {who}: field {name!r} is no instant: {text!r}") from exc


def _command(value: Any, who: str) -> Command:
    return value if isinstance(value, str) else tuple(_strings(value, "run", who))


def _strings(value: Any, name: str, who: str) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
        raise SpecError(f"stored task {who}: field {name!r} is not a list of strings")
    return value


def _places(value: Any, who: str) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(v) is int for v in value):
        raise SpecError(f"stored task {who}: field 'inputs' is not a map of places")
    return tuple(value)


def _string_map(value: Any, name: str, who: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise SpecError(f"stored task {who}: field {name!r} is not a map of strings")
    return value


def _expect(value: Any, who: str) -> Expect:
    if not isinstance(value, dict) or value.keys() - _EXPECT.keys():
        raise SpecError(f"stored task {who}: field 'expect' is not a list of checks")
    for name, kind in _EXPECT.items():
        if name in value:
            _typed(value, name, kind, who)
    if isinstance(value.get("command"), list):
        value = {**value, "command": tuple(_strings(value["command"], "command", who))}
    return Expect(**value)


def dump_header(header: WorkflowHeader) -> str:
    """The stored form of `header`."""
    data = {**vars(header), "params": dict(header.params)}
    if not header.atomic:
        del data["atomic"]
    return dump_json(data)


def load_header(text: str) -> WorkflowHeader:
    """The header that `text` stores."""
    try:
        return WorkflowHeader(**json.loads(text))
    except (ValueError, TypeError) as exc:
        raise SpecError(f"stored workflow is not readable: {exc}") from exc
