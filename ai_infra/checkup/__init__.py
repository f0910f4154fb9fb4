"""The check-up: what a git repository and its machine look like to a careful colleague.

Each part is one command and one module, and writes one file `PART.json` into a folder; `report` joins what it
finds there. A part reads the repository and never writes into it, starts no program the repository names (the
test suites of `tests` excepted, which run in a copy), asks no model and needs no network.

Parts, their agents and their modules are in PARTS; findings.py has the words they share, kinds.py what each
kind of finding means and what to do about it.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ai_infra.checkup.findings import Verdict, worst
from ai_infra.core.errors import AiInfraError, UsageError

if TYPE_CHECKING:
    from ai_infra.checkup.findings import PartResult
    from ai_infra.checkup.git import Repo

__all__ = ["PARTS", "Part", "Verdict", "run_all", "run_part"]

Say = Callable[[str], None]  #: shows one line (or one text) to the person who waits


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the check-up; `module` has `run(repo, out, say) -> PartResult`."""

    agent: str
    module: str
    about: str


PARTS: dict[str, Part] = {
    "inventory": Part(
        agent="research", module="inventory", about="languages, history, authors, licence, size"
    ),
    "measures": Part(
        agent="data", module="measures", about="a table of per-file measures, and answers from it"
    ),
    "lint": Part(agent="code", module="lint", about="unparsable files, likely bugs, broken links, odd files"),
    "tests": Part(agent="qa", module="suites", about="runs the test suites it can detect, in a copy of HEAD"),
    "secrets": Part(agent="qa", module="secret_scan", about="credentials in the files and in recent history"),
    "host": Part(agent="infra", module="host", about="disk, memory, load, ports, certificates, services"),
    "report": Part(agent="supervisor", module="report", about="joins the parts into one Markdown report"),
}


def run_part(part: str, repo: Path, out: Path, say: Say | None = None) -> Verdict:
    """Run one part over `repo`, write `out/PART.json`.

    And tell the findings through `say` (stdout by default).

    Problems found in the repository are the result, not an error. Raises UsageError for a part that does
    not exist, NotARepository or SystemProblem when the part cannot work; then no `PART.json` is left, an
    older one is removed too. Safe to repeat.
    """
    from ai_infra.checkup import results
    from ai_infra.checkup.git import open_repo

    if part not in PARTS:
        raise UsageError(f"no check-up part {part!r}; parts are: {', '.join(PARTS)}")
    say = say or results.say
    results.prepare(out, part)
    opened = open_repo(repo)
    if part != "report":  # the report on stdout is a document of its own
        say(f"{part}: {opened.label}")
    started = time.monotonic()
    result = _run_module(part, opened, out, say)
    result = replace(result, took_s=round(time.monotonic() - started, 3))
    results.write(out, result, opened)
    if part != "report":
        for line in results.summary_lines(result, out):
            say(line)
    return result.verdict


def run_all(repo: Path, out: Path, say: Say | None = None) -> Verdict:
    """Run every part in order, in this process; a part that cannot work is said and shows as unknown."""
    from ai_infra.checkup import results
    from ai_infra.checkup.git import open_repo

    say = say or results.say
    open_repo(repo)  # before any part: a wrong folder is one error, not seven
    verdicts = []
    for part in PARTS:
        try:
            verdicts.append(run_part(part, repo, out, say))
        except AiInfraError as exc:
            say(f"{part}: unknown: {exc}")
            verdicts.append(Verdict.UNKNOWN)
    return worst(verdicts)


def _run_module(part: str, repo: Repo, out: Path, say: Say) -> PartResult:
    module = importlib.import_module(f"ai_infra.checkup.{PARTS[part].module}")
    result: PartResult = module.run(repo, out, say)
    return result
