"""Panes: what an agent and the supervisor print in their own windows: plain lines, for little CPU.

What a command writes is hostile until shown safe, and may come in floods: it is shown line by line, cleaned,
at a bounded rate. The whole of it is in the log file of the attempt, which the pane names.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ai_infra.dashboard.clean import output_line
from ai_infra.dashboard.ink import Line, Style, ink, join, wants_colour
from ai_infra.dashboard.outlet import Outlet
from ai_infra.dashboard.screen import set_modes
from ai_infra.dashboard.words import (
    STATES,
    clock,
    command_lines,
    duration,
    end_word,
    phrase,
    read_at,
    state_word,
    style_of,
)

if TYPE_CHECKING:
    from ai_infra.tasks.task import TaskSpec

Emit = Callable[[str], None]
Now = Callable[[], float]

LINES_PER_S = 40
MAX_LINE_CHARS = 500  #: of one line of output that are shown
LAST_LINES = 5  #: of a flood, shown when its command ends
_HELD_BYTES = 4096
_LINE_BYTES = 8 * MAX_LINE_CHARS
_SHOWN_OTHERWISE = frozenset({"task_started", "task_ended"})  # of an agent's events


class _Pane:
    def __init__(self, emit: Emit | None, colour: bool | None) -> None:
        if emit is None:
            set_modes(1, echo=True)  # a Ctrl-S in the window must not stop the process in it
        self._emit = emit or Outlet().write
        self._colour = wants_colour(os.isatty(1)) if colour is None else colour

    def _say(self, line: Line) -> None:
        self._emit(line.text(colour=self._colour))

    def _say_entry(self, entry: Mapping[str, Any]) -> None:
        at = read_at(entry)
        when = ink(clock(at) if at else "--:--:--", Style.DIM)
        self._say(join([when, ink(phrase(entry), style_of(entry))]))


class SupervisorPane(_Pane):
    """One readable line per decision."""

    def __init__(self, emit: Emit | None = None, *, colour: bool | None = None) -> None:
        super().__init__(emit, colour)

    def event(self, entry: Mapping[str, Any]) -> None:
        """Show a log entry; any entry will do."""
        if entry.get("level") != "debug":
            self._say_entry(entry)


class AgentPane(_Pane):
    """The current task of an agent, its commands, and what they write."""

    def __init__(
        self,
        emit: Emit | None = None,
        *,
        colour: bool | None = None,
        lines_per_s: int = LINES_PER_S,
        task_logs: Path | None = None,
        now: Now = time.monotonic,
    ) -> None:
        super().__init__(emit, colour)
        self._output = OutputView(
            lambda text: self._say(ink("  │ ", Style.DIM) + ink(text)), lines_per_s, now
        )
        self._task_logs = task_logs
        self._was_idle = False

    def event(self, entry: Mapping[str, Any]) -> None:
        """Show a log entry of the agent's own, if nothing else here shows it."""
        if entry.get("event") not in _SHOWN_OTHERWISE and entry.get("level") != "debug":
            self._was_idle = False
            self._say_entry(entry)

    def idle(self, counts: Mapping[str, int] | None = None) -> None:
        """Nothing to do; said once until something happens."""
        if not self._was_idle:
            told = [
                ink(f"{count} {state_word(name)}", Style.DIM)
                for name, count in (counts or {}).items()
                if count
            ]
            self._say(join([self._clock(), ink("waiting for work", Style.DIM), *told]))
        self._was_idle = True

    def task_started(self, spec: TaskSpec, attempt: int) -> None:
        """A task was claimed."""
        self._was_idle = False
        if self._task_logs is not None:
            self._output.log_path = str(self._task_logs / f"{spec.id}.{attempt}.log")
        tries = ink(f"attempt {attempt} of {spec.max_attempts}", Style.WARN) if attempt > 1 else Line()
        self._say(join([self._clock(), ink(f"▶ {spec.name}", Style.BOLD), ink(spec.id, Style.DIM), tries]))
        if spec.description:
            self._say(ink(f"  {spec.description[:MAX_LINE_CHARS]}", Style.DIM))

    def command_started(self, text: str) -> None:
        """A command of the task begins."""
        self._output.end()
        for i, line in enumerate(command_lines(text)):
            self._say(ink("    " if i else "  $ ", Style.ACCENT) + ink(line, Style.ACCENT))

    def output(self, chunk: bytes) -> None:
        """Bytes that it wrote, split anywhere."""
        self._output.feed(chunk)

    def command_ended(self, exit_code: int, duration_s: float) -> None:
        """It ended; what was held back of its output is told."""
        self._output.end()
        mark, style = ("✓", Style.GOOD) if exit_code == 0 else ("✗", Style.BAD)
        self._say(join([ink(f"  {mark} exit {exit_code}", style), ink(duration(duration_s), Style.DIM)]))

    def check_result(self, what: str, ok: bool, evidence: str = "") -> None:
        """An expectation was checked."""
        line = ink("  ✓ ", Style.GOOD) if ok else ink("  ✗ ", Style.BAD)
        why = ink("" if ok else f": {evidence[:MAX_LINE_CHARS]}")
        self._say(line + ink(what[:MAX_LINE_CHARS]) + why)

    def task_ended(self, spec: TaskSpec, state: str, reason: str, duration_s: float) -> None:
        """Its outcome was accepted, or refused."""
        self._output.end()
        glyph, style = STATES.get(state, ("!", Style.WARN))
        became = ink(f"{glyph} {end_word(state)}", style)
        shown = [ink(spec.name, Style.BOLD), became, ink(duration(duration_s), Style.DIM)]
        self._say(join([self._clock(), *shown, ink(reason[:MAX_LINE_CHARS])]))

    def _clock(self) -> Line:
        return ink(clock(datetime.now().astimezone()), Style.DIM)


