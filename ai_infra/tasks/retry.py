"""Retry rules: whether an attempt that did not succeed deserves another, by what ended it. Pure.

A rule is a text:

    exit:75  exit:1-10     the exit code; one killed by signal N has 128 + N, as in a shell
    timeout                timeout_s was over, or the command ended because soft_timeout_s was
    check                  an expectation did not hold, or the value handed in was no good
    machine                this machine's fault: no disk, no rights
    output:REGEX           found in the end of the output, whatever ended the attempt

Without rules every failure is tried again, up to max_attempts. `only_for`: a rule of it must fit.
`not_for`: none of it may; it wins.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

KINDS = ("timeout", "check", "machine")
Kind = Literal["exit", "timeout", "check", "machine"]
_EXIT = re.compile(r"exit:(\d{1,3})(?:-(\d{1,3}))?")
_OUTPUT = "output:"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What ended an attempt."""

    kind: Kind
    exit_code: int | None = None  #: of the last command; negative for a signal


def rule_problem(rule: str) -> str | None:
    """Why `rule` is none, or None."""
    if rule in KINDS:
        return None
    if rule.startswith(_OUTPUT):
        try:
            re.compile(rule.removeprefix(_OUTPUT))
        except (re.error, OverflowError, RecursionError) as exc:
            return f"{rule!r} is not a regular expression: {exc}"
        return None if rule != _OUTPUT else f"{rule!r} says no pattern"
    match = _EXIT.fullmatch(rule)
    if match is None:
        return f"unknown rule {rule!r}; known: exit:N, exit:N-M, {', '.join(KINDS)}, output:REGEX"
    low, high = _codes(match)
    return None if low <= high <= 255 else f"{rule!r} is no range of exit codes from 0 to 255"


def patterns(rules: Sequence[str]) -> list[str]:
    """The regular expressions that the output must be searched for before refusal() is asked."""
    return [rule.removeprefix(_OUTPUT) for rule in rules if rule.startswith(_OUTPUT)]


def refusal(
    failure: Failure, only_for: Sequence[str], not_for: Sequence[str], found: Collection[str] = ()
) -> str:
    """Why there is no other attempt, in words; empty when there may be. `found`: patterns in the output."""
    for rule in not_for:
        if _fits(rule, failure, found):
            return f"not tried again: {rule} is in not_for"
    if only_for and not any(_fits(rule, failure, found) for rule in only_for):
        return f"not tried again: only for {', '.join(only_for)}"
    return ""


def _fits(rule: str, failure: Failure, found: Collection[str]) -> bool:
    if rule.startswith(_OUTPUT):
        return rule.removeprefix(_OUTPUT) in found
    match = _EXIT.fullmatch(rule)
    if match is None:
        return rule == failure.kind
    if failure.kind != "exit" or failure.exit_code is None:
        return False
    code = failure.exit_code if failure.exit_code >= 0 else 128 - failure.exit_code
    low, high = _codes(match)
    return low <= code <= high


def _codes(match: re.Match[str]) -> tuple[int, int]:
    return int(match[1]), int(match[2] or match[1])
