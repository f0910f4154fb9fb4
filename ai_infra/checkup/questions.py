"""Questions: what people ask about a code base, as SQL over the table that measures.py builds."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

COMPLEX = 40  #: a function from here on is a finding
LONG_FUNCTION = 200  #: lines, likewise
HOT_COMMITS, HOT_LINES = 30, 300
UNTOUCHED_DAYS = 365
ROWS = 10


@dataclass(frozen=True, kw_only=True)
class Question:
    """A title for people, and the SQL; `:before` is the date UNTOUCHED_DAYS ago, `:rows` the bound."""

    title: str
    sql: str


@dataclass(frozen=True, kw_only=True)
class Answer:
    """The rows of one question."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]

    def records(self) -> list[dict[str, Any]]:
        """The rows by column name."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]

    def to_json(self) -> dict[str, Any]:
        """As it stands in measures.json."""
        return {"title": self.title, "columns": list(self.columns), "rows": [list(row) for row in self.rows]}


QUESTIONS = {
    "totals": Question(
        title="In all",
        sql="""SELECT count(*) AS files, coalesce(sum(bytes), 0) AS bytes,
                      coalesce(sum(lines), 0) AS lines,
                      coalesce(sum(CASE WHEN sort IN ('code', 'markup') THEN code_lines END), 0)
                          AS code_lines,
                      (SELECT count(*) FROM functions) AS functions
               FROM files""",
    ),
    "languages": Question(
        title="Languages, by lines of code (vendored and generated files left out)",
        sql="""WITH code AS (SELECT * FROM files
                             WHERE role IN ('source', 'test') AND sort IN ('code', 'markup'))
               SELECT language, count(*) AS files, sum(code_lines) AS code_lines,
                      round(100.0 * sum(code_lines) / max(1, (SELECT sum(code_lines) FROM code)), 1)
                          AS percent,
                      round(100.0 * sum(comment_lines) / max(1, sum(code_lines) + sum(comment_lines)), 1)
                          AS comment_percent,
                      round(100.0 * sum(CASE WHEN role = 'test' THEN code_lines ELSE 0 END)
                          / max(1, sum(code_lines)), 1) AS test_percent
               FROM code GROUP BY language HAVING sum(code_lines) > 0
               ORDER BY code_lines DESC, language LIMIT :rows""",
    ),
    "hot_spots": Question(
        title="Hot spots: large and often changed (commits times lines of code)",
        sql="""SELECT path, language, code_lines, commits, authors, last_change
               FROM files WHERE role = 'source' AND sort = 'code' AND commits > 1 AND code_lines > 0
               ORDER BY commits * code_lines DESC, path LIMIT :rows""",
    ),
    "largest": Question(
        title="Largest source files",
        sql="""SELECT path, language, code_lines, comment_lines, functions, complexity, max_indent
               FROM files WHERE role = 'source' AND sort = 'code'
               ORDER BY code_lines DESC, path LIMIT :rows""",
    ),
    "longest_functions": Question(
        title="Longest Python functions",
        sql="""SELECT path, name, line, functions.lines AS lines, functions.complexity AS complexity
               FROM functions JOIN files USING (path) WHERE role = 'source'
               ORDER BY functions.lines DESC, path LIMIT :rows""",
    ),
    "complex_functions": Question(
        title="Most complex Python functions",
        sql="""SELECT path, name, line, functions.lines AS lines, functions.complexity AS complexity
               FROM functions JOIN files USING (path) WHERE role = 'source'
               ORDER BY functions.complexity DESC, path LIMIT :rows""",
    ),
    "untouched": Question(
        title="Source files nobody touched for a year, oldest first",
        sql="""SELECT path, language, code_lines, last_change
               FROM files WHERE role = 'source' AND sort = 'code' AND code_lines > 0 AND last_change < :before
               ORDER BY last_change, path LIMIT :rows""",
    ),
    "untouched_share": Question(
        title="How much of the source nobody touched for a year",
        sql="""SELECT count(*) AS files, coalesce(sum(last_change < :before), 0) AS untouched,
                      round(100.0 * coalesce(sum(CASE WHEN last_change < :before THEN code_lines END), 0)
                          / max(1, sum(code_lines)), 1) AS percent_of_code
               FROM files WHERE role = 'source' AND sort = 'code' AND last_change IS NOT NULL""",
    ),
    "duplicates": Question(
        title="Source files with the same content",
        sql="""WITH groups AS (
                   SELECT content, count(*) AS copies, min(path) AS path, max(bytes) AS bytes
                   FROM files WHERE content IS NOT NULL AND role = 'source' AND sort = 'code'
                         AND code_lines >= 10
                   GROUP BY content HAVING count(*) > 1)
               SELECT groups.path AS path, copies, groups.bytes AS bytes,
                      (SELECT group_concat(path, ', ') FROM (
                          SELECT path FROM files WHERE files.content = groups.content
                          AND path <> groups.path AND role = 'source' ORDER BY path LIMIT 3)) AS others
               FROM groups ORDER BY copies * groups.bytes DESC, groups.path LIMIT :rows""",
    ),
    "roles": Question(
        title="Files by role",
        sql="""SELECT role, count(*) AS files, coalesce(sum(code_lines), 0) AS code_lines, sum(bytes) AS bytes
               FROM files GROUP BY role ORDER BY files DESC""",
    ),
}


def ask_all(database: sqlite3.Connection, now_s: float) -> dict[str, Answer]:
    """The answers to every question, as of `now_s`."""
    before = datetime.fromtimestamp(now_s, UTC).date() - timedelta(days=UNTOUCHED_DAYS)
    values = {"rows": ROWS, "before": before.isoformat()}
    return {name: _ask(database, question, values) for name, question in QUESTIONS.items()}


def _ask(database: sqlite3.Connection, question: Question, values: dict[str, Any]) -> Answer:
    cursor = database.execute(question.sql, values)
    columns = tuple(column[0] for column in cursor.description)
    return Answer(title=question.title, columns=columns, rows=tuple(cursor.fetchall()))
