"""Counts: how many tests passed, failed and were skipped, by the words of each runner. Pure."""

from __future__ import annotations

import re
from collections import Counter

from ai_infra.checkup.detect import Runner


def count(runner: Runner, text: str) -> dict[str, int]:
    """How many passed, failed and were skipped, by the last summary that is there."""
    readers = {
        Runner.PYTEST: (_count_pytest,),
        Runner.UNITTEST: (_count_unittest,),
        Runner.GO: (_count_go,),
        Runner.CARGO: (_count_cargo,),
        Runner.NPM: (_count_jest, _count_mocha, _count_tap),
        Runner.MAKE: (
            _count_pytest,
            _count_unittest,
            _count_cargo,
            _count_go,
            _count_jest,
            _count_tap,
            _count_mocha,
        ),
    }
    for reader in readers.get(runner, ()):
        if counts := reader(text):
            return counts
    return {}


_PYTEST_WORDS = {
    "passed": "passed",
    "failed": "failed",
    "error": "errors",
    "errors": "errors",
    "skipped": "skipped",
    "xfailed": "expected failures",
    "xpassed": "unexpected passes",
}


def _count_pytest(text: str) -> dict[str, int]:
    for line in reversed(text.splitlines()):
        if re.search(r"\d+ \w+.* in [\d.]+s", line) and (pairs := re.findall(r"(\d+) ([a-z]+)", line)):
            return {_PYTEST_WORDS[name]: int(number) for number, name in pairs if name in _PYTEST_WORDS}
    return {}


def _count_unittest(text: str) -> dict[str, int]:
    ran = re.findall(r"^Ran (\d+) tests? in", text, re.MULTILINE)
    if not ran:
        return {}
    last = re.findall(r"^(?:FAILED|OK)(?: \((.*)\))?$", text, re.MULTILINE)
    pairs: list[tuple[str, str]] = re.findall(r"([a-z]+)=(\d+)", last[-1]) if last else []
    rest = {name: int(number) for name, number in pairs}
    failed, skipped = rest.get("failures", 0) + rest.get("errors", 0), rest.get("skipped", 0)
    return {"passed": int(ran[-1]) - failed - skipped, "failed": failed, "skipped": skipped}


def _count_go(text: str) -> dict[str, int]:
    if not (lines := re.findall(r"^(ok|FAIL) *\t\S+", text, re.MULTILINE)):
        return {}
    totals = Counter(lines)
    return {"packages passed": totals["ok"], "packages failed": totals["FAIL"]}


def _count_cargo(text: str) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for passed, failed, ignored in re.findall(
        r"^test result: .*?(\d+) passed; (\d+) failed; (\d+) ignored", text, re.M
    ):
        totals.update({"passed": int(passed), "failed": int(failed), "skipped": int(ignored)})
    return dict(totals)


def _count_jest(text: str) -> dict[str, int]:
    for line in reversed(text.splitlines()):
        if re.match(r"\s*Tests:?\s+\d", line):
            pairs = re.findall(r"(\d+) (passed|failed|skipped|todo)", line)
            return {name: int(number) for number, name in pairs}
    return {}


def _count_mocha(text: str) -> dict[str, int]:
    names = {"passing": "passed", "failing": "failed", "pending": "skipped"}
    pairs = re.findall(r"^[ \t]+(\d+) (passing|failing|pending)\b", text, re.MULTILINE)
    return {names[name]: int(number) for number, name in pairs}


def _count_tap(text: str) -> dict[str, int]:
    names = {"pass": "passed", "fail": "failed", "skipped": "skipped", "skip": "skipped"}
    if pairs := re.findall(r"^[#\u2139] (pass|fail|skipped|skip)\s+(\d+)", text, re.MULTILINE):
        return {names[name]: int(number) for name, number in pairs}
    good = len(re.findall(r"^ok \d+", text, re.MULTILINE))
    bad = len(re.findall(r"^not ok \d+", text, re.MULTILINE))
    return {"passed": good, "failed": bad} if good + bad else {}
