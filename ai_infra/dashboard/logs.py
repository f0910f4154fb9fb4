"""Logs for people: the entries of all processes by time, a line each, and followed as they come."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import date
from pathlib import Path
from typing import Any

from ai_infra.core.errors import NotFound, SystemProblem
from ai_infra.dashboard.ink import Line, Style, ink, join, wants_colour
from ai_infra.dashboard.screen import terminal_width
from ai_infra.dashboard.tail import Entry, Tails
from ai_infra.dashboard.words import clock, phrase, read_at, style_of

LEVELS = ("debug", "info", "warning", "error")
BATCH_S = 0.05  #: entries that come together are put in order together
NAME_WIDTH = 10
_FILTER_MARGIN = 4  # lines read of a file for each that is shown, since some are of a lower level
_NAME_STYLES = (Style.ACCENT, Style.OTHER, Style.BOLD)

Emit = Callable[[str], None]
Width = Callable[[], int | None]


def format_entry(entry: Mapping[str, Any], width: int | None = None, *, colour: bool = False) -> str:
    """One line: when, which process, what; cut to `width` cells, if one is given."""
    return entry_line(entry, width).text(colour=colour)


def entry_line(entry: Mapping[str, Any], width: int | None = None) -> Line:
    """format_entry(), not yet printed."""
    at = read_at(entry)
    name = str(entry.get("process", "?"))
    name_style = _NAME_STYLES[sum(name.encode("utf-8", "replace")) % len(_NAME_STYLES)]
    line = join(
        [
            ink(clock(at) if at else "--:--:--", Style.DIM),
            ink(name, name_style).pad(NAME_WIDTH),
            ink({"warning": "!", "error": "!!"}.get(str(entry.get("level")), ""), style_of(entry)),
            ink(phrase(entry), style_of(entry)),
        ],
        " ",
    )
    return line if width is None else line.cut(width)


def is_at_least(entry: Mapping[str, Any], level: str) -> bool:
    """Whether an entry is of `level` or worse; one of an unknown level is."""
    found = entry.get("level")
    return found not in LEVELS or LEVELS.index(str(found)) >= LEVELS.index(level)


class Recent:
    """The last entries of a folder of logs; each call reads only what is new."""

    def __init__(self, folder: Path, lines: int = 50, *, level: str = "info") -> None:
        self._tails, self._level = Tails(folder), level
        self._entries: deque[Entry] | None = None
        self._lines = lines

    def entries(self) -> tuple[Entry, ...]:
        """Oldest first."""
        if self._entries is None:
            self._entries = deque(maxlen=self._lines)
            found = self._tails.backlog(self._lines * _FILTER_MARGIN)
        else:
            found = self._tails.new()
        self._entries.extend(entry for entry in found if is_at_least(entry, self._level))
        return tuple(self._entries)

    def close(self) -> None:
        """Let go of the files. Twice is safe."""
        self._tails.close()


def recent(
    folder: Path, names: Collection[str] | None = None, lines: int = 50, *, level: str = "info"
) -> list[Entry]:
    """The last entries, oldest first; empty where there are none."""
    with contextlib.closing(Tails(folder, names)) as tails:
        return _last(tails, lines, level)


def _last(tails: Tails, lines: int, level: str) -> list[Entry]:
    wanted = [entry for entry in tails.backlog(lines * _FILTER_MARGIN) if is_at_least(entry, level)]
    return wanted[-lines:] if lines else []


async def follow(
    folder: Path,
    stop: asyncio.Event,
    names: Collection[str] | None = None,
    since_lines: int = 50,
    emit: Emit | None = None,
    *,
    level: str = "info",
    width: Width = terminal_width,
    colour: bool | None = None,
) -> None:
    """Show the last entries and then each new one until `stop`. Nothing is polled.

    Raises NotFound where there is no such folder, or no longer; SystemProblem where the kernel refuses to
    watch it.
    """
    show = _Show(emit or print_out, width, wants_colour(sys.stdout.isatty()) if colour is None else colour)
    changed = asyncio.Event()
    with _watching(folder, changed) as watched, contextlib.closing(Tails(folder, names)) as tails:
        show(_last(tails, since_lines, level))
        while await _either(changed, stop):
            await asyncio.sleep(BATCH_S)
            changed.clear()
            if os.fstat(watched).st_nlink == 0:  # whatever stands in its place, we do not hear of it
                raise NotFound(f"{folder}: was removed; `ai-infra logs` shows what is written from now on")
            show([entry for entry in tails.new() if is_at_least(entry, level)])


class _Show:
    """Prints entries; says so where a new day begins."""

    def __init__(self, emit: Emit, width: Width, colour: bool) -> None:
        self._emit, self._width, self._colour = emit, width, colour
        self._day: date | None = None

    def __call__(self, entries: list[Entry]) -> None:
        width = self._width()
        for entry in entries:
            at = read_at(entry)
            day = at.astimezone().date() if at else self._day
            if day is not None and day != self._day:
                self._day = day
                self._emit(ink(f"── {day:%A %d %B %Y} ──", Style.DIM).text(colour=self._colour))
            self._emit(format_entry(entry, width, colour=self._colour))


@contextlib.contextmanager
def _watching(folder: Path, changed: asyncio.Event) -> Iterator[int]:
    """Set `changed` whenever a file of the folder grows, comes or goes; gives the open folder."""
    from watchdog.events import (
        FileCreatedEvent,
        FileDeletedEvent,
        FileModifiedEvent,
        FileMovedEvent,
        FileSystemEventHandler,
    )
    from watchdog.observers import Observer

    loop = asyncio.get_running_loop()

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: object) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed already
                loop.call_soon_threadsafe(changed.set)

    try:
        opened = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as exc:
        raise NotFound(f"{folder}: no logs there yet; `ai-infra up` starts what writes them") from exc
    observer = Observer()
    observer.schedule(
        Handler(),
        str(folder),
        event_filter=[FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent],
    )
    try:
        observer.start()
    except OSError as exc:
        os.close(opened)
        raise SystemProblem(f"{folder}: cannot be watched ({exc}); see `sysctl fs.inotify`") from exc
    try:
        yield opened
    finally:
        os.close(opened)
        observer.stop()
        observer.join()


async def _either(changed: asyncio.Event, stop: asyncio.Event) -> bool:
    """Sleep until something changed (True) or it is time to stop (False)."""
    waits = [asyncio.create_task(event.wait(), name="logs") for event in (changed, stop)]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
    return not stop.is_set()


def print_out(text: str) -> None:
    """One line to stdout at once, whatever its encoding; BrokenPipeError when nobody reads any more."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stdout.flush()
