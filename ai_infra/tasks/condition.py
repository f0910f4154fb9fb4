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
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ai_infra.tasks.jsonpath import same
from ai_infra.tasks.names import Absent, Names, as_text
from ai_infra.tasks.template import TemplateError

MAX_CHARS = 2000
MAX_DEPTH = 50
_TOKEN = re.compile(
    r"""(?P<sign>==|!=|<=|>=|[<>()\[\],])
      | (?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])
      | (?P<word>[A-Za-z_][\w.-]*(?:\[\d+\][\w.-]*)*)""",
    re.VERBOSE | re.ASCII | re.DOTALL,
)
_WORDS: Mapping[str, Any] = {"true": True, "false": False, "null": None}
_KEYWORDS = ("and", "or", "not", "in")
_ORDER: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_COMPARE = ("==", "!=", *_ORDER, "in", "not in")


class ConditionError(ValueError):
    """What is wrong with a condition, and where; the caller adds file and line, or the task."""


class _Token(NamedTuple):
    kind: str  #: sign, text, number, word, end
    text: str
    at: int  #: 1-based

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text in words


@dataclass(frozen=True)
class _Literal:
    value: Any
    at: int


@dataclass(frozen=True)
class _Name:
    name: str
    at: int


@dataclass(frozen=True)
class _Items:
    values: tuple[_Node, ...]
    at: int


@dataclass(frozen=True)
class _Compare:
    left: _Node
    sign: str
    right: _Node
    at: int


@dataclass(frozen=True)
class _Logic:
    word: str  #: and, or, not
    parts: tuple[_Node, ...]
    at: int


_Node = _Literal | _Name | _Items | _Compare | _Logic


@dataclass(frozen=True)
class Condition:
    """A condition that was read."""

    text: str
    root: _Node
    names: tuple[tuple[str, int], ...] = field(repr=False)  #: every name in it, and where it stands

    def check(self, names: Names) -> None:
        """Raise ConditionError for a name that does not exist or may not be used."""
        for name, at in self.names:
            try:
                names.value(name)
            except KeyError as exc:
                raise _error(at, f"unknown name {name!r}; texts stand in quotes") from exc
            except Absent:
                continue  # it is null
            except TemplateError as exc:
                raise _error(at, str(exc)) from exc

    def holds(self, names: Names) -> bool:
        """Whether it is true. Raises ConditionError."""
        return _truth(self.root, names)

    def why(self, names: Names) -> str:
        """The values that its names have, in words."""
        told = [f"{name} is {as_text(_value_of(name, names))[:80]}" for name, _ in self.names[:4]]
        return "; ".join(dict.fromkeys(told))


def read_condition(text: str) -> Condition:
    """Parse. Raises ConditionError."""
    if len(text) > MAX_CHARS:
        raise ConditionError(f"is longer than {MAX_CHARS} characters")
    reader = _Reader(text)
    root = reader.whole()
    return Condition(text, root, tuple(reader.names))


def _error(at: int, words: str) -> ConditionError:
    return ConditionError(f"at character {at}: {words}")


def _tokens(text: str) -> list[_Token]:
    found, i = [], 0
    while i < len(text):
        if text[i].isspace():
            i += 1
            continue
        match = _TOKEN.match(text, i)
        if match is None:
            words = "a text that is not closed" if text[i] in "\"'" else f"unexpected {text[i]!r}"
            raise _error(i + 1, words)
        found.append(_Token(str(match.lastgroup), match[0], i + 1))
        i = match.end()
    return [*found, _Token("end", "the end", len(text) + 1)]


