"""Measures: a row for every tracked file in `measures.sqlite`.

And the answers to the questions people ask of it.

The table is built beside and renamed, so it is whole or absent; the questions are SQL, in questions.py, and
anybody may ask more: `sqlite3 measures.sqlite 'SELECT …'`.
"""

from __future__ import annotations

import ast
import hashlib
import os
import sqlite3
import time
import urllib.parse
import warnings
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ai_infra.checkup import questions
from ai_infra.checkup.churn import Change, Churn, read_churn
from ai_infra.checkup.findings import Finding, PartResult, Verdict, bounded, found, plural, shown, verdict_of
from ai_infra.checkup.functions import Function, functions_of, module_complexity
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import (
    Lines,
    count_lines,
    is_fixture,
    is_generated,
    is_test,
    is_vendored,
    language_of,
)
from ai_infra.checkup.tracked import Content, is_binary, list_tracked
from ai_infra.core import durable
from ai_infra.core.errors import SystemProblem

DATABASE = "measures.sqlite"

SCHEMA = """
CREATE TABLE files (
    path TEXT PRIMARY KEY,      -- as shown to people: control and invalid bytes are escaped
    language TEXT,              -- NULL: not known, or binary
    sort TEXT,                  -- code, markup, data, prose
    role TEXT NOT NULL,         -- source, test, vendored, generated
    bytes INTEGER,              -- NULL: not on disk
    lines INTEGER, code_lines INTEGER, blank_lines INTEGER, comment_lines INTEGER,
    max_indent INTEGER,         -- deepest line of code, in columns
    functions INTEGER,          -- Python only, NULL elsewhere
    complexity INTEGER,         -- Python only: branches of the whole file
    commits INTEGER NOT NULL, authors INTEGER NOT NULL,
    last_change TEXT,           -- ISO date; NULL: not in the history that was read
    content TEXT                -- hash of the content; equal hashes are equal files
) WITHOUT ROWID;
CREATE TABLE functions (
    path TEXT NOT NULL, name TEXT NOT NULL, line INTEGER NOT NULL,
    lines INTEGER NOT NULL, complexity INTEGER NOT NULL
);
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT) WITHOUT ROWID;
"""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The measures of one file's content."""

    path: str
    language: str | None
    sort: str | None
    role: str
    size_bytes: int | None
    lines: Lines | None
    functions: tuple[Function, ...] | None
    complexity: int | None
    content: str | None


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `measures`; leaves `out/measures.sqlite`."""
    churn = read_churn(repo)
    measured = (measure(content) for content in list_tracked(repo).contents())
    path = out / DATABASE
    build(path, measured, churn, {"repo": repo.label, "head": repo.head or ""})
    with closing(sqlite3.connect(f"file:{_quoted(path)}?mode=ro", uri=True)) as database:
        return judge(questions.ask_all(database, time.time()), churn)


def measure(content: Content) -> Measured:
    """Everything the content of one file tells."""
    path, data = content.entry.path, content.data
    text = data if data is not None and not is_binary(data) else None
    language = language_of(path, data) if text is not None or data is None else None
    functions = complexity = None
    if text is not None and language is not None and language.name == "Python":
        functions, complexity = _python(text)
    return Measured(
        path=path,
        language=language.name if language else None,
        sort=str(language.sort) if language else None,
        role=role_of(path, text),
        size_bytes=content.size_bytes,
        lines=None if text is None else count_lines(text, language),
        functions=functions,
        complexity=complexity,
        content=hashlib.sha256(data).hexdigest()[:32] if data else None,
    )


def role_of(path: str, text: bytes | None) -> str:
    """What a file is for: only `source` is work of the people here that others depend on."""
    if is_vendored(path):
        return "vendored"
    if is_generated(path, text):
        return "generated"
    return "test" if is_test(path) or is_fixture(path) else "source"


def build(path: Path, files: Iterable[Measured], churn: Churn, meta: dict[str, str]) -> None:
    """Write the database, replacing an older one at once. Raises SystemProblem (disk full, no rights)."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.unlink(missing_ok=True)
        with closing(sqlite3.connect(beside)) as database:
            database.executescript(f"PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF; {SCHEMA}")
            with database:
                _fill(database, files, churn)
                database.executemany("INSERT INTO meta VALUES (?, ?)", meta.items())
        beside.chmod(0o600)
        beside.replace(path)
    except OSError as exc:
        raise durable.system_problem(path, exc) from exc
    except sqlite3.OperationalError as exc:
        raise SystemProblem(f"{path}: the table could not be written: {exc}") from exc
    finally:
        beside.unlink(missing_ok=True)


