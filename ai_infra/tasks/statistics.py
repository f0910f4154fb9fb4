"""Statistics: what became of the tasks that ended in a time, and why some failed. Pure."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

from ai_infra.core.ids import AgentName, TaskId
from ai_infra.tasks.record import TaskRecord
from ai_infra.tasks.task import State

TOP_CAUSES = 5

#: What an error is counted as: the first of these that fits, without names, paths and numbers of its task.
_CAUSES = (
    (re.compile(r"command \d+ of \d+ (ended with exit code \d+|was killed by signal \d+)"), r"\1"),
    (re.compile(r"not finished after .* \(timeout_s\)"), "not finished in its time"),
    (re.compile(r"poison: "), "its worker died too often"),
    (re.compile(r"bug: (\w+)"), r"bug: \1"),
    (re.compile(r"expected (exit code|output matches|file|json|command)\b"), r"expected \1"),
    (re.compile(r"[^:]*/[^:]*: (.{1,60})"), r"\1"),  # a path, and what is wrong with it
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Past:
    """One task that has ended. Instants in ms, 0: never."""

    id: TaskId
    agent: AgentName
    state: str
    created: int
    ready: int
    started: int
    ended: int
    attempts: int
    excused: int
    deaths: int
    error: str

    @classmethod
    def of(cls, row: Sequence[Any]) -> Self:
        """From `history` of connectors/engine/archive.lua."""
        state, agent, created, ready, started, ended, attempts, excused, deaths, error, id = row
        return cls(
            id=id,
            agent=agent,
            state=state,
            created=int(created),
            ready=int(ready or 0),
            started=int(started or 0),
            ended=int(ended),
            attempts=int(attempts),
            excused=int(excused or 0),
            deaths=int(deaths or 0),
            error=error or "",
        )

    @classmethod
    def of_record(cls, record: TaskRecord) -> Self:
        """The same from an archived task."""
        names = ("s", "a", "ts", "rd", "st", "fi", "at", "ex", "ds", "er")
        return cls.of([*(record.fields.get(name) for name in names), record.id])


@dataclass(frozen=True, kw_only=True)
class Spread:
    """How long something took, in seconds; None: it never happened."""

    p50_s: float | None
    p95_s: float | None
    max_s: float | None


@dataclass(frozen=True, kw_only=True)
class Cause:
    """Why tasks failed."""

    reason: str
    tasks: int
    example: TaskId  #: the newest of them


@dataclass(frozen=True, kw_only=True)
class AgentStatistics:
    """One agent, or all of them."""

    completed: int
    failed: int
    cancelled: int
    runs: int  #: attempts of these tasks, all of them
    retries: int  #: those that were not a task's first
    deaths: int  #: those that ended with their worker
    wait: Spread  #: from READY to the start of the last attempt
    duration: Spread  #: of the last attempt
    per_hour: float  #: ends
    causes: tuple[Cause, ...]  #: of failures, the most frequent first


@dataclass(frozen=True, kw_only=True)
class Statistics:
    """What ended in a time."""

    since_s: float  #: how long that time is, up to now
    all: AgentStatistics
    agents: dict[AgentName, AgentStatistics]


@dataclass
class _Sum:
    states: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    retries: int = 0
    deaths: int = 0
    waits: array[float] = field(default_factory=lambda: array("d"))
    durations: array[float] = field(default_factory=lambda: array("d"))
    causes: Counter[str] = field(default_factory=Counter)
    examples: dict[str, tuple[int, TaskId]] = field(default_factory=dict)

    def add(self, past: Past) -> None:
        self.states[past.state] += 1
        self.runs += past.attempts
        self.retries += max(0, past.attempts - 1)
        self.deaths += past.deaths
        if past.started and past.ended >= past.started:
            self.durations.append((past.ended - past.started) / 1000)
            if past.started >= past.ready > 0:
                self.waits.append((past.started - past.ready) / 1000)
        if past.state == State.FAILED:
            reason = cause_of(past.error)
            self.causes[reason] += 1
            self.examples[reason] = max(self.examples.get(reason, (0, past.id)), (past.ended, past.id))

    def result(self, since_s: float) -> AgentStatistics:
        return AgentStatistics(
            completed=self.states[State.COMPLETED],
            failed=self.states[State.FAILED],
            cancelled=self.states[State.CANCELLED],
            runs=self.runs,
            retries=self.retries,
            deaths=self.deaths,
            wait=spread(self.waits),
            duration=spread(self.durations),
            per_hour=round(self.states.total() / (since_s / 3600), 2),
            causes=tuple(
                Cause(reason=reason, tasks=count, example=self.examples[reason][1])
                for reason, count in self.causes.most_common(TOP_CAUSES)
            ),
        )


def summarise(tasks: Iterable[Past], since_s: float) -> Statistics:
    """Counts, waits, durations and causes of what ended in the last `since_s` seconds."""
    everyone, agents = _Sum(), dict[AgentName, _Sum]()
    for past in tasks:
        everyone.add(past)
        agents.setdefault(past.agent, _Sum()).add(past)
    return Statistics(
        since_s=since_s,
        all=everyone.result(since_s),
        agents={name: agents[name].result(since_s) for name in sorted(agents)},
    )


def spread(values: Iterable[float]) -> Spread:
    """Median, 95th percentile (nearest rank) and the longest."""
    ordered = sorted(values)
    if not ordered:
        return Spread(p50_s=None, p95_s=None, max_s=None)
    ranked = [ordered[max(0, -(-len(ordered) * share // 100) - 1)] for share in (50, 95)]
    return Spread(p50_s=ranked[0], p95_s=ranked[1], max_s=ordered[-1])


def cause_of(error: str) -> str:
    """An error without what belongs to its task alone, so that equal causes are counted together."""
    for pattern, words in _CAUSES:
        if found := pattern.match(error):
            return found.expand(words)
    return error.partition("\n")[0][:80].strip() or "no reason is recorded"
