"""`expect:` of a workflow file: the checks of a task."""

from __future__ import annotations

import re
from collections.abc import Callable

from ai_infra.tasks.jsonpath import PATH
from ai_infra.tasks.late import fill_value
from ai_infra.tasks.task import Expect
from ai_infra.tasks.template import TemplateError, fill_pattern
from ai_infra.tasks.workflow_reader import Key, Reader

_JSON = ("file", "path", "equals")


def read_expects(reader: Reader, *key: Key) -> tuple[Expect, ...]:
    """The checks in the list at `key`."""
    return tuple(_expect(reader, *key, i) for i in range(reader.length(*key)))


def _expect(reader: Reader, *key: Key) -> Expect:
    entry = reader.mapping(*key)
    reader.file.check_keys(_CHECKS, *key)
    if len(entry) != 1:
        raise reader.file.error(f"one check each: {', '.join(_CHECKS)}", *key)
    check = next(iter(entry))
    return _CHECKS[check](reader, *key, check)


def _exit_code(reader: Reader, *key: Key) -> Expect:
    code = reader.file.at(*key)
    if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
        raise reader.file.error(f"must be a whole number from 0 to 255, not {code!r}", *key)
    return Expect(exit_code=code)


def _output(reader: Reader, *key: Key) -> Expect:
    text = reader.scalar(*key)
    pattern = reader.fill(fill_pattern, text, *key)
    try:
        re.compile(pattern)
    except re.error as exc:
        raise reader.file.error(f"not a regular expression: {exc}", *key) from exc
    return Expect(output_matches=text if reader.keeps else pattern)


def _file(reader: Reader, *key: Key) -> Expect:
    return Expect(file=reader.path(*key))


def _json(reader: Reader, *key: Key) -> Expect:
    entry = reader.mapping(*key)
    reader.file.check_keys(_JSON, *key)
    if missing := [name for name in _JSON if name not in entry]:
        raise reader.file.error(f"needs the keys file, path and equals; {missing[0]} is missing", *key)
    where = reader.scalar(*key, "path")
    if not PATH.fullmatch(where):
        raise reader.file.error(f"{where!r} is not a path like a.b[0].c", *key, "path")
    try:
        equals = fill_value(entry["equals"], reader.names)
    except TemplateError as exc:
        raise reader.file.error(str(exc), *key, "equals") from exc
    return Expect(
        file=reader.path(*key, "file"), json_path=where, equals=entry["equals"] if reader.keeps else equals
    )


def _command(reader: Reader, *key: Key) -> Expect:
    return Expect(command=reader.command(*key))


_CHECKS: dict[str, Callable[..., Expect]] = {
    "exit_code": _exit_code,
    "output_matches": _output,
    "file": _file,
    "json": _json,
    "command": _command,
}
