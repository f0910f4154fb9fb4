"""Durations and instants as people type them."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.core.errors import UsageError
from ai_infra.core.times import parse_duration, parse_instant, parse_when

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)


@pytest.fixture
def in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setitem(os.environ, "TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400), ("1h30m", 5400), ("1d2h3m4s", 93784),
        ("0.5s", 0.5), ("1.5h", 5400), ("45", 45), ("0", 0), ("2.5", 2.5), (" 10m ", 600), ("1m0.5s", 60.5),
        ("2w", 1209600), ("1w1d", 691200), ("0.5w", 302400),
    ],
)  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", " ", "m", "10x", "-5m", "+5m", "1h 30m", "30m1h", "10 m", "1,5h", "1e3", "nan", "inf",
     "\u0661\u0660m", "1.5h3m", "5M"],
)  # fmt: skip
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError, match="is not a duration; say for example 90s, 10m, 2h, 1d or 1h30m"):
        parse_duration(text)


@pytest.mark.parametrize("text", ["4000d", "9" * 400 + "s", "9" * 400])
def test_a_duration_beyond_reason(text: str) -> None:
    with pytest.raises(UsageError, match="longer than ten years"):
        parse_duration(text)


@given(st.text(alphabet="0123456789.dhms -+x", max_size=12))
def test_any_text_is_a_duration_or_an_error(text: str) -> None:
    with contextlib.suppress(UsageError):
        assert parse_duration(text) >= 0


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-12-01T08:00+01:00", datetime(2026, 12, 1, 7, tzinfo=UTC)),
        ("2026-12-01T07:00Z", datetime(2026, 12, 1, 7, tzinfo=UTC)),
        ("2026-12-01 08:00", datetime(2026, 12, 1, 7, tzinfo=UTC)),
        ("2026-07-01T08:00", datetime(2026, 7, 1, 6, tzinfo=UTC)),
        ("2026-12-01", datetime(2026, 11, 30, 23, tzinfo=UTC)),
    ],
)
@pytest.mark.usefixtures("in_berlin")
def test_instants_are_local_unless_they_say_otherwise(text: str, instant: datetime) -> None:
    assert parse_instant(text) == instant


@pytest.mark.parametrize("text", ["", "tomorrow", "08:00", "2026-13-01", "2026-12-01T25:00", "10m", "1 Dec"])
def test_what_is_no_instant(text: str) -> None:
    with pytest.raises(UsageError, match="is not an instant; say for example 2026-12-01T08:00"):
        parse_instant(text)


def test_when() -> None:
    assert parse_when("2h", NOW) == NOW + timedelta(hours=2)
    assert parse_when("2026-12-01T07:00Z", NOW) == datetime(2026, 12, 1, 7, tzinfo=UTC)
    with pytest.raises(UsageError, match="'soon' is neither a duration nor an instant"):
        parse_when("soon", NOW)
    with pytest.raises(UsageError, match="longer than ten years"):
        parse_when("99999d", NOW)
