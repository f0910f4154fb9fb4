"""The text of a condition, read into a tree: tokens, then recursive descent. What it means: condition.py."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

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
_COMPARE = ("==", "!=", "<", "<=", ">", ">=", "in", "not in")


class ConditionError(ValueError):
    """What is wrong with a condition, and where; the caller adds file and line, or the task."""


class _Token(NamedTuple):
    kind: str  #: sign, text, number, word, end
    text: str
    at: int  #: 1-based

    def is_word(self, *words: str) -> bool:
        return self.kind == "word" and self.text in words


@dataclass(frozen=True)
class Literal:
    value: Any
    at: int


@dataclass(frozen=True)
class Name:
    name: str
    at: int


@dataclass(frozen=True)
class Items:
    values: tuple[Node, ...]
    at: int


@dataclass(frozen=True)
class Compare:
    left: Node
    sign: str
    right: Node
    at: int


@dataclass(frozen=True)
class Logic:
    word: str  #: and, or, not
    parts: tuple[Node, ...]
    at: int


Node = Literal | Name | Items | Compare | Logic


def read(text: str) -> tuple[Node, list[tuple[str, int]]]:
    """The tree, and every name in it with its place. Raises ConditionError."""
    if len(text) > MAX_CHARS:
        raise ConditionError(f"is longer than {MAX_CHARS} characters")
    reader = _Reader(text)
    return reader.whole(), reader.names


def error_at(at: int, words: str) -> ConditionError:
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
            raise error_at(i + 1, words)
        found.append(_Token(str(match.lastgroup), match[0], i + 1))
        i = match.end()
    return [*found, _Token("end", "the end", len(text) + 1)]


class _Reader:
    """Recursive descent; `depth` bounds it."""

    def __init__(self, text: str) -> None:
        self._tokens, self._i = _tokens(text), 0
        self.names: list[tuple[str, int]] = []

    def whole(self) -> Node:
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
        return error_at(self._now.at, f"{self._now.text} where {wanted} should be")

    def _any(self, depth: int) -> Node:
        return self._joined("or", depth, lambda: self._joined("and", depth, lambda: self._one(depth)))

    def _joined(self, word: str, depth: int, read: Callable[[], Node]) -> Node:
        if depth > MAX_DEPTH:
            raise error_at(self._now.at, "is nested too deeply")
        at, parts = self._now.at, [read()]
        while self._now.is_word(word):
            self._take()
            parts.append(read())
        return Logic(word, tuple(map(_checked, parts)), at) if len(parts) > 1 else parts[0]

    def _one(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise error_at(self._now.at, "is nested too deeply")
        if self._now.is_word("not"):
            at = self._take().at
            return Logic("not", (_checked(self._one(depth + 1)),), at)
        left, at = self._value(depth), self._now.at
        sign = self._sign()
        if sign is None:
            return left
        node = Compare(left, sign, self._value(depth), at)
        if self._sign() is not None:
            raise error_at(at, "one comparison at a time; join them with and")
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

    def _value(self, depth: int) -> Node:
        token = self._now
        if token.kind == "sign" and token.text in "([":
            return self._inner(depth) if token.text == "(" else self._items(depth)
        if token.kind not in ("text", "number", "word") or token.text in _KEYWORDS:
            raise self._unexpected("a value")
        self._take()
        if token.kind == "text":
            return Literal(re.sub(r"\\(.)", r"\1", token.text[1:-1], flags=re.DOTALL), token.at)
        if token.kind == "number":
            return Literal(_number(token), token.at)
        if token.text in _WORDS:
            return Literal(_WORDS[token.text], token.at)
        self.names.append((token.text, token.at))
        return Name(token.text, token.at)

    def _inner(self, depth: int) -> Node:
        self._take()
        node = self._any(depth + 1)
        self._close(")")
        return node

    def _items(self, depth: int) -> Node:
        if depth > MAX_DEPTH:
            raise error_at(self._now.at, "is nested too deeply")
        at, values = self._take().at, []
        while self._now.text != "]" or self._now.kind != "sign":
            values.append(self._value(depth + 1))
            if self._now.text != ",":
                break
            self._take()
        self._close("]")
        return Items(tuple(values), at)

    def _close(self, sign: str) -> None:
        if self._now.kind != "sign" or self._now.text != sign:
            raise self._unexpected(sign)
        self._take()


def _number(token: _Token) -> int | float:
    number = json.loads(token.text) if not re.match(r"-?0\d", token.text) else None
    if number is None or number in (float("inf"), float("-inf")):
        raise error_at(token.at, f"{token.text} is no number")
    found: int | float = number
    return found


def _checked(node: Node) -> Node:
    """`node`, which stands where only true or false may."""
    if isinstance(node, Items) or (isinstance(node, Literal) and not isinstance(node.value, bool | None)):
        raise error_at(node.at, "is a value, not a condition; compare it with something")
    if isinstance(node, Name) and node.name.startswith("params."):
        raise error_at(
            node.at, f"{node.name} is a text, not a condition; compare it, as in {node.name} == true"
        )
    return node
