"""The log of a process: one JSON object a line in `logs/NAME.jsonl`, turned over by size.

An event is a fact in the past tense with stable keys (`agent`, `task`, `attempt`, `window`); text for
people is made by who draws it. Values are never secret. Writing never stops the work: a full disk
is counted, and said once there is room again.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, Protocol

Level = Literal["debug", "info", "warning", "error"]


class Log(Protocol):
    """Where a room says what happened."""

    def __call__(self, event: str, level: Level = "info", **fields: object) -> None:
        """Record one event; never raises for a full disk."""


class EventLog:
    """The file behind a process's Log. One writer; readers follow the file."""

    def __init__(
        self, path: Path, name: str, max_bytes: int, show: Callable[[dict[str, Any]], None] | None = None
    ) -> None:
        self._path, self._name, self._max_bytes, self._show = path, name, max_bytes, show
        self._lost = 0
        self._torn = False
        self._fd: int | None = None

    def __call__(self, event: str, level: Level = "info", **fields: object) -> None:
        """Append one line, and hand the same fields to `show` (the pane), if there is one."""
        entry: dict[str, Any] = {
            "at": now_text(),
            "level": level,
            "process": self._name,
            "event": event,
            **fields,
        }
        if self._show is not None:
            self._show(entry)
        try:
            if self._lost:
                self._append({**entry, "event": "log_lines_lost", "count": self._lost})
                self._lost = 0
            self._append(entry)
        except OSError:
            self._lost += 1

    def close(self) -> None:
        """Close the file; a later event opens it again."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _append(self, entry: dict[str, Any]) -> None:
        if self._fd is None:
            self._fd = self._open()
        line = _line(entry)
        if self._torn:
            line = b"\n" + line  # what a full disk cut short must not run into this one
        written = os.write(self._fd, line)
        self._torn = written < len(line)
        if self._torn:
            raise OSError("short write")
        file = os.fstat(self._fd)
        if file.st_nlink == 0:
            self.close()  # a person removed it; the next line begins a new one
        elif file.st_size > self._max_bytes:
            os.replace(self._path, self._path.with_suffix(".1.jsonl"))
            self.close()

    def _open(self) -> int:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            return os.open(self._path, flags, 0o600)
        except FileNotFoundError:
            with contextlib.suppress(FileExistsError):  # another process was quicker
                os.mkdir(self._path.parent, 0o700)  # a person removed it; a home that is gone stays gone
            return os.open(self._path, flags, 0o600)


def _line(entry: dict[str, Any]) -> bytes:
    """One line of JSON whatever the values are; what JSON does not know is written as Python shows it."""
    try:
        text = json.dumps(entry, default=str, ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError):
        known = {k: v if isinstance(v, str | int | bool) or v is None else repr(v) for k, v in entry.items()}
        text = json.dumps(known, ensure_ascii=True)
    return text.encode() + b"\n"


def now_text() -> str:
    """UTC now, ISO 8601 with milliseconds."""
    return text_of(time.time())


def text_of(seconds: float) -> str:
    """A POSIX time as UTC, ISO 8601 with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
