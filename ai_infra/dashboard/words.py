"""Words: durations, sizes, states and events as people read them. Pure; standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ai_infra.dashboard.clean import clean
from ai_infra.dashboard.ink import Line, Style, ink

if TYPE_CHECKING:
    from ai_infra.tasks.task import TaskView

_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s"))
_NOT_SAID = ("at", "level", "process", "event", "trace")  #: a trace is read in the log file
MAX_VALUE_CHARS = 300
MAX_LISTED = 5
MAX_COMMAND_LINES = 12
MAX_COMMAND_CHARS = 500  #: of one line

STATES: Mapping[str, tuple[str, Style]] = {
    "PENDING": ("·", Style.DIM),
    "READY": ("○", Style.PLAIN),
    "ASSIGNED": ("◐", Style.ACCENT),
    "IN_PROGRESS": ("●", Style.ACCENT),
    "BLOCKED": ("◦", Style.DIM),
    "COMPLETED": ("✓", Style.GOOD),
    "FAILED": ("✗", Style.BAD),
    "CANCELLED": ("-", Style.WARN),
    "SKIPPED": ("↷", Style.DIM),  # no state: a COMPLETED task whose condition was false
}

LEVELS: Mapping[str, Style] = {"debug": Style.DIM, "warning": Style.WARN, "error": Style.BAD}

#: What an attempt that did not end its task means for it.
_GOES_ON: Mapping[str, str] = {
    "PENDING": "will be tried again",
    "READY": "goes back to the queue",
    "REFUSED": "ended too late",
}

# What an entry says in words. An event that is not here, or lacks one of its fields, is shown by its fields.
PHRASES: Mapping[str, str] = {
    "started": "started as pid {pid}",
    "ready": "ready after {after_s} s",
    "stop_asked": "asked to stop ({signal}); finishing what runs",
    "lock_lost": "its lock file was removed and another process holds the new one; ends",
    "lock_made_again": "its lock file was removed, and is made again",
    "stopped_by_error": "stopped: {reason}",
    "crashed": "crashed: {reason} (the trace is in its log file)",
    "exited": "ended, exit {code}: {reason}",
    "log_lines_lost": "{count} log lines were lost (disk full?)",
    "window_died": "{window} died ({how}); starts again in {restart_in_s} s",
    "window_restarted": "{window} started again by {by} (restart {restart} of {limit} before it is FATAL)",
    "window_fatal": "{window} is FATAL after {restarts} restarts ({how}); `{clear}` starts it again",
    "hung_process_killed": "{window} (pid {pid}) did not answer any more and was killed; it starts again",
    "tasks_released": "{agent} died: its tasks are ready again: {tasks}",
    "ledger_lost": "the record of what is wanted was gone; the session is here, so it is wanted",
    "tmux_unclear": "tmux is unclear, nothing is touched: {reason}",
    "healing_failed": "could not heal, trying again: {reason}",
    "heartbeat_failed": "could not say that it lives: {reason}",
    "redis_said": "{words}",
    "redis_serves": "Redis {version} (pid {pid}) serves at {socket}; durable: {durability}",
    "redis_away": "Redis does not answer, waiting for it: {reason}",
    "redis_refuses": "Redis refuses for now, trying again: {reason}",
    "recovered": "put right what the last life left: commands ended {commands_ended}, tasks {tasks_released}",
    "commands_left": "commands of the last life cannot be ended: pid {pids}",
    "task_started": "{name} started, attempt {attempt} ({task})",
    "task_ended": "{name} {state}, attempt {attempt}, {duration_s} s, {reason} ({task})",
    "outcome_refused": "the outcome of {task} came too late: {reason}",
    "handoff_reached": "{task} is being stopped: {to} takes it over",
    "message_shown": "{source} says: {text}",
    "message_accepted": "{type} {text} from {source}: {reason} ({message})",
    "message_refused": "REFUSED a message from {source}: {reason} ({message}) {type} {text}",
    "message_crashed": "a fault of ours with message {message}: {reason}",
    "attempt_crashed": "a bug of ours ended the attempt at {task}: {reason} (the trace is in its log file)",
    "thread_failed": "a thread of this process failed: {reason}",
    "side_task_failed": "a part of this process failed, so it stops: {reason}",
    "tasks_archived": "moved {tasks} finished tasks into the archive",
    "litter_removed": "removed {entries} logs and folders of archived tasks",
    "archive_failed": "could not archive finished tasks, trying again: {reason}",
    "cancel_reached": "{task} is being stopped: {reason}",
    "paused": "paused: {reason}; what runs is finished, nothing new begins",
    "resumed": "goes on",
    "rate_limited": "begins at most {rate_per_minute} tasks a minute",
    "temp_cleaned": "removed {entries} old entries from temp/",
    "temp_not_cleaned": "temp/ could not be cleaned: {reason}",
}


def duration(seconds: float | None) -> str:
    """ "0.4s", "12s", "3m20s", "2h05m", "3d04h"; nothing for None."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{max(0.0, seconds):.1f}s"
    for big, big_name, small, small_name in _UNITS:
        if seconds >= big:
            return f"{int(seconds // big)}{big_name}{int(seconds % big // small):02}{small_name}"
    return f"{int(seconds)}s"


