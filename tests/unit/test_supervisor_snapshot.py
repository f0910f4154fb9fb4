"""The snapshot: three sources put together, and what is said when one is silent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from ai_infra.core.durable import FileLock
from ai_infra.core.home import Home
from ai_infra.core.process import ProcessState, lock_path
from ai_infra.core.settings import Settings, load_settings
from ai_infra.supervisor.ledger import Ledger, LedgerChange, WindowRecord
from ai_infra.supervisor.snapshot import (
    AgentLoad,
    Health,
    Snapshot,
    WindowStatus,
    judge_health,
    take_snapshot,
)
from ai_infra.supervisor.spec import load_session
from ai_infra.supervisor.tmux import Absent, Foreign, Pane, Present, Sight, Unknown

# -- health -------------------------------------------------------------------------------------------------


def load(done: int = 0, failed: int = 0, wait_s: float = 0.0) -> AgentLoad:
    return AgentLoad(done_last_hour=done, failed_last_hour=failed, wait_s=wait_s)


@pytest.mark.parametrize(
    ("work", "beat_age_s", "alive", "health"),
    [
        (load(), 0.0, True, Health.HEALTHY),
        (None, 29.9, True, Health.HEALTHY),
        (load(done=10), 30.0, True, Health.HEALTHY),
        (load(done=10), 30.1, True, Health.OFFLINE),
        (load(done=10), None, True, Health.OFFLINE),
        (load(done=10), 0.0, False, Health.OFFLINE),
        (None, None, False, Health.OFFLINE),
        (load(done=8, failed=2), 0.0, True, Health.HEALTHY),  # 20 % is not over 20 %
        (load(done=7, failed=2), 0.0, True, Health.DEGRADED),
        (load(done=5, failed=5), 0.0, True, Health.DEGRADED),
        (load(done=4, failed=5), 0.0, True, Health.UNHEALTHY),
        (load(failed=1), 0.0, True, Health.UNHEALTHY),
        (load(done=1, wait_s=30.0), 0.0, True, Health.HEALTHY),
        (load(done=1, wait_s=30.1), 0.0, True, Health.DEGRADED),
        (load(failed=3, wait_s=99.0), 0.0, True, Health.UNHEALTHY),
        (load(wait_s=99.0), 0.0, True, Health.HEALTHY),  # a mean over nothing says nothing
    ],
)
def test_health(work: AgentLoad | None, beat_age_s: float | None, alive: bool, health: Health) -> None:
    assert judge_health(work, beat_age_s, alive, offline_s=30.0) is health


# -- one window ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Beat:
    payload: Mapping[str, Any] = field(default_factory=dict)
    age_s: float = 1.0


class Scene:
    """An installation whose processes live if a lock says so."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.ensure()
        self.settings: Settings = load_settings(self.home, {})
        self.spec = load_session(self.settings)
        self.beats: dict[str, Beat] = {}
        self.sight: Sight = self.present()
        self._locks: list[FileLock] = []

    def present(self, dead: bool = False, home: str | None = None) -> Present:
        panes = {
            name: Pane(window=name, window_id="@1", pane_id="%1", pid=4242, dead=dead, exit_status=None,
                       exit_signal=None)
            for name in self.spec.names
        }  # fmt: skip
        return Present(session_id="$1", home=home or str(self.home.root), panes=panes)

    def live(self, name: str) -> None:
        """A process of this name lives: us."""
        lock = FileLock(lock_path(self.home, name))
        assert lock.try_acquire()
        lock.write({"pid": os.getpid()})
        self._locks.append(lock)

    def beat(self, name: str, state: str = "RUNNING", age_s: float = 1.0, **more: Any) -> None:
        self.beats[name] = Beat({"pid": os.getpid(), "state": state, **more}, age_s)

    def record(self, name: str, record: WindowRecord, wanted: bool = True) -> None:
        LedgerChange(self.home).save(Ledger(wanted=wanted).with_record(name, record))

    def take(self, loads: Mapping[str, AgentLoad] | None = None) -> Snapshot:
        return take_snapshot(self.settings, self.spec, self.sight, self.beats, loads or {},
                             redis="embedded", redis_ok=True, durable=True)  # fmt: skip

    def window(self, name: str = "code") -> WindowStatus:
        return next(window for window in self.take().windows if window.name == name)

    def close(self) -> None:
        for lock in self._locks:
            lock.release()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    found = Scene(tmp_path / "home")
    yield found
    found.close()


