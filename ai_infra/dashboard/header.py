"""The head of status and monitor: what the session is, the machine, and a banner of what is wrong. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from ai_infra.core.process import ProcessState
from ai_infra.dashboard.clean import clean, wrap
from ai_infra.dashboard.ink import Line, Style, ink, join
from ai_infra.dashboard.machine import Machine
from ai_infra.dashboard.words import duration, size
from ai_infra.supervisor.snapshot import Snapshot

FULL_DISK, FULL_MEMORY = 0.85, 0.9
SEPARATOR = " · "
MAX_PROBLEMS = 4
MAX_PAUSES = 6


def header(snapshot: Snapshot, width: int, machine: Machine | None = None) -> list[Line]:
    """The line about session, Redis and machine (two where it does not fit), and the banner."""
    session, machinery = _session(snapshot), _machine(machine)
    both = join([*session, *machinery], SEPARATOR)
    lines = [both] if both.width <= width else [join(session, SEPARATOR), join(machinery, SEPARATOR)]
    return [line.cut(width) for line in lines if line.plain] + [
        *banner(problems(snapshot, machine), width),
        *(ink(line, Style.WARN) for text in pauses(snapshot) for line in wrap(clean(text), width)),
    ]


def _session(snapshot: Snapshot) -> list[Line]:
    return [ink(snapshot.session, Style.BOLD), _up(snapshot), _redis(snapshot)]


def _up(snapshot: Snapshot) -> Line:
    if not snapshot.up:
        return ink("down", Style.BAD if snapshot.wanted else Style.WARN)
    oldest_s = max((window.uptime_s or 0.0 for window in snapshot.windows), default=0.0)
    if not oldest_s:
        return ink("starting", Style.WARN)
    since = datetime.fromtimestamp(snapshot.at - oldest_s, UTC).astimezone()
    pattern = "%H:%M" if oldest_s < 86400 else "%d %b %H:%M"
    return ink(f"up since {since.strftime(pattern)} ({duration(oldest_s)})", Style.GOOD)


def _redis(snapshot: Snapshot) -> Line:
    if not snapshot.redis_ok and not snapshot.up:
        return Line()
    if not snapshot.redis_ok:
        return ink("Redis silent", Style.BAD)
    return ink("Redis ok, durable", Style.GOOD) if snapshot.durable else ink("Redis NOT durable", Style.BAD)


def _machine(machine: Machine | None) -> list[Line]:
    if machine is None:
        return []
    memory = machine.memory_used_bytes / max(1, machine.memory_total_bytes)
    used, total = size(machine.memory_used_bytes), size(machine.memory_total_bytes)
    return [
        ink(f"load {machine.load:.2f} of {machine.cpus}", _worse(machine.load > 2 * machine.cpus)),
        ink(f"memory {used} of {total}", _worse(memory > FULL_MEMORY)),
        ink(f"disk {machine.disk_used:.0%}", _worse(machine.disk_used > FULL_DISK)),
    ]


def _worse(bad: bool) -> Style:
    return Style.WARN if bad else Style.PLAIN


def problems(snapshot: Snapshot, machine: Machine | None = None) -> list[str]:
    """What a person should do something about, each with what to do; the worst first."""
    found = [
        f"{window.name} is FATAL ({window.last_exit or 'it died too often'}): "
        f"`ai-infra logs {window.name}` says why, `ai-infra restart {window.name}` starts it again"
        for window in snapshot.windows
        if window.state is ProcessState.FATAL
    ]
    found += snapshot.problems
    if snapshot.up and not snapshot.redis_ok and not snapshot.problems:
        found.append(
            f"Redis does not answer at {snapshot.redis}; tasks wait until it does: `ai-infra doctor`"
        )
    if snapshot.redis_ok and not snapshot.durable:
        found.append(
            f"tasks are NOT durable: Redis at {snapshot.redis} may lose acknowledged ones when it dies; "
            "set `appendonly yes` and `appendfsync always` there"
        )
    if machine is not None and machine.disk_used > FULL_DISK:
        found.append(f"the disk of {snapshot.home} is {machine.disk_used:.0%} full; make room")
    return found


def pauses(snapshot: Snapshot) -> list[str]:
    """What is paused, why, and how it goes on: nobody should wonder why nothing runs."""
    agents: dict[str, list[str]] = {}
    for window in snapshot.windows:
        if window.load is not None and window.load.paused:
            agents.setdefault(window.load.paused, []).append(window.name)
    told = [
        f"paused: {', '.join(names)}: {reason}; `ai-infra agent resume {' '.join(names)}`"
        for reason, names in agents.items()
    ]
    told += [
        f"paused: workflow {flow.name}: {flow.reason}; `ai-infra workflow resume {flow.id}`"
        for flow in snapshot.paused_workflows
    ]
    more = [f"paused: {len(told) - MAX_PAUSES} more workflows"] if len(told) > MAX_PAUSES else []
    return told[:MAX_PAUSES] + more


def banner(texts: Sequence[str], width: int) -> list[Line]:
    """Each problem on red, in as many lines as it takes; only the first few problems."""
    lines = [line for text in texts[:MAX_PROBLEMS] for line in wrap("! " + clean(text), max(1, width - 2))]
    if len(texts) > MAX_PROBLEMS:
        lines.append(f"! and {len(texts) - MAX_PROBLEMS} more: `ai-infra status`")
    return [ink(f" {line} ", Style.BANNER).pad(width) for line in lines]