class _Reader:
    """Recursive descent; `depth` bounds it."""

    def __init__(self, text: str) -> None:
        self._tokens, self._i = _tokens(text), 0
        self.names: list[tuple[str, int]] = []

    def whole(self) -> _Node:
        node = self._any(0)
        if self._now.kind != "end":
            raise self._unexpected("and, or, or the end")
        return _checked(node)

    @property
    def _now(self) -> _Token:
        return self._tokens[self._i]

    def _take(self) -> _Token:
        token = self._now
        self._i += 1
        return token

    def _unexpected(self, wanted: str) -> ConditionError:
        return _error(self._now.at, f"{self._now.text} where {wanted} should be")

    def _any(self, depth: int) -> _Node:
        return self._joined("or", depth, lambda: self._joined("and", depth, lambda: self._one(depth)))

    def _joined(self, word: str, depth: int, read: Callable[[], _Node]) -> _Node:
        if depth > MAX_DEPTH:
            raise _error(self._now.at, "is nested too deeply")
        at, parts = self._now.at, [read()]
        while self._now.is_word(word):
            self._take()
            parts.append(read())
        return _Logic(word, tuple(map(_checked, parts)), at) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise _error(self._now.at, "is nested too deeply")
        if self._now.is_word("not"):
            at = self._take().at
            return _Logic("not", (_checked(self._one(depth + 1)),), at)
        left, at = self._value(depth), self._now.at
        sign = self._sign()
        if sign is None:
            return left
        node = _Compare(left, sign, self._value(depth), at)
        if self._sign() is not None:
            raise _error(at, "one comparison at a time; join them with and")
        return node

    def _sign(self) -> str | None:
        token = self._now
        if token.kind == "sign" and token.text in _COMPARE:
            return self._take().text
        if token.is_word("in"):
            return self._take().text
        if token.is_word("not"):
            self._take()
            if not self._now.is_word("in"):
                raise self._unexpected("in")
            self._take()
            return "not in"
        return None

    def _value(self, depth: int) -> _Node:
        token = self._now
        if token.kind == "sign" and token.text in "([":
            return self._inner(depth) if token.text == "(" else self._items(depth)
        if token.kind not in ("text", "number", "word") or token.text in _KEYWORDS:
            raise self._unexpected("a value")
        self._take()
        if token.kind == "text":
            return _Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL), token.at)
        if token.kind == "number":
            return _Literal(_number(token), token.at)
        if token.text in _WORDS:
            return _Literal(_WORDS[token.text], token.at)
        self.names.append((token.text, token.at))
        return _Name(token.text, token.at)

    def _inner(self, depth: int) -> _Node:
        self._take()
        node = self._any(depth + 1)
        self._close(")")
        return node

    def _items(self, depth: int) -> _Node:
        if depth > MAX_DEPTH:
            raise _error(self._now.at, "is nested too deeply")
        at, values = self._take().at, []
        while self._now.text != "]" or self._now.kind != "sign":
            values.append(self._value(depth + 1))
            if self._now.text != ",":
                break
            self._take()
        self._close("]")
        return _Items(tuple(values), at)

    def _close(self, sign: str) -> None:
        if self._now.kind != "sign" or self._now.text != sign:
            raise self._unexpected(sign)
        self._take()


def _number(token: _Token) -> int | float:
    number = json.loads(token.text) if not re.match(r"-?0\d", token.text) else None
    if number is None or number in (float("inf"), float("-inf")):
        raise _error(token.at, f"{token.text} is no number")
    found: int | float = number
    return found


def _checked(node: _Node) -> _Node:
    """`node`, which stands where only true or false may."""
    if isinstance(node, _Items) or (isinstance(node, _Literal) and not isinstance(node.value, bool | None)):
        raise _error(node.at, "is a value, not a condition; compare it with something")
    if isinstance(node, _Name) and node.name.startswith("params."):
        raise _error(
            node.at, f"{node.name} is a text, not a condition; compare it, as in {node.name} == true"
        )
    return node


def _value_of(name: str, names: Names) -> Any:
    try:
        return names.value(name)
    except (Absent, KeyError):
        return None


def _evaluate(node: _Node, names: Names) -> Any:
    match node:
        case _Literal():
            return node.value
        case _Name():
            return _value_of(node.name, names)
        case _Items():
            return [_evaluate(each, names) for each in node.values]
        case _Compare():
            return _compare(node, names)
        case _Logic():
            return _logic(node, names)


def _logic(node: _Logic, names: Names) -> bool:
    if node.word == "not":
        return not _truth(node.parts[0], names)
    found = (_truth(part, names) for part in node.parts)
    return all(found) if node.word == "and" else any(found)


def _truth(node: _Node, names: Names) -> bool:
    value = _evaluate(node, names)
    if value is None or isinstance(value, bool):
        return bool(value)
    raise _error(node.at, f"{as_text(value)[:80]} is neither true nor false; compare it with something")


def _compare(node: _Compare, names: Names) -> bool:
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
        raise _error(
            node.at, f"{node.sign} takes two numbers or two texts, not {_short(left)} and {_short(right)}"
        )
    return _ORDER[node.sign](left, right)


def _within(node: _Compare, left: Any, right: Any) -> bool:
    if isinstance(right, list):
        return any(same(_read_param(node.left, left, each), each) for each in right)
    if isinstance(left, str) and isinstance(right, str):
        return left in right
    raise _error(
        node.at, f"in looks into a list, or for a text in a text, not for {_short(left)} in {_short(right)}"
    )


def _read_param(node: _Node, value: Any, other: Any) -> Any:
    """A parameter is a text; beside a number, true or false it is read as one, if it is one."""
    is_param = isinstance(node, _Name) and node.name.startswith("params.")
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
