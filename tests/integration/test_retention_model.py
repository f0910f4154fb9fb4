"""Retention after anything that can happen: what is open keeps what it needs; then nothing is left."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from test_engine_model import Team

from ai_infra.core.ids import TaskId
from ai_infra.tasks.task import TERMINAL

#: keys that are of no task
LASTING = {
    "agents",
    "events",
    "n",
    "seq",
    "timer",
    "workers",
    "leases",
    "schema",
    "m",
    "minutes",
    "gate",
    "idle",
    "seen",
    "beats",
    "beat",
    "spared",
    "inbox",
    "reopen",
    "wanted",
}


class Kept(Team):
    """The same team; at the end of each story all that may go is forgotten, once while much is open yet."""

    def drain(self) -> None:
        before = {task: self.wait(self.engine.get(task)) for task in self.specs}
        gone = self.archive()
        assert all(before[task].state in TERMINAL for task in gone)
        self.specs = {task: spec for task, spec in self.specs.items() if task not in gone}
        for view in before.values():
            if view.state not in TERMINAL:
                assert not gone & set(view.spec.needs), f"{view.id} needs what is gone"
        super().drain()
        assert self.archive() == set(self.specs)
        prefix = self.engine.connection.prefix
        keys = self.wait(self.engine.connection.command("KEYS", prefix + "*"))
        headless = set() if any(view.spec.workflow for view in before.values()) else {"wf", "wfs"}
        assert {key.removeprefix(prefix).split(":")[0] for key in keys} <= LASTING | headless
        counts = [*self.raw("HVALS", "n:code"), *self.raw("HVALS", "n:qa")]
        assert all(int(count) == 0 for count in counts)

    def archive(self) -> set[TaskId]:
        gone: set[TaskId] = set()
        skips, more = (0, 0, 0), True
        while more:
            part = self.wait(self.engine.finished(keep=0, before_ms=0, skips=skips, limit=3))
            gone |= set(self.wait(self.engine.forget(part.records)))
            skips, more = part.skips, part.more
        return gone


@pytest.mark.timeout(300)
def test_whatever_has_happened_it_can_be_archived(redis_server: Any) -> None:
    class Here(Kept):
        address = redis_server.address

    run_state_machine_as_test(
        Here,
        settings=settings(
            max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
