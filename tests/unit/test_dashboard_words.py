"""Every event that a process logs is said in words, with the fields that it comes with."""

from __future__ import annotations

import ast
import string
from collections.abc import Iterator
from pathlib import Path

import pytest

import ai_infra
from ai_infra.dashboard.words import PHRASES, phrase

PACKAGE = Path(ai_infra.__file__).parent
TREES = {str(path.relative_to(PACKAGE)): ast.parse(path.read_text()) for path in PACKAGE.rglob("*.py")}


def logged(tree: ast.AST) -> Iterator[tuple[int, str, str, set[str]]]:
    """Line, event, level and fields of every call of a Log in a file; a name may stand for its constants."""
    names: dict[str, list[ast.expr]] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            names.setdefault(node.targets[0].id, []).append(node.value)
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and node.args):
            continue
        if getattr(node.func, "attr", getattr(node.func, "id", "")) not in ("log", "_log"):
            continue
        given = {word.arg: word.value for word in node.keywords if word.arg}
        level = given.pop("level", node.args[1] if len(node.args) > 1 else ast.Constant("info"))
        events = _texts(node.args[0], names)
        assert events, f"line {node.lineno}: the event must be a text that stands there"
        for event in events:
            # A level that is handed on may be any.
            yield node.lineno, event, next(iter(_texts(level, {})), "error"), set(given)


def _texts(node: ast.expr, names: dict[str, list[ast.expr]]) -> list[str]:
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return _texts(node.body, names) + _texts(node.orelse, names)
    if isinstance(node, ast.Name):
        return [text for value in names.get(node.id, []) for text in _texts(value, {})]
    return []


def unsaid(tree: ast.AST) -> list[str]:
    """The events of a file that a person would read as bare fields."""
    found = []
    for line, event, level, fields in logged(tree):
        wanted = {name for _, name, _, _ in string.Formatter().parse(PHRASES.get(event, "")) if name}
        if level != "debug" and (event not in PHRASES or wanted - fields):
            found.append(f"line {line}: {event} {sorted(wanted - fields)}")
    return found


def test_every_event_is_said_in_words() -> None:
    assert {name: lines for name, tree in TREES.items() if (lines := unsaid(tree))} == {}
    assert {event for tree in TREES.values() for _, event, _, _ in logged(tree)} >= PHRASES.keys() - {
        "log_lines_lost"  # written by the log itself
    }


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("log('started', pid=1)", True),
        ("self._log('started', pid=1, more=2)", True),
        ("self._process.log('started')", False),
        ("log('new_thing', level='error')", False),
        ("log('new_thing', 'debug')", True),
        ("log('new_thing', level)", False),
        ("event = 'new_thing' if x else 'other'\nlog(event)", False),
    ],
)
def test_an_event_without_words_is_seen(source: str, said: bool) -> None:
    assert (unsaid(ast.parse(source)) == []) is said


def test_a_trace_stays_in_the_log_file() -> None:
    entry = {"event": "anything", "reason": "x", "trace": "Traceback (most recent call last)"}
    assert phrase(entry) == "anything reason=x"
