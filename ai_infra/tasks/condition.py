"""Conditions: the text of `when:`, read once when the file is, evaluated when the task is claimed. No eval.

    tasks.scan.result.count > 0 and params.mode != "fast"
    tasks.build.state == "COMPLETED" or not tasks.build.skipped
    item.kind in ["a", "b"] and (params.n >= 3 or params.force == true)

    condition = both {"or" both}        both = one {"and" one}        one = "not" one | value [compare value]
    compare   = == != < <= > >= in "not in"
    value     = "text" 'text' 3 -0.5 true false null [value, …] a name of names.py, or (condition)

Values are JSON. == and != take any two; 1 is 1.0, but true is not 1. < and its kin take two numbers or two
texts. `in` looks into a list, or for a text in a text. Parameters are texts: compared with a number, true or
false, one is read as that. A value alone is a condition only when it is true or false; null is false. A path
that leads nowhere is null. Anything else is an error, which fails the task.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ai_infra.tasks.condition_text import (
    Compare,
    ConditionError,
    Items,
    Literal,
    Logic,
    Name,
    Node,
    error_at,
    read,
)
from ai_infra.tasks.jsonpath import same
from ai_infra.tasks.names import Absent, Names, as_text
from ai_infra.tasks.template import TemplateError

__all__ = ["Condition", "ConditionError", "read_condition"]

_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """A condition that was read."""

    text: str
    root: Node
    names: tuple[tuple[str, int], ...] = field(repr=False)  #: every name in it, and where it stands

    def check(self, names: Names) -> None:
        """Raise ConditionError for a name that does not exist or may not be used."""
        for name, at in self.names:
            try:
                names.value(name)
            except KeyError as exc:
                raise error_at(at, f"unknown name {name!r}; texts stand in quotes") from exc
            except Absent:
                continue  # it is null
            except TemplateError as exc:
                raise error_at(at, str(exc)) from exc

    def holds(self, names: Names) -> bool:
        """Whether it is true. Raises ConditionError."""
        return _truth(self.root, names)

    def why(self, names: Names) -> str:
        """The values that its names have, in words."""
        told = [f"{name} is {as_text(_value_of(name, names))[:80]}" for name, _ in self.names[:4]]
        return "; ".join(dict.fromkeys(told))


def read_condition(text: str) -> Condition:
    """Parse. Raises ConditionError."""
    root, names = read(text)
    return Condition(text, root, tuple(names))


def _value_of(name: str, names: Names) -> Any:
    try:
        return names.value(name)
    except (Absent, KeyError):
        return None


def _evaluate(node: Node, names: Names) -> Any:
    match node:
        case Literal():
            return node.value
        case Name():
            return _value_of(node.name, names)
        case Items():
            return [_evaluate(each, names) for each in node.values]
        case Compare():
            return _compare(node, names)
        case Logic():
            return _logic(node, names)


def _logic(node: Logic, names: Names) -> bool:
    if node.word == "not":
        return not _truth(node.parts[0], names)
    found = (_truth(part, names) for part in node.parts)
    return all(found) if node.word == "and" else any(found)


def _truth(node: Node, names: Names) -> bool:
    value = _evaluate(node, names)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise error_at(node.at, f"{as_text(value)[:80]} is neither true nor false; compare it with something")


def _compare(node: Compare, names: Names) -> bool:
    left, right = _evaluate(node.left, names), _evaluate(node.right, names)
    left, right = _read_param(node.left, left, right), _read_param(node.right, right, left)
    match node.sign:
        case "==" | "!=":
            return same(left, right) is (node.sign == "==")
        case "in" | "not in":
            return _within(node, left, right) is (node.sign == "in")
    if not (_is_number(left) and _is_number(right)) and not (
        isinstance(left, str) and isinstance(right, str)
    ):
        raise error_at(
            node.at, f"{node.sign} takes two numbers or two texts, not {_short(left)} and {_short(right)}"
        )
    return _ORDER[node.sign](left, right)


def _within(node: Compare, left: Any, right: Any) -> bool:
    if isinstance(right, list):
        return any(same(_read_param(node.left, left, each), each) for each in right)
    if isinstance(left, str) and isinstance(right, str):
        return left in right
    raise error_at(
        node.at, f"in looks into a list, or for a text in a text, not for {_short(left)} in {_short(right)}"
    )


def _read_param(node: Node, value: Any, other: Any) -> Any:
    """A parameter is a text; beside a number, true or false it is read as one, if it is one."""
    is_param = isinstance(node, Name) and node.name.startswith("params.")
    if not is_param or not (isinstance(other, bool) or _is_number(other)):
        return value
    try:
        read = json.loads(value)
    except ValueError:
        return value
    return read if isinstance(read, bool | int | float) else value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    return json.dumps(value)[:60]
