"""Kinds of values that options take: states, durations, and instants or distances from now."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from ai_infra.core.errors import UsageError
from ai_infra.core.times import parse_duration, parse_instant, parse_when

#: of a task; a test holds it to tasks.task.State, which takes long to import
STATES = ["PENDING", "READY", "ASSIGNED", "IN_PROGRESS", "BLOCKED", "COMPLETED", "FAILED", "CANCELLED"]


class Duration(click.ParamType[Any, Any]):
    """Seconds, typed as `90s`, `10m`, `2h`, `1d` or a number."""

    name = "duration"

    def __init__(self, min_s: float = 0.0) -> None:
        self._min_s = min_s

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Fails with what to say instead."""
        if isinstance(value, float):
            return value
        try:
            seconds = parse_duration(value)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)
        if seconds < self._min_s:
            self.fail(f"{value!r} is less than {self._min_s:g} s", param, ctx)
        return seconds


class Instant(click.ParamType[Any, Any]):
    """An instant to come; with `or_duration` also a distance from now."""

    name = "instant"

    def __init__(self, *, or_duration: bool = False) -> None:
        self._or_duration = or_duration

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> datetime:
        """Fails with what to say instead, and for what has passed."""
        if isinstance(value, datetime):
            return value
        now = datetime.now(UTC)
        try:
            at = parse_when(value, now) if self._or_duration else parse_instant(value)
        except UsageError as exc:
            self.fail(str(exc), param, ctx)
        if at <= now:
            self.fail(f"{value!r} has passed; it is {now.astimezone():%Y-%m-%dT%H:%M:%S%z} now", param, ctx)
        return at