class OutputView:
    """A command's output as whole, clean lines, at most `lines_per_s` of them a second."""

    def __init__(self, show: Emit, lines_per_s: int, now: Now) -> None:
        self._show, self._lines_per_s, self._now = show, lines_per_s, now
        self.log_path = ""
        self._part = b""  # a line whose end has not come; no more of it than would be shown
        self._second, self._left = 0, lines_per_s
        self._held, self._held_lines = b"", 0  # the last whole lines not shown, and how many there are in all

    def feed(self, chunk: bytes) -> None:
        """Show what may be shown now; the rest is counted, which costs next to nothing."""
        whole, newline, part = (self._part + chunk).rpartition(b"\n")
        self._part = _bounded(part)
        if not newline:
            return
        self._refill()
        lines = whole.split(b"\n", self._left)
        shown, over = lines[: self._left], lines[self._left :]
        if shown:
            self._tell_held()
        for line in shown:
            self._show(_shown(line))
        self._left -= len(shown)
        for rest in over:
            self._held_lines += rest.count(b"\n") + 1
            self._held = (self._held + rest[-_HELD_BYTES:] + b"\n")[-_HELD_BYTES:]

    def end(self) -> None:
        """The command ended: tell what was held back and show its last lines. Twice is safe."""
        tail = self._held.split(b"\n")[:-1][-LAST_LINES:]
        self._held_lines -= len(tail)
        self._tell_held()
        for line in [*tail, self._part] if self._part else tail:
            self._show(_shown(line))
        self._part = b""

    def _refill(self) -> None:
        second = int(self._now())
        if second != self._second:
            self._second, self._left = second, self._lines_per_s

    def _tell_held(self) -> None:
        if self._held_lines > 0:
            where = f" (whole log: {self.log_path})" if self.log_path else ""
            self._show(f"… {self._held_lines} lines not shown{where}")
        self._held, self._held_lines = b"", 0


def _bounded(part: bytes) -> bytes:
    """An unfinished line: its beginning, or what came after the last carriage return."""
    return part if len(part) <= _LINE_BYTES else part.rpartition(b"\r")[2][:_LINE_BYTES]


def _shown(line: bytes) -> str:
    text = output_line(line.rstrip(b"\r")[-_LINE_BYTES:].decode("utf-8", "backslashreplace"))
    return text if len(text) <= MAX_LINE_CHARS else text[:MAX_LINE_CHARS] + "…"