def judge(answers: dict[str, questions.Answer], churn: Churn) -> PartResult:
    """The findings the answers hold, and the answers themselves."""
    findings = [*_judge_functions(answers), *_judge_files(answers)]
    if churn.cut:
        words = "a shallow clone: changes cannot be counted" if churn.shallow else "a long history"
        findings.append(found("history-cut", f"{words}; {plural(churn.commits, 'commit')} read"))
    kept, counts = bounded(findings)
    total = dict(answers["totals"].records()[0])
    return PartResult(
        part="measures",
        verdict=verdict_of(findings) if total["files"] else Verdict.UNKNOWN,
        summary=_summary(total, churn),
        findings=kept,
        data={
            "answers": {name: answer.to_json() for name, answer in answers.items()},
            "database": DATABASE,
            "commits_read": churn.commits,
            "history_cut": churn.cut,
            "counts": counts,
        },
    )


def _python(text: bytes) -> tuple[tuple[Function, ...] | None, int | None]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(text)
        functions = functions_of(tree)
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # lint says what is wrong with it
        return None, None
    return tuple(functions), module_complexity(tree, functions)


def _fill(database: sqlite3.Connection, files: Iterable[Measured], churn: Churn) -> None:
    rows, functions = [], []
    for file in files:
        rows.append(_row(file, churn.changes.get(file.path)))
        functions += [(shown(file.path), f.name, f.line, f.lines, f.complexity) for f in file.functions or ()]
    marks = ", ".join("?" * 16)
    database.executemany(f"INSERT OR IGNORE INTO files VALUES ({marks})", rows)
    database.executemany("INSERT INTO functions VALUES (?, ?, ?, ?, ?)", functions)


def _row(file: Measured, change: Change | None) -> tuple[Any, ...]:
    lines = file.lines
    return (
        shown(file.path), file.language, file.sort, file.role, file.size_bytes,
        *((lines.lines, lines.code, lines.blank, lines.comment, lines.max_indent) if lines else (None,) * 5),
        None if file.functions is None else len(file.functions), file.complexity,
        change.commits if change else 0, len(change.authors) if change else 0,
        _date(change.last_s) if change else None, file.content,
    )  # fmt: skip


def _judge_functions(answers: dict[str, questions.Answer]) -> Iterator[Finding]:
    for row in answers["complex_functions"].records():
        if row["complexity"] >= questions.COMPLEX:
            words = f"{row['name']}() has a complexity of {row['complexity']} in {row['lines']} lines"
            yield found("complex-function", words, row["path"], row["line"])
    for row in answers["longest_functions"].records():
        if row["lines"] >= questions.LONG_FUNCTION:
            words = f"{row['name']}() is {row['lines']} lines long"
            yield found("long-function", words, row["path"], row["line"])


def _judge_files(answers: dict[str, questions.Answer]) -> Iterator[Finding]:
    for row in answers["hot_spots"].records()[:5]:
        if row["commits"] >= questions.HOT_COMMITS and row["code_lines"] >= questions.HOT_LINES:
            people = plural(row["authors"], "person", "people")
            words = f"{row['code_lines']:,} lines of code, changed in {row['commits']:,} commits by {people}"
            yield found("hot-spot", words, row["path"])
    for row in answers["duplicates"].records():
        words = f"has the same content as {plural(row['copies'] - 1, 'other file')}: {row['others']}"
        yield found("duplicate", words, row["path"])


def _summary(total: dict[str, Any], churn: Churn) -> str:
    if not total["files"]:
        return "no tracked files, so nothing to measure"
    words = f"{plural(total['files'], 'file')}, {total['code_lines']:,} lines of code"
    functions = f", {plural(total['functions'], 'Python function')}" if total["functions"] else ""
    counted = f"{plural(churn.commits, 'commit')} counted per file (merges left out)"
    return f"{words}{functions}; {counted if churn.commits else 'no history to count changes from'}"


def _date(at_s: int) -> str | None:
    try:
        return datetime.fromtimestamp(at_s, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return None


def _quoted(path: Path) -> str:
    return urllib.parse.quote(os.fsencode(path.absolute()))