def size(size_bytes: float | None) -> str:
    """ "42M", "1.2G"; nothing for None."""
    if size_bytes is None:
        return ""
    for unit in ("", "K", "M", "G", "T"):
        if size_bytes < 1024 or unit == "T":
            break
        size_bytes /= 1024
    return f"{size_bytes:.1f}{unit}" if size_bytes < 10 and unit else f"{size_bytes:.0f}{unit}"


def bar(done: int, total: int, width: int = 20) -> str:
    """How much of it is done; full only when all is."""
    filled = width * done // total if total else width
    return "█" * filled + "░" * (width - filled)


def command_lines(text: str) -> list[str]:
    """A command as it was written: a script for bash has lines. Not clean yet."""
    lines = [line[:MAX_COMMAND_CHARS] for line in text.strip("\n").split("\n")]
    more = len(lines) - MAX_COMMAND_LINES
    return lines if more < 2 else [*lines[:MAX_COMMAND_LINES], f"… {more} more lines"]


def state_word(state: str) -> str:
    """A task's state as people read it."""
    return state.lower().replace("_", " ")


def end_word(state: str) -> str:
    """What became of a task when an attempt at it ended."""
    return _GOES_ON.get(state, state_word(state))


def state_line(state: str, *, glyph_only: bool = False) -> Line:
    """Glyph and word of a task's state."""
    glyph, style = STATES.get(state, ("?", Style.WARN))
    return ink(glyph if glyph_only else f"{glyph} {state_word(state)}", style)


def task_line(task: TaskView) -> Line:
    """The same of a task; one that was skipped says so."""
    return state_line("SKIPPED" if task.skipped else task.state)


def clock(at: datetime) -> str:
    """The time of day here."""
    return f"{at.astimezone():%H:%M:%S}"


def read_at(entry: Mapping[str, Any]) -> datetime | None:
    """When an entry was written; None where that cannot be read."""
    try:
        at = datetime.fromisoformat(str(entry.get("at")).replace("Z", "+00:00"))
    except ValueError:
        return None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def style_of(entry: Mapping[str, Any]) -> Style:
    """By level; the end of a task by its state."""
    if entry.get("event") == "task_ended" and entry.get("state") == "COMPLETED":
        return Style.GOOD
    return LEVELS.get(str(entry.get("level")), Style.PLAIN)


def phrase(entry: Mapping[str, Any]) -> str:
    """What a log entry says, clean and on one line."""
    event = str(entry.get("event", "?"))
    fields = {str(key): _value(value) for key, value in entry.items() if key not in _NOT_SAID}
    if "state" in fields:
        fields["state"] = end_word(fields["state"])
    template = PHRASES.get(event)
    if template is not None:
        try:
            return " ".join(template.format_map(fields).split())
        except KeyError:
            pass
    return " ".join([clean(event), *(f"{clean(key)}={value}" for key, value in fields.items() if value)])


def _value(value: object) -> str:
    """One field: short, clean; a list by its first items."""
    if value is None:
        return ""
    if isinstance(value, list | tuple | set | frozenset):
        items = [_value(item) for item in list(value)[:MAX_LISTED]]
        more = f" and {len(value) - MAX_LISTED} more" if len(value) > MAX_LISTED else ""
        return (", ".join(items) or "none") + more
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"
    text = clean(str(value)[: 4 * MAX_VALUE_CHARS])
    return text if len(text) <= MAX_VALUE_CHARS else text[:MAX_VALUE_CHARS] + "…"
