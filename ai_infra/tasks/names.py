"""Names: what a template or a condition may call by name, and the value it gets.

    params.NAME  workflow.id  workflow.dir  task.id     known when the file is read
    item  item.KEY  item.a.b[0]  index                  in a task with for_each, likewise
    tasks.NAME.PART                                     of a task it needs, known when it is claimed

PART: state, exit_code (of the last command), output (the end of it), skipped, result (the value that its
commands handed in), result.a.b[0]. Where NAME has for_each: state (the worst of them) and result (the list).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ai_infra.tasks.jsonpath import value_at
from ai_infra.tasks.template import TemplateError

PARTS = ("state", "exit_code", "output", "skipped", "result")
PARTS_OF_MANY = ("state", "result")
_TASKS = re.compile(r"tasks\.([a-z][a-z0-9_-]*)\.([a-z_]+)((?:\.[^.\[\]]+|\[\d+\])*)")
_ITEM = re.compile(r"item((?:\.[^.\[\]]+|\[\d+\])*)")


class Absent(TemplateError):
    """The name is a right one, but there is no value: the path leads nowhere, nothing was handed in."""


@dataclass(frozen=True, kw_only=True)
class Reference:
    """`tasks.NAME.PART` and a path below it."""

    task: str
    part: str
    path: str = ""

    def __str__(self) -> str:
        return f"tasks.{self.task}.{self.part}{self.path}"


Entry = Mapping[str, Any]  #: of one upstream: its PARTS, `result` only where a value was handed in
Look = Callable[[Reference], Any]


class Names(Mapping[str, str]):
    """Every name and its value, as text; value() gives it as JSON."""

    def __init__(self, values: Mapping[str, Any], look: Look) -> None:
        self._values, self._look = values, look
        self.used: set[str] = set()  #: the known ones that were asked for
        self.late = False  #: whether one was asked for that is known only when the task is claimed

    def value(self, name: str) -> Any:
        """Raises KeyError for a name that does not exist, TemplateError for one that may not be used."""
        if name in self._values:
            self.used.add(name)
            return self._values[name]
        if name.startswith("tasks."):
            self.late = True
            return self._look(read_reference(name))
        if "item" in self._values and (match := _ITEM.fullmatch(name)):
            self.used.add("item")
            return _at(self._values["item"], match[1], name)
        raise KeyError(name)

    def __getitem__(self, name: str) -> str:
        return as_text(self.value(name))

    def __contains__(self, name: object) -> bool:
        """Without looking for the value, which may be absent."""
        return isinstance(name, str) and (
            name in self._values
            or name.startswith("tasks.")
            or ("item" in self._values and _ITEM.fullmatch(name) is not None)
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def read_reference(name: str) -> Reference:
    """What `tasks.…` refers to. Raises TemplateError."""
    match = _TASKS.fullmatch(name)
    if match is None or match[2] not in PARTS:
        raise TemplateError(f"{name}: say tasks.NAME.PART, where PART is one of {', '.join(PARTS)}")
    if match[3] and match[2] != "result":
        raise TemplateError(f"{name}: {match[2]} has nothing below it; only result has")
    return Reference(task=match[1], part=match[2], path=match[3])


def only_names(upstreams: Mapping[str, bool]) -> Look:
    """For reading a file: a reference must name one of `upstreams` (name → whether it has for_each)."""

    def look(found: Reference) -> Any:
        if found.task not in upstreams:
            known = ", ".join(upstreams) or "none"
            raise TemplateError(
                f"{found}: the task does not need {found.task!r}; add it to needs (it has: {known})"
            )
        if upstreams[found.task] and found.part not in PARTS_OF_MANY:
            raise TemplateError(
                f"{found}: {found.task} has for_each, so there are many; known: {', '.join(PARTS_OF_MANY)}"
            )
        return "0"  # stands for any value while the file is checked

    return look


def entries(found: Mapping[str, Entry | Sequence[Entry]]) -> Look:
    """For the claimed task: its upstreams by name, a list of them for one with for_each."""

    def look(wanted: Reference) -> Any:
        entry = found.get(wanted.task)
        if entry is None:
            raise Absent(f"{wanted}: the task does not need {wanted.task!r}")
        if isinstance(entry, Mapping):
            return _part(entry, wanted)
        if wanted.part == "state":
            return _worst([each["state"] for each in entry])
        return _at([each.get("result") for each in entry], wanted.path, str(wanted))

    return look


def _worst(states: Sequence[str]) -> str:
    """One word for many: a failure, else one that is not done, else COMPLETED."""
    for state in ("FAILED", "CANCELLED"):
        if state in states:
            return state
    return next((state for state in states if state != "COMPLETED"), "COMPLETED")


def _part(entry: Entry, wanted: Reference) -> Any:
    if wanted.part not in entry:
        raise Absent(f"{wanted}: {wanted.task} is {entry['state']} and handed in no result")
    value = entry[wanted.part]
    if wanted.part == "output":
        return value.rstrip("\n")  # as bash does in $(…)
    return _at(value, wanted.path, str(wanted))


def _at(value: Any, path: str, name: str) -> Any:
    try:
        return value_at(value, path.removeprefix("."))
    except LookupError as exc:
        raise Absent(f"{name}: {exc}, in {as_text(value)[:200]}") from exc


def as_text(value: Any) -> str:
    """A text as it is; anything else as JSON."""
    if isinstance(value, str):
        return value
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
