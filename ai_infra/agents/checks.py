"""VERIFY: whether what a task expected did come about. Checked by the process itself, never by the command.

Each check yields evidence: what was found, in one line.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_infra.agents.commands import Command, words_of
from ai_infra.tasks.task import Expect

SEARCHED_BYTES = 1_000_000  #: of the end of the output that a pattern is looked for in
JSON_MAX_BYTES = 10_000_000
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One expectation, and what was found."""

    what: str
    ok: bool
    evidence: str


RunCheck = Callable[[Command], Awaitable[int]]  #: runs a command as the task's own; its exit code


async def check_all(
    expects: Sequence[Expect], exit_codes: Sequence[int], output: Path, cwd: Path, run: RunCheck
) -> list[Checked]:
    """Check in the order given; without an exit_code check the last command must have ended with 0."""
    found = [] if any(e.check == "exit_code" for e in expects) else [_exit_code(0, exit_codes)]
    for expect in expects:
        found.append(await _check(expect, exit_codes, output, cwd, run))
    return found


async def _check(
    expect: Expect, exit_codes: Sequence[int], output: Path, cwd: Path, run: RunCheck
) -> Checked:
    match expect.check:
        case "exit_code":
            return _exit_code(expect.exit_code or 0, exit_codes)
        case "output_matches":
            return _output(str(expect.output_matches), output)
        case "file":
            return _file(cwd / str(expect.file))
        case "json":
            return _json(cwd / str(expect.file), str(expect.json_path), expect.equals)
        case "command":
            assert expect.command is not None
            code = await run(expect.command)
            return Checked(
                what=f"`{words_of(expect.command)}` succeeds", ok=code == 0, evidence=f"exit {code}"
            )


def _exit_code(wanted: int, exit_codes: Sequence[int]) -> Checked:
    code = exit_codes[-1] if exit_codes else None
    return Checked(what=f"exit code {wanted}", ok=code == wanted, evidence=f"exit {code}")


def _output(pattern: str, output: Path) -> Checked:
    with open(output, "rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - SEARCHED_BYTES))
        text = file.read().decode("utf-8", errors="replace")
    found = re.search(pattern, text, re.MULTILINE)
    evidence = f"found {found[0][:80]!r}" if found else f"not found in {size} bytes of output"
    return Checked(what=f"output matches {pattern!r}", ok=found is not None, evidence=evidence)


def _file(path: Path) -> Checked:
    exists = path.exists()
    return Checked(
        what=f"file {path}", ok=exists, evidence=f"{path.stat().st_size} bytes" if exists else "not there"
    )


def _json(path: Path, where: str, wanted: Any) -> Checked:
    what = f"{where} in {path} is {json.dumps(wanted)}"
    try:
        if path.stat().st_size > JSON_MAX_BYTES:
            return Checked(what=what, ok=False, evidence=f"larger than {JSON_MAX_BYTES} bytes")
        value = value_at(json.loads(path.read_bytes()), where)
    except (OSError, ValueError, LookupError) as exc:
        return Checked(what=what, ok=False, evidence=f"{type(exc).__name__}: {exc}"[:200])
    return Checked(what=what, ok=value == wanted, evidence=f"it is {json.dumps(value)[:200]}")


def value_at(document: Any, where: str) -> Any:
    """The value at `a.b[0].c`. Raises LookupError."""
    position = 0
    while position < len(where):
        step = _STEP.match(where, position)
        if step is None:
            raise LookupError(f"{where!r} is no path like a.b[0].c")
        try:
            document = document[step[1]] if step[1] is not None else document[int(step[2])]
        except (TypeError, KeyError, IndexError) as exc:
            raise LookupError(f"nothing at {where[: step.end()]!r}") from exc
        position = step.end()
    return document
