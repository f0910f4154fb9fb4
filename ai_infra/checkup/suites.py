"""Suites: run the tests a repository has, as far as this machine can, in a copy of HEAD.

Nothing is installed and nothing is written into the repository: the copy is a clone that borrows the
objects, its home folder is empty, package managers are told to stay offline, and everything is removed
afterwards. What cannot run is unknown, with the reason; only a runner that really ran can pass or fail.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ai_infra.checkup.bounded import Outcome, run_bounded, signals_raise
from ai_infra.checkup.copies import copy_of_head, home_prefix, list_head, read_text
from ai_infra.checkup.detect import Suite, detect
from ai_infra.checkup.findings import Finding, PartResult, Verdict, bounded, found, plain
from ai_infra.checkup.git import Repo
from ai_infra.checkup.outcomes import Ending, Reading, read_outcome
from ai_infra.checkup.plans import INSIDE, Plan, clean_environment, make_plan

SUITE_S = 120.0
MAX_SUITES = 4
TAIL_LINES = 40


@dataclass(frozen=True, kw_only=True)
class Run:
    """One suite and what became of it."""

    suite: Suite
    command: tuple[str, ...]
    reading: Reading
    took_s: float = 0.0
    tail: str = ""


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `tests`."""
    if os.environ.get(INSIDE):
        return _nothing("already inside a check-up: the tests are not run again", "suite-not-run")
    if repo.head is None:
        return _nothing("no commits, so no tests", "no-tests")
    with signals_raise(), copy_of_head(repo, out) as copy:
        suites = detect(list_head(repo), lambda name: read_text(copy / name))
        return judge(list(gather(repo, copy, suites, say, str(out.absolute()))))


def gather(repo: Repo, copy: Path, suites: Sequence[Suite], say: Any, mark: str) -> Iterator[Run]:
    """Run what can run, one suite after the other."""
    for number, suite in enumerate(suites):
        if number >= MAX_SUITES:
            yield _not_run(suite, f"only the first {MAX_SUITES} suites are run")
            continue
        with tempfile.TemporaryDirectory(prefix=home_prefix(mark), ignore_cleanup_errors=True) as home:
            env = clean_environment(Path(home))
            plan = make_plan(suite, repo.top, copy, env)
            if plan.missing:
                yield _not_run(suite, plan.missing)
                continue
            say(f"  running {suite.name} (at most {SUITE_S:.0f} s)")
            yield _run_plan(plan, copy, env, mark)


def judge(runs: Sequence[Run]) -> PartResult:
    """One verdict: any failure fails, any pass without one is ok, nothing run is unknown."""
    endings = [run.reading.ending for run in runs]
    findings = [finding for run in runs for finding in _findings(run)]
    if not runs:
        findings.append(found("no-tests", "no test suite was found"))
    if Ending.FAILED in endings:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.OK if Ending.PASSED in endings else Verdict.UNKNOWN
    kept, counts = bounded(findings)
    return PartResult(
        part="tests",
        verdict=verdict,
        summary="; ".join(f"{run.suite.name}: {run.reading.words}" for run in runs)
        or "no test suite was found",
        findings=kept,
        data={"suites": [_to_json(run) for run in runs], "counts": counts},
    )


def _run_plan(plan: Plan, copy: Path, env: dict[str, str], mark: str) -> Run:
    try:
        outcome = run_bounded(plan.command, copy / plan.suite.folder, env | dict(plan.env), SUITE_S, run=mark)
    except OSError as exc:
        return _not_run(plan.suite, f"{plan.command[0]} could not be started: {exc.strerror}")
    reading = read_outcome(plan.suite.runner, outcome.code, outcome.output, _own_modules(copy))
    return Run(
        suite=plan.suite,
        command=plan.command,
        reading=reading,
        took_s=round(outcome.took_s, 1),
        tail=_tail(outcome),
    )


def _own_modules(copy: Path) -> set[str]:
    """The names that `import` may find at the top of the copy."""
    folders = [folder for folder in (copy, copy / "src") if folder.is_dir()]
    return {
        path.stem for folder in folders for path in folder.iterdir() if path.is_dir() or path.suffix == ".py"
    }


def _tail(outcome: Outcome) -> str:
    lines = [plain(line) for line in outcome.output.splitlines()[-TAIL_LINES:]]
    return "\n".join(lines)


def _not_run(suite: Suite, reason: str) -> Run:
    return Run(suite=suite, command=(), reading=Reading(ending=Ending.NOT_RUN, reason=reason))


def _nothing(reason: str, kind: str) -> PartResult:
    return PartResult(
        part="tests",
        verdict=Verdict.UNKNOWN,
        summary=reason,
        findings=[found(kind, reason)],
        data={"suites": []},
    )


def _findings(run: Run) -> list[Finding]:
    reading, name = run.reading, run.suite.name
    if reading.ending == Ending.NOT_RUN:
        return [found("suite-not-run", f"{name}: {reading.reason}")]
    if reading.ending == Ending.TIMEOUT:
        return [found("suite-timeout", f"{name}: not finished after {SUITE_S:.0f} s ({reading.words})")]
    if reading.ending == Ending.PASSED:
        return [found("suite-note", f"{name}: {run.suite.note}")] if run.suite.note else []
    missing = [found("suite-not-run", f"{name}: {reading.reason}")] if reading.reason else []
    named = [_failure(run, f.name, f.file, f.message) for f in reading.failures]
    if not named:
        words = f"{name}: exit code is not 0; its last words: {_last_words(run)}"
        named = [found("suite-failed", words)]
    return [*named, *missing]


def _failure(run: Run, name: str, file: str | None, message: str) -> Finding:
    place = os.path.join(run.suite.folder, file) if file else None
    short = name.removeprefix(f"{file}::") if file else name
    return found("tests-failed", f"{short}: {message}" if message else short, place)


def _last_words(run: Run) -> str:
    return " / ".join([line for line in run.tail.splitlines() if line.strip()][-3:]) or "none"


def _to_json(run: Run) -> dict[str, Any]:
    return {
        "name": run.suite.name,
        "runner": str(run.suite.runner),
        "folder": run.suite.folder,
        "command": [plain(word) for word in run.command],
        "ending": str(run.reading.ending),
        "reason": run.reading.reason,
        "note": run.suite.note,
        "counts": run.reading.counts,
        "failures": len(run.reading.failures),
        "took_s": run.took_s,
        "tail": run.tail,
    }
