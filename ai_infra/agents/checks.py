"""VERIFY: whether what a task expected did come about. Checked by the process itself, never by the command.

Each check yields evidence: what was found, in one line. What a task left behind may be anything: a check that
cannot look at it has failed, and says why.
"""

from __future__ import annotations

import asyncio
import json
import os
import stat
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ai_infra.agents.commands import Command, words_of
from ai_infra.agents.output import SEARCHED_BYTES
from ai_infra.agents.patterns import search
from ai_infra.tasks.jsonpath import same, value_at
from ai_infra.tasks.task import Expect

JSON_MAX_BYTES = 10_000_000


@dataclass(frozen=True, kw_only=True)
class Checked:
    """One expectation, and what was found."""

    what: str
    ok: bool
    evidence: str


class Output(Protocol):
    """What the commands wrote."""

    total_bytes: int

    def end(self) -> bytes:
        """The last SEARCHED_BYTES of it."""


RunCheck = Callable[[Command], Awaitable[int]]  #: runs a command as the task's own; its exit code
Verdict = tuple[bool, str]  #: whether it holds, and the evidence


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What is checked: the commands that ran, what they wrote, where; and whether to go on checking."""

    exit_codes: Sequence[int]
    output: Output
    cwd: Path
    run: RunCheck
    ended: asyncio.Event  #: the attempt is being stopped: nothing more is begun


async def check_all(expects: Sequence[Expect], ran: Ran) -> list[Checked]:
    """Check in the order given; without an exit_code check the last command must have ended with 0.

    When the attempt is being stopped, what was not checked yet is left out.
    """
    wanted = expects if any(e.check == "exit_code" for e in expects) else [Expect(exit_code=0), *expects]
    found = []
    for expect in wanted:
        if ran.ended.is_set():
            break
        found.append(await _check(expect, ran))
    return found


async def _check(expect: Expect, ran: Ran) -> Checked:
    try:
        ok, evidence = await _look(expect, ran)
    except (OSError, ValueError, LookupError, RecursionError) as exc:
        ok, evidence = False, f"{type(exc).__name__}: {exc}"[:200]
    return Checked(what=_what(expect, ran.cwd), ok=ok, evidence=evidence)


def _what(expect: Expect, cwd: Path) -> str:
    match expect.check:
        case "exit_code":
            return f"exit code {expect.exit_code}"
        case "output_matches":
            return f"output matches {expect.output_matches!r}"
        case "file":
            return f"file {cwd / str(expect.file)}"
        case "json":
            return f"{expect.json_path} in {cwd / str(expect.file)} is {json.dumps(expect.equals)}"
        case "command":
            return f"`{words_of(expect.command or '')}` succeeds"


async def _look(expect: Expect, ran: Ran) -> Verdict:
    match expect.check:
        case "exit_code":
            code = ran.exit_codes[-1] if ran.exit_codes else None
            return code == expect.exit_code, f"exit {code}"
        case "output_matches":
            return await _output(str(expect.output_matches), ran)
        case "file":
            return _file(ran.cwd / str(expect.file))
        case "json":
            return _json(ran.cwd / str(expect.file), str(expect.json_path), expect.equals)
        case "command":
            code = await ran.run(expect.command or "")
            return code == 0, f"exit {code}"


async def _output(pattern: str, ran: Ran) -> Verdict:
    found = await search(pattern, ran.output.end(), ran.ended)
    if found.text is not None:
        return True, f"found {found.text[:80]!r}"
    total = ran.output.total_bytes
    where = f"the last {SEARCHED_BYTES} of {total}" if total > SEARCHED_BYTES else f"{total}"
    return False, found.problem or f"not found in {where} bytes of output"


def _file(path: Path) -> Verdict:
    try:
        return True, f"{path.stat().st_size} bytes"
    except (FileNotFoundError, NotADirectoryError):
        return False, "not there"


def _json(path: Path, where: str, wanted: Any) -> Verdict:
    with open(path, "rb", opener=_without_waiting) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            return False, "not a plain file"
        data = file.read(JSON_MAX_BYTES + 1)
    if len(data) > JSON_MAX_BYTES:
        return False, f"larger than {JSON_MAX_BYTES} bytes"
    value = value_at(json.loads(data), where)
    return same(value, wanted), f"it is {json.dumps(value)[:200]}"


def _without_waiting(path: str, flags: int) -> int:
    """Opening a pipe would wait for somebody to write into it."""
    return os.open(path, flags | os.O_NONBLOCK)
