"""Telling: what an agent says of its tasks, to its log, its heartbeat and its window."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Protocol

from ai_infra.agents.attempt import AttemptView
from ai_infra.core.process import Process
from ai_infra.tasks.task import Claim, Outcome, TaskSpec


class WorkerView(AttemptView, Protocol):
    """The agent's window."""

    def idle(self, counts: Mapping[str, int]) -> None:
        """Nothing to do; asleep until a task comes. `counts`: outcomes of this life, by state."""

    def task_started(self, spec: TaskSpec, attempt: int) -> None:
        """A task was claimed."""

    def task_ended(self, spec: TaskSpec, state: str, reason: str, duration_s: float) -> None:
        """Its outcome was accepted, or refused."""


class Telling:
    """The voice of one life of an agent."""

    def __init__(self, process: Process, view: WorkerView) -> None:
        self._process, self._view = process, view
        self._counts: dict[str, int] = {}
        self._paused = ""

    def idle(self) -> None:
        """There is nothing to do."""
        if not self._paused:
            self._view.idle(self._counts)

    def paused(self, reason: str, *, working: bool) -> None:
        """The agent is paused, for this reason; "": it is not. Said when it changes."""
        if reason == self._paused:
            return
        self._paused = reason
        if reason:
            self._process.log("paused", reason=reason)
            return
        self._process.log("resumed")
        if not working:
            self.idle()

    def started(self, claim: Claim) -> None:
        """A task was begun; heartbeats name it until ended()."""
        spec = claim.spec
        self._process.activity = {"task": spec.id, "task_name": spec.name, "attempt": claim.attempt,
                                  "task_started_at": time.time()}  # fmt: skip
        self._process.log(
            "task_started", task=spec.id, name=spec.name, attempt=claim.attempt, workflow=spec.workflow
        )
        self._view.task_started(spec, claim.attempt)

    def ended(self, claim: Claim, state: str, outcome: Outcome, took_s: float) -> None:
        """What became of it."""
        spec, reason = claim.spec, outcome.error or outcome.reason
        self._process.activity = {}
        self._process.log(
            "task_ended",
            level="info" if outcome.ok else "warning",
            task=spec.id,
            name=spec.name,
            attempt=claim.attempt,
            state=state,
            reason=reason,
            duration_s=round(took_s, 3),
        )
        shown = "SKIPPED" if outcome.result.get("skipped") is True and state == "COMPLETED" else state
        self._counts[shown] = self._counts.get(shown, 0) + 1
        self._view.task_ended(spec, shown, reason, took_s)
