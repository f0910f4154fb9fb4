"""The ledger: what follows from a death, and what is left of it on disk."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.durable import FileLock
from ai_infra.core.errors import Conflict
from ai_infra.core.home import Home
from ai_infra.core.process import ProcessState
from ai_infra.core.settings import SupervisorSettings
from ai_infra.supervisor import ledger
from ai_infra.supervisor.ledger import (
    Ledger,
    LedgerChange,
    WindowRecord,
    after_death,
    after_restart,
    changing,
    read_ledger,
    wait_s,
)

POLICY = SupervisorSettings(
    ready_timeout_s=60.0, restart_delay_s=1.0, restart_delay_max_s=60.0, restart_limit=5,
    restart_window_s=300.0, heartbeat_s=5.0, offline_s=30.0, drain_s=10.0,
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    found.ensure()
    return found


def die_and_come_back(record: WindowRecord, at: float) -> tuple[WindowRecord, float]:
    """One death at `at`, and the restart when it is due; the record and the time of the restart."""
    record = after_death(record, "killed by signal 9", at, POLICY)
    assert record.restart_at is not None
    return after_restart(record, record.restart_at), record.restart_at


# -- decisions ----------------------------------------------------------------------------------------------


def test_the_delay_doubles_with_each_restart() -> None:
    record, at, delays = WindowRecord(), 1000.0, []
    for _ in range(5):
        record, back_at = die_and_come_back(record, at)
        delays.append(back_at - at)
        at = back_at
    assert delays == [1, 2, 4, 8, 16]


def test_the_delay_has_a_cap() -> None:
    policy = replace(POLICY, restart_limit=20)
    record = WindowRecord(restarts=tuple(1000.0 + i for i in range(12)))
    assert after_death(record, "exit 1", 1020, policy).restart_at == 1080


def test_a_death_means_backoff_and_is_remembered() -> None:
    record = after_death(WindowRecord(restarts_total=7), "exit 1: no disk", 1000, POLICY)
    assert record == WindowRecord(
        state=ProcessState.BACKOFF, restart_at=1001, restarts_total=7, last_exit="exit 1: no disk"
    )


def test_a_restart_means_running_and_is_counted() -> None:
    record = after_restart(
        WindowRecord(state=ProcessState.BACKOFF, restart_at=1001, last_exit="exit 1"), 1002
    )
    assert record == WindowRecord(restarts=(1002,), restarts_total=1, last_exit="exit 1")


def test_after_five_restarts_in_the_window_the_next_death_is_fatal() -> None:
    record, at = WindowRecord(), 1000.0
    for _ in range(5):
        record, at = die_and_come_back(record, at)
        assert record.state is ProcessState.RUNNING
    record = after_death(record, "exit 1", at, POLICY)
    assert record.state is ProcessState.FATAL
    assert record.restart_at is None
    assert (record.restarts_total, len(record.restarts), record.last_exit) == (5, 5, "exit 1")


def test_old_restarts_are_forgotten_and_the_delay_begins_anew() -> None:
    record = WindowRecord(restarts=(1000, 1001, 1002, 1003, 1299.5), restarts_total=5)
    record = after_death(record, "exit 1", 1303, POLICY)
    assert record.restarts == (1299.5,)  # one of exactly the window's length has gone, too
    assert record.restart_at == 1305
    assert record.restarts_total == 5


def test_restarts_of_a_time_to_come_do_not_count() -> None:
    """The clock was set back: what it said before says nothing now."""
    record = WindowRecord(restarts=(5000.0, 5001.0, 5002.0, 5003.0, 5004.0))
    record = after_death(record, "exit 1", 1000.0, POLICY)
    assert (record.state, record.restarts, record.restart_at) == (ProcessState.BACKOFF, (), 1001.0)


@pytest.mark.parametrize(
    ("restart_at", "turn_s", "expected"),
    [
        (1005.0, 0.0, 5.0),
        (1005.0, 0.4, 5.4),
        (1000.0, 0.0, 0.0),
        (1000.0, 0.4, 0.4),
        (999.0, 0.4, 0.0),
        (1060.0, 0.0, 60.0),
        (1061.0, 0.4, 0.0),
        (9e9, 0.0, 0.0),
        (None, 0.0, 0.0),
    ],
)
def test_how_long_a_restart_is_waited_for(restart_at: float | None, turn_s: float, expected: float) -> None:
    """Never longer than the longest delay, whatever was done to the clock."""
    record = WindowRecord(state=ProcessState.BACKOFF, restart_at=restart_at)
    assert wait_s(record, 1000.0, turn_s, POLICY) == pytest.approx(expected)


@settings(deadline=None)
@given(now=st.floats(1.6e9, 2.5e9), turn_s=st.sampled_from([0.0, 0.4, 2.8]))
def test_the_longest_wait_is_kept_at_any_time_of_day(now: float, turn_s: float) -> None:
    policy = replace(POLICY, restart_delay_s=60.0)
    record = after_death(WindowRecord(), "exit 1", now, policy)
    assert wait_s(record, now, turn_s, policy) == pytest.approx(60.0 + turn_s)


@settings(deadline=None)
@given(
    lives_s=st.lists(st.floats(0, 200), max_size=60),
    late_s=st.floats(0, 5),
    limit=st.integers(1, 6),
    window_s=st.floats(1, 400),
    delay_s=st.floats(0, 5),
)
def test_there_are_never_more_restarts_in_any_window_than_the_limit(
    lives_s: list[float], late_s: float, limit: int, window_s: float, delay_s: float
) -> None:
    policy = replace(POLICY, restart_limit=limit, restart_window_s=window_s, restart_delay_s=delay_s)
    record, now, restarts = WindowRecord(), 0.0, []
    for life_s in lives_s:
        now += life_s
        record = after_death(record, "exit 1", now, policy)
        if record.state is ProcessState.FATAL:
            break
        assert record.restart_at is not None
        assert now <= record.restart_at <= now + policy.restart_delay_max_s
        now = record.restart_at + late_s
        record = after_restart(record, now)
        restarts.append(now)
    for last in restarts:
        assert sum(last - window_s < at <= last for at in restarts) <= limit


def test_a_person_who_never_wants_fatal_gets_the_longest_delay() -> None:
    policy = replace(POLICY, restart_limit=1_000_000, restart_window_s=1e9)
    record = WindowRecord(restarts=tuple(float(i) for i in range(1100)))
    assert after_death(record, "exit 1", 2000, policy).restart_at == 2060


# -- the file -----------------------------------------------------------------------------------------------

records = st.builds(
    WindowRecord,
    state=st.sampled_from(ProcessState),
    restarts=st.lists(st.floats(0, 4e9), max_size=6).map(tuple),
    restarts_total=st.integers(0, 10**6),
    restart_at=st.none() | st.floats(0, 4e9),
    last_exit=st.text(),
)


@settings(deadline=None, max_examples=30)
@given(
    wanted=st.booleans(), socket=st.text(), windows=st.dictionaries(st.text(max_size=20), records, max_size=4)
)
def test_what_was_saved_is_read(
    tmp_path_factory: pytest.TempPathFactory, wanted: bool, socket: str, windows: dict[str, WindowRecord]
) -> None:
    home = Home(tmp_path_factory.getbasetemp() / "ledger")
    home.run.mkdir(parents=True, exist_ok=True)
    written = Ledger(wanted=wanted, socket=socket, windows=windows)
    LedgerChange(home).save(written)
    assert read_ledger(home) == written


def test_a_window_without_a_record_has_a_new_one() -> None:
    assert Ledger().record("code") == WindowRecord()
    assert Ledger().with_record("code", WindowRecord(restarts_total=1)).record("code").restarts_total == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "\0" * 100,
        '{"wanted": 1, "windows": {"code"',
        b"\xff\xfe",
        '{"wanted": false, "windows": []}',
        '{"wanted": false, "windows": null}',
        pytest.param(
            '{"windows": ' + "[" * 100_000,
            marks=(),
        ),
    ],
)
def test_a_damaged_file_wants_nothing(home: Home, text: str | bytes) -> None:
    (home.run / "windows.json").write_bytes(text.encode() if isinstance(text, str) else text)
    assert not read_ledger(home).wanted
    assert read_ledger(home).windows == {}


def test_no_file_wants_nothing(home: Home) -> None:
    assert read_ledger(home) == Ledger()


NOT_CHECKED = ()


@pytest.mark.parametrize(
    "table",
    [
        None,
        [],
        "x",
        {},
        {"state": "LOST", "restarts": []},
        {"state": "RUNNING", "restarts": [], "colour": "red"},
        {"state": "RUNNING", "restarts": 5},
        {"state": "RUNNING", "restarts": "abc"},
        {"state": "BACKOFF", "restarts": [], "restart_at": "soon"},
        {"state": "RUNNING", "restarts": [], "restarts_total": "5"},
    ],
)
def test_a_damaged_record_is_a_new_one(home: Home, table: object) -> None:
    good = {"state": "FATAL", "restarts": [1.5], "restarts_total": 1, "restart_at": None, "last_exit": "x"}
    file = {"wanted": True, "windows": {"code": table, "qa": good}}
    (home.run / "windows.json").write_text(json.dumps(file))
    assert read_ledger(home).record("code") == WindowRecord()
    assert read_ledger(home).record("qa").state is ProcessState.FATAL
    assert read_ledger(home).wanted


def test_changes_by_many_at_once_all_count(home: Home) -> None:
    async def count() -> None:
        async with changing(home) as change:
            record = change.ledger.record("code")
            await asyncio.sleep(0)
            record = replace(record, restarts_total=record.restarts_total + 1)
            change.save(change.ledger.with_record("code", record))

    async def main() -> None:
        await asyncio.gather(*(count() for _ in range(5)))

    asyncio.run(main())
    assert read_ledger(home).record("code").restarts_total == 5


def test_a_lock_that_is_never_given_back_is_a_conflict(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger, "LOCK_WAIT_S", 0.05)
    lock = FileLock(home.run / "heal.lock")
    assert lock.try_acquire()

    async def change() -> None:
        async with changing(home):
            raise AssertionError("nobody gets in")

    with pytest.raises(Conflict, match=r"heal\.lock: held for over"):
        asyncio.run(change())
    lock.release()


def test_the_lock_is_given_back_when_the_change_fails(home: Home) -> None:
    async def fail() -> None:
        async with changing(home):
            raise KeyError("heal")

    for _ in range(2):
        with pytest.raises(KeyError):
            asyncio.run(fail())
    assert read_ledger(home) == Ledger()
