"""Outcomes: what the output of a test runner says.

Counts, names of what failed, and why it could not run. Pure.
"""

from __future__ import annotations

import re
from collections.abc import Container
from dataclasses import dataclass, field
from enum import StrEnum

from ai_infra.checkup.counts import count
from ai_infra.checkup.detect import Runner
from ai_infra.checkup.findings import plural

NAMES = 100  #: failing tests that are listed

_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r(?!\n)")
_MISSING_MODULE = re.compile(r"(?:ModuleNotFoundError|ImportError): No module named '?([\w.]+)")
_MISSING_PARTS = {
    Runner.CARGO: r"failed to download|no matching package named|unable to update registry|without --offline"
    r"|failed to get `|failed to load source|can't find crate|no such subcommand|no default toolchain"
    r"|linker .* not found",
    Runner.GO: r"module lookup disabled|missing go\.sum entry|no required module provides"
    r"|toolchain not available|requires go >=|cannot find module",
    Runner.NPM: r"(?:sh|bash): (?:line )?\d+: (\S+): (?:command )?not found|Cannot find module '(\w[^'./]*)'"
    r"|ERR_MODULE_NOT_FOUND|Cannot find package '([^']+)'",
    Runner.MAKE: r"(?:sh|bash): (?:line )?\d+: (\S+): (?:command )?not found|No rule to make target"
    r"|make: (\S+): No such file|No module named (\S+)|(\S+): command not found",
}


class Ending(StrEnum):
    """What one suite's run says."""

    PASSED = "passed"
    FAILED = "failed"
    NOT_RUN = "not run"  #: something is missing, or there was nothing to run
    TIMEOUT = "timeout"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A failing test."""

    name: str
    file: str | None = None
    message: str = ""
    failed: bool = True  #: False: an error before the test itself


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What an output says."""

    ending: Ending
    reason: str = ""  #: why it, or a part of it, did not run
    counts: dict[str, int] = field(default_factory=dict)
    failures: tuple[Failure, ...] = ()

    @property
    def words(self) -> str:
        """`12 passed, 1 failed`; the reason when it did not run, the ending when nothing was counted."""
        if self.ending == Ending.NOT_RUN and self.reason:
            return self.reason
        said = [
            f"{count:,} {_singular(name) if count == 1 else name}"
            for name, count in self.counts.items()
            if count
        ]
        return ", ".join(said) or str(self.ending)


def read_outcome(runner: Runner, code: int | None, output: str, own: Container[str] = ()) -> Reading:
    """Judge one run by its exit code, and what it printed; `own` are the repository's top-level modules."""
    text = _ANSI.sub("", output)
    counts, failures = count(runner, text), tuple(failing(runner, text)[:NAMES])
    if code is None:
        return Reading(ending=Ending.TIMEOUT, counts=counts, failures=failures)
    if code == 0:
        # A runner that found nothing has proved nothing.
        empty = runner in (Runner.PYTEST, Runner.UNITTEST) and not (
            counts.get("passed") or counts.get("skipped")
        )
        if empty:
            return Reading(ending=Ending.NOT_RUN, reason="no tests were found by the runner")
        return Reading(ending=Ending.PASSED, counts=counts)
    if (reason := why_not_run(runner, code, text, counts, own)) is not None:
        return Reading(ending=Ending.NOT_RUN, reason=reason, counts=counts)
    if runner == Runner.PYTEST and (fixtures := _missing_fixtures(text, counts)):
        real = tuple(failure for failure in failures if failure.failed)
        reason = f"{plural(counts['errors'], 'error')} for want of pytest plugins ({fixtures})"
        return Reading(ending=Ending.FAILED, counts=counts, failures=real, reason=reason)
    return Reading(ending=Ending.FAILED, counts=counts, failures=failures)


