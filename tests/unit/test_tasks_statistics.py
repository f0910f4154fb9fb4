"""Statistics: what is counted, and that equal causes are counted together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.core.ids import AgentName
from ai_infra.dashboard.stats import stats_page
from ai_infra.tasks.statistics import Past, Spread, cause_of, spread, summarise

CODE, QA = AgentName("code"), AgentName("qa")


def past(id: str = "t", agent: str = CODE, state: str = "COMPLETED", **more: Any) -> Past:
    row = {
        "created": 0,
        "ready": 1000,
        "started": 2000,
        "ended": 5000,
        "at": 1,
        "ex": 0,
        "ds": 0,
        "er": "",
    } | more
    return Past.of([state, agent, *row.values(), id])


CAUSES = {
    "command 2 of 3 ended with exit code 1: pytest tests/x": "ended with exit code 1",
    "command 1 of 1 was killed by signal 9: make": "was killed by signal 9",
    "not finished after 0.3 s (timeout_s)": "not finished in its time",
    "poison: its worker died 5 times; the last time: the agent died: killed": "its worker died too often",
    "bug: ValueError('x') (trace in logs/code.jsonl)": "bug: ValueError",
    "expected output matches 'ok': not found in 10 bytes": "expected output matches",
    "expected file out.csv: is not there": "expected file",
    "/srv/x/logs: the disk is full; free some space": "the disk is full; free some space",
    "": "no reason is recorded",
    "something\nelse": "something",
}


@pytest.mark.parametrize("error", CAUSES)
def test_causes(error: str) -> None:
    assert cause_of(error) == CAUSES[error]


def test_counts() -> None:
    some = [
        past("a"),
        past("b", at=3, ex=1, ds=1),
        past("c", state="FAILED", er="boom", ended=6000),
        past("d", state="FAILED", er="boom", ended=9000),
        past("e", state="FAILED", er="other"),
        past("f", QA, "CANCELLED", started=None),
    ]
    told = summarise(some, 7200)
    code = told.agents[CODE]
    assert (code.completed, code.failed, code.cancelled, code.runs, code.retries, code.deaths) == (
        2,
        3,
        0,
        7,
        2,
        1,
    )
    assert [(c.reason, c.tasks, c.example) for c in code.causes] == [("boom", 2, "d"), ("other", 1, "e")]
    assert code.wait == Spread(p50_s=1.0, p95_s=1.0, max_s=1.0)
    assert code.duration == Spread(p50_s=3.0, p95_s=7.0, max_s=7.0)
    assert told.agents[QA].duration == Spread(p50_s=None, p95_s=None, max_s=None)
    assert told.all.per_hour == 3
    assert list(told.agents) == [CODE, QA]


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_percentiles_are_values_that_were_met(values: list[float]) -> None:
    found = spread(values)
    assert found.p50_s is not None
    assert found.p95_s is not None
    assert {found.p50_s, found.p95_s, found.max_s} <= set(values)
    assert sum(v <= found.p50_s for v in values) >= len(values) / 2
    assert sum(v <= found.p95_s for v in values) >= len(values) * 0.95
    assert sum(v < found.p50_s for v in values) < len(values) / 2


def test_the_page_fits_and_says_it() -> None:
    some = [past("a"), past("b", state="FAILED", er="boom\x1b[31m"), past("c", QA, started=1005, ended=1010)]
    page = str(stats_page(summarise(some, 86400)))
    assert page.splitlines()[0] == "ended in the last 1d00h"
    assert "5ms / 5ms / 5ms" in page
    assert "\x1b" not in page
    assert [line.split()[0] for line in page.splitlines()[2:5]] == ["code", "qa", "all"]
    for width in (20, 40, 60, 80, 200):
        assert all(line.width <= width for line in stats_page(summarise(some, 86400), width))
    assert str(stats_page(summarise([], 3600))) == "no task has ended in the last 1h00m"
