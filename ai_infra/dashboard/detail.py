"""One task in detail: why it stands where it does, what ran, what was checked, how to run it again. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from ai_infra.dashboard.clean import clean, output_line, wrap
from ai_infra.dashboard.ink import Line, Page, Style, ink, join
from ai_infra.dashboard.waiting import deadline_words, waits_for
from ai_infra.dashboard.words import clock, command_lines, duration, size, task_line
from ai_infra.tasks.task import Command, State, TaskView

TAIL_LINES = 20
MAX_TAIL_CHARS = 8000
MAX_NAMED = 5
MAX_VALUE_CHARS = 400
_LABEL = 11


def task_detail(task: TaskView, width: int = 80, *, now: datetime | None = None) -> Page:
    """What `ai-infra task show ID` prints."""
    at = now or datetime.now(UTC)
    result = task.result or {}
    lines = [
        join([ink(task.name, Style.BOLD), task_line(task), ink(task.spec.description, Style.DIM)]),
        *_said("id", task.id, width),
        *_said("agent", f"{task.agent} (worker {task.worker})" if task.worker else task.agent, width),
        *_said("workflow", task.spec.workflow or "", width),
        *_said("undoes", task.spec.undo_of or "", width),
        *_said("why", why(task, at), width),
        *_said("deadline", deadline_words(task, at), width),
        *_said("locks", ", ".join(task.spec.locks), width),
        *_said("key", task.spec.key or "", width),
        *_said("attempt", f"{task.attempt} of {task.last_attempt}" if task.attempt else "", width),
        *_said("times", _times(task, at), width),
        *_said("archive", f"{task.archive}: Redis has it no more" if task.archive else "", width),
        *_commands(task, result),
        *_undo(task),
        *_checks(result),
        *_value(result, width),
        *_said("log", str(result.get("log_path") or result.get("log") or ""), width),
        *_tail(result),
        *_again(task),
    ]
    return Page(tuple(line.cut(width) for line in lines))


def why(task: TaskView, now: datetime) -> str:
    """Why the task is in its state, in words."""
    match task.state:
        case State.BLOCKED | State.PENDING:
            return waits_for(task, now)
        case State.READY:
            return waits_for(task, now) + (f"; before: {task.error}" if task.error else "")
        case State.ASSIGNED:
            return f"handed to {task.worker}, which has not begun"
        case State.IN_PROGRESS:
            return f"{task.worker} runs it" + (f"; before: {task.error}" if task.error else "")
        case State.COMPLETED:
            return str((task.result or {}).get("why", "")) if task.skipped else ""
        case _:
            return task.error or "no reason is recorded"


def _said(label: str, text: str, width: int) -> list[Line]:
    """A label and its text, in as many lines as it takes; nothing for an empty text."""
    pieces = wrap(clean(text), max(10, width - _LABEL))
    labels = [label] + [""] * len(pieces)
    return [_labelled(name, ink(piece)) for name, piece in zip(labels, pieces, strict=False)]


def _labelled(label: str, text: Line) -> Line:
    return ink(f"  {label}", Style.DIM).pad(_LABEL) + text


def _times(task: TaskView, now: datetime) -> str:
    told = [f"created {clock(task.created_at)} ({duration((now - task.created_at).total_seconds())} ago)"]
    if task.ready_at and task.started_at and task.started_at >= task.ready_at:
        told.append(f"waited {duration((task.started_at - task.ready_at).total_seconds())}")
    if task.started_at and task.finished_at and task.finished_at >= task.started_at:
        told.append(f"ran {duration((task.finished_at - task.started_at).total_seconds())}")
    elif task.started_at and task.state is State.IN_PROGRESS:
        told.append(
            f"runs for {duration((now - task.started_at).total_seconds())} of {task.spec.timeout_s:g}s"
        )
    return ", ".join(told)


def _commands(task: TaskView, result: Mapping[str, Any]) -> list[Line]:
    codes, took = _listed(result, "exit_codes"), _listed(result, "durations_s")
    lines: list[Line] = []
    for i, command in enumerate(task.spec.run):
        end = Line()
        if i < len(codes):
            end = ink(f"exit {codes[i]}", Style.GOOD if codes[i] == 0 else Style.BAD)
            if i < len(took) and isinstance(took[i], int | float):
                end = join([end, ink(duration(took[i]), Style.DIM)], " ")
        lines += _command("" if i else "run", end, command)
    return lines


def _undo(task: TaskView) -> list[Line]:
    return [
        line
        for i, command in enumerate(task.spec.undo)
        for line in _command("" if i else "undo", Line(), command)
    ]


def _command(label: str, end: Line, command: Command) -> list[Line]:
    """A script with its lines below each other."""
    first, *rest = command_lines(command if isinstance(command, str) else shlex.join(command))
    return [_labelled(label, join([end, ink(first)])), *(_labelled("", ink(f"  {line}")) for line in rest)]


def _checks(result: Mapping[str, Any]) -> list[Line]:
    lines: list[Line] = []
    for check in _listed(result, "checks"):
        if not isinstance(check, Mapping):
            continue
        mark = ink("✓ ", Style.GOOD) if check.get("ok") else ink("✗ ", Style.BAD)
        found = check.get("evidence", "") if not check.get("ok") else ""
        shown = mark + ink(check.get("what", "?")) + ink(f": {found}" if found else "")
        lines.append(_labelled("" if lines else "checks", shown))
    return lines


def _value(result: Mapping[str, Any], width: int) -> list[Line]:
    """What the commands handed in, in short."""
    if "value" not in result:
        return []
    text = json.dumps(result["value"], ensure_ascii=False)
    return _said("result", text if len(text) <= MAX_VALUE_CHARS else f"{text[:MAX_VALUE_CHARS]}…", width)


def _tail(result: Mapping[str, Any]) -> list[Line]:
    written = str(result.get("output_tail") or "")[-MAX_TAIL_CHARS:].rstrip("\n").split("\n")
    shown = [output_line(line) for line in written[-TAIL_LINES:] if line or len(written) > 1]
    if not shown:
        return []
    total = result.get("output_bytes")
    head = f"the last {len(shown)} line{'s' if len(shown) > 1 else ''}"
    if isinstance(total, int):
        head += f" of {size(total)}{' bytes' if total < 1024 else ''}"
    return [
        _labelled("output", ink(head, Style.DIM)),
        *(ink("  │ ", Style.DIM) + ink(line) for line in shown),
    ]


def _again(task: TaskView) -> list[Line]:
    if task.archive or task.state not in (State.FAILED, State.CANCELLED):
        return []
    return [_labelled("again", ink(f"ai-infra task retry {task.id}", Style.BOLD))]


def _listed(result: Mapping[str, Any], key: str) -> list[Any]:
    """A list of the result; the worker that handed it in may have put anything there."""
    found = result.get(key)
    return found if isinstance(found, list) else []