def why_not_run(
    runner: Runner, code: int, text: str, counts: dict[str, int], own: Container[str] = ()
) -> str | None:
    """What was missing, when the suite did not fail but could not run at all."""
    if runner == Runner.PYTEST:
        return _why_pytest(code, text, counts, own)
    if runner == Runner.UNITTEST:
        return _why_unittest(text, counts, own)
    match = re.search(_MISSING_PARTS.get(runner, r"(?!)"), text)
    if match is None or counts.get("failed"):
        return None
    named = next((group for group in match.groups() if group), None)
    return f"missing: {named}" if named else f"something is missing: {_line_of(text, match)}"


def _why_pytest(code: int, text: str, counts: dict[str, int], own: Container[str]) -> str | None:
    missing = _missing_modules(text, own)
    if code == 5:
        return f"Python modules are missing: {missing}" if missing else "no tests were found by the runner"
    if counts.get("failed"):
        return None
    if code in (2, 3, 4) and missing:
        return f"Python modules are missing: {missing}"
    if fixtures := _missing_fixtures(text, counts):
        return f"pytest plugins are missing ({fixtures})"
    match = (
        re.search(r"unrecognized arguments: (.*)|Unknown config option: (.*)", text) if code == 4 else None
    )
    return f"a pytest plugin is missing ({(match[1] or match[2]).strip()})" if match else None


def _why_unittest(text: str, counts: dict[str, int], own: Container[str]) -> str | None:
    if re.search(r"^Ran 0 tests", text, re.MULTILINE):
        return "no tests were found by the runner"
    missing = _missing_modules(text, own)
    broken = text.count("ImportError: Failed to import test module")
    every = bool(missing) and broken >= counts.get("failed", 0)
    return f"Python modules are missing: {missing}" if every else None


def failing(runner: Runner, text: str) -> list[Failure]:
    """The tests named as failing, each once."""
    found: dict[str, Failure] = {}
    for pattern in _FAILING:
        for match in re.finditer(pattern, text, re.MULTILINE):
            groups = match.groupdict()
            name = groups["name"].strip()
            file = groups.get("file") or None
            message = (groups.get("message") or "").strip()
            failed = not match[0].startswith("ERROR ")
            found.setdefault(name, Failure(name=name, file=file, message=message, failed=failed))
        if found:
            break
    return list(found.values())


_FAILING = (
    r"^(?:FAILED|ERROR) (?P<name>(?P<file>[^\s:]+\.py)(?:::\S.*?)?)(?: - (?P<message>.*))?$",
    r"^(?:FAIL|ERROR): (?P<name>\w+ \([\w.]+\)).*$",
    r"^[ \t]*--- FAIL: (?P<name>\S+)",
    r"^test (?P<name>\S+) \.\.\. FAILED$",
    r"^[ \t]*not ok \d+ -? ?(?P<name>[^#\n]+)",
    r"^[ \t]+● (?P<name>.+)$",
    r"^[ \t]*[\u2716\u2715\u00d7] (?P<name>.+?)(?: \([\d.]+ ?ms\))?$",
    r"^  \d+\) (?P<name>.+)$",
)


def _singular(name: str) -> str:
    return {"errors": "error", "expected failures": "expected failure"}.get(name, name)


def _missing_fixtures(text: str, counts: dict[str, int]) -> str:
    """The fixtures that nothing defines, when they explain every error; empty otherwise."""
    names = re.findall(r"^E\s+fixture '(\w+)' not found", text, re.MULTILINE)
    if not names or len(names) != counts.get("errors"):
        return ""
    return f"fixtures: {', '.join(sorted(set(names))[:5])}"


def _missing_modules(text: str, own: Container[str]) -> str:
    """The modules somebody would have to install; one of the repository's own that is missing is a failure.

    An own module with a leading underscore is most likely compiled code that was not built.
    """
    names = set()
    for name in _MISSING_MODULE.findall(text):
        top, last = name.partition(".")[0], name.rpartition(".")[2]
        if top not in own:
            names.add(top)
        elif last.startswith("_"):
            names.add(f"{name} (not built)")
        else:
            return ""
    return ", ".join(sorted(names)[:8])


def _line_of(text: str, match: re.Match[str]) -> str:
    start = text.rfind("\n", 0, match.start()) + 1
    end = text.find("\n", match.end())
    return text[start : end if end >= 0 else None].strip()[:160]