def test_a_process_that_lives_and_says_so(scene: Scene) -> None:
    scene.live("code")
    scene.beat(
        "code", started_at=0.0, rss_bytes=30, cpu_percent=1.5, task="t-1", task_name="lint", worker="w"
    )
    window = scene.window()
    assert (window.state, window.health, window.pid) == (ProcessState.RUNNING, Health.HEALTHY, os.getpid())
    assert (window.rss_bytes, window.cpu_percent, window.beat_age_s) == (30, 1.5, 1.0)
    assert window.activity == {"task": "t-1", "task_name": "lint"}
    assert window.is_agent
    assert not scene.window("monitor").is_agent


def test_a_heartbeat_of_an_earlier_life_counts_for_nothing(scene: Scene) -> None:
    scene.live("code")
    scene.beats["code"] = Beat({"pid": 1, "state": "RUNNING", "rss_bytes": 30, "task": "t-1"})
    window = scene.window()
    assert (window.state, window.health) == (ProcessState.STARTING, Health.OFFLINE)
    assert (window.rss_bytes, window.beat_age_s, window.activity) == (None, None, {})


def test_a_heartbeat_too_old_means_offline(scene: Scene) -> None:
    scene.live("code")
    scene.beat("code", age_s=31.0)
    assert scene.window().health is Health.OFFLINE


@pytest.mark.parametrize(
    ("record", "state"),
    [
        (WindowRecord(state=ProcessState.FATAL, last_exit="exit 1"), ProcessState.FATAL),
        (WindowRecord(state=ProcessState.STOPPED), ProcessState.STOPPED),
        (WindowRecord(state=ProcessState.BACKOFF, restart_at=0.0), ProcessState.BACKOFF),
        (WindowRecord(), ProcessState.STARTING),
    ],
)
def test_the_ledgers_word_comes_first_where_it_waits(
    scene: Scene, record: WindowRecord, state: ProcessState
) -> None:
    scene.record("code", record)
    assert scene.window().state is state


def test_a_restart_that_is_due_is_shown(scene: Scene) -> None:
    scene.record("code", WindowRecord(state=ProcessState.BACKOFF, restart_at=4e9, restarts_total=3))
    window = scene.window()
    assert window.restart_in_s is not None
    assert window.restart_in_s > 1e6
    assert window.restarts == 3


def test_a_dead_pane_means_exited_and_no_session_stopped(scene: Scene) -> None:
    scene.sight = scene.present(dead=True)
    assert scene.window().state is ProcessState.EXITED
    scene.sight = Absent()
    assert scene.window().state is ProcessState.STOPPED


def test_a_silent_tmux_stops_nothing(scene: Scene) -> None:
    scene.live("code")
    scene.beat("code")
    scene.sight = Unknown("no answer")
    assert scene.window().state is ProcessState.RUNNING
    assert not scene.take().up


# -- the whole ----------------------------------------------------------------------------------------------


def test_all_well(scene: Scene) -> None:
    for name in scene.spec.names:
        scene.live(name)
        scene.beat(name)
    found = scene.take({"code": load(done=3)})
    assert found.is_well
    assert found.up
    assert [window.name for window in found.windows] == scene.spec.names
    assert next(w.load for w in found.windows if w.name == "code") == load(done=3)
    assert next(w.load for w in found.windows if w.name == "qa") == AgentLoad()
    assert next(w.load for w in found.windows if w.name == "redis") is None


@pytest.mark.parametrize(
    ("sight", "wanted", "problem"),
    [
        (Absent(), True, "the session should be up and is not; `ai-infra up` brings it back"),
        (Absent(), False, None),
        (Unknown("no answer"), False, "tmux is unclear: no answer"),
        (Foreign("$1"), False, "tmux is unclear: a session of that name is not ours"),
    ],
)
def test_what_tmux_cannot_tell_is_a_problem(
    scene: Scene, sight: Sight, wanted: bool, problem: str | None
) -> None:
    scene.sight = sight
    scene.record("code", WindowRecord(), wanted=wanted)
    found = scene.take()
    assert found.problems == ((problem,) if problem else ())
    assert not found.up
    assert not found.is_well


def test_a_session_of_another_installation_is_a_problem(scene: Scene) -> None:
    scene.sight = scene.present(home="/other")
    found = scene.take()
    assert not found.up
    assert any("/other" in problem for problem in found.problems)
