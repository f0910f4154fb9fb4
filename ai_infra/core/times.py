"""Times as people type them: durations (`90s`, `1h30m`) and instants (ISO 8601). Pure.

A number alone is seconds. An instant without an offset is local time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from ai_infra.core.errors import UsageError

_UNITS_S = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}
_NUMBER = re.compile(r"\d+(\.\d+)?")
_DURATION = re.compile(r"(?=\d)(?:(\d+)w)?(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")
_ONE_UNIT = re.compile(r"(\d+\.\d+)([wdhm])")
MAX_S = 10 * 366 * 86400.0  #: ten years: more is a slip of the finger

DURATION_WORDS = "say for example 90s, 10m, 2h, 1d or 1h30m"
INSTANT_WORDS = "say for example 2026-12-01T08:00, 2026-12-01T08:00+01:00 or 2026-12-01T07:00Z"


def parse_duration(text: str) -> float:
    """Seconds. Raises UsageError."""
    seconds = _seconds(text.strip())
    if seconds is None:
        raise UsageError(f"{text!r} is not a duration; {DURATION_WORDS}")
    if seconds > MAX_S:
        raise UsageError(f"{text!r} is longer than ten years")
    return seconds


def _seconds(text: str) -> float | None:
    if not text.isascii():
        return None
    if _NUMBER.fullmatch(text):
        return float(text)
    if one := _ONE_UNIT.fullmatch(text):
        return float(one[1]) * _UNITS_S[one[2]]
    if found := _DURATION.fullmatch(text):
        return sum(float(n) * unit for n, unit in zip(found.groups(), _UNITS_S.values(), strict=True) if n)
    return None


def parse_instant(text: str) -> datetime:
    """An aware instant in UTC. Raises UsageError."""
    try:
        return datetime.fromisoformat(text.strip()).astimezone(UTC)
    except (ValueError, OverflowError):
        raise UsageError(f"{text!r} is not an instant; {INSTANT_WORDS}") from None


def parse_when(text: str, now: datetime) -> datetime:
    """An instant, or one by its distance from `now`. Raises UsageError."""
    seconds = _seconds(text.strip())
    if seconds is not None:
        return now + timedelta(seconds=parse_duration(text))
    try:
        return parse_instant(text)
    except UsageError:
        raise UsageError(
            f"{text!r} is neither a duration nor an instant; say for example 10m, 2h or 2026-12-01T08:00"
        ) from None
