"""Verdicts: what an attempt comes to at its end: done or why not, in words and for the retry rules. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from ai_infra.agents.checks import Checked
from ai_infra.agents.commands import Command, CommandEnd, words_of
from ai_infra.agents.exchange import Handed
from ai_infra.tasks.retry import Failure
from ai_infra.tasks.task import CANCELLED_REASON, TaskSpec

Ends = Sequence[tuple[Command, CommandEnd]]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """What is known of an attempt at its end."""

    spec: TaskSpec
    stopped: str = ""  #: why we stopped it: "timeout", "cancelled" or "drained"
    told: bool = False  #: whether the last command was told that soft_timeout_s is over
    ends: Ends = ()
    checks: Sequence[Checked] = ()
    handed: Handed = field(default_factory=Handed)


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What it comes to."""

    error: str | None  #: why it is not done, in one line; None when it is
    reason: str  #: the same for the event: "exit 1"
    failure: Failure | None = None  #: for the retry rules; None when it is done, or was stopped by somebody


def verdict_of(ended: Ended) -> Verdict:
    """Judge."""
    if ended.stopped:
        return _stopped(ended)
    missed = [check for check in ended.checks if not check.ok]
    if len(ended.ends) < len(ended.spec.run) or (missed and missed[0].what.startswith("exit code")):
        return _command_failed(ended)
    if missed:
        error = "; ".join(f"expected {check.what}: {check.evidence}" for check in missed)[:1000]
        return Verdict(error=error, reason="check failed", failure=Failure(kind="check"))
    if ended.handed.problem:
        error = f"AI_INFRA_RESULT: {ended.handed.problem}"
        return Verdict(error=error, reason="bad result", failure=Failure(kind="check"))
    return Verdict(error=None, reason=_exit(ended))


def _stopped(ended: Ended) -> Verdict:
    if ended.stopped == "timeout":
        error = f"not finished after {ended.spec.timeout_s:g} s (timeout_s)"
        return Verdict(error=error, reason="timeout", failure=Failure(kind="timeout"))
    reason = CANCELLED_REASON if ended.stopped == "cancelled" else ended.stopped
    return Verdict(error=f"stopped: {ended.stopped}", reason=reason)


def _command_failed(ended: Ended) -> Verdict:
    command, end = ended.ends[-1]
    words = (
        f"command {len(ended.ends)} of {len(ended.spec.run)} {_how(end.exit_code)}: {words_of(command)[:200]}"
    )
    if ended.told and end.exit_code != 0:
        error = f"told to end after {ended.spec.soft_timeout_s:g} s (soft_timeout_s): {words}"
        return Verdict(error=error, reason="soft timeout", failure=Failure(kind="timeout"))
    return Verdict(error=words, reason=_exit(ended), failure=Failure(kind="exit", exit_code=end.exit_code))


def _exit(ended: Ended) -> str:
    return f"exit {ended.ends[-1][1].exit_code}" if ended.ends else "nothing ran"


def _how(exit_code: int) -> str:
    return f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
