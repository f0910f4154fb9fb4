"""The right side of the session's status line: one glance, from any window."""

from __future__ import annotations

from ai_infra.core.process import ProcessState
from ai_infra.supervisor.snapshot import Snapshot


def status_text(snapshot: Snapshot) -> str:
    """E.g. `9/9 up, 2 running, 5 queued, 1 failed`; what needs a person comes first, in capitals."""
    windows = snapshot.windows
    up = sum(w.state is ProcessState.RUNNING for w in windows)
    fatal = [w.name for w in windows if w.state is ProcessState.FATAL]
    loads = [w.load for w in windows if w.load is not None]
    counts = {
        "running": sum(load.active for load in loads),
        "queued": sum(load.ready for load in loads),
        "failed": sum(load.failed_last_hour for load in loads),
    }
    parts = [f"FATAL: {', '.join(fatal)}"] if fatal else []
    if not snapshot.redis_ok:
        parts.append("REDIS AWAY")
    paused = [w.name for w in windows if w.load is not None and w.load.paused]
    if paused or snapshot.paused_workflows:
        flows = len(snapshot.paused_workflows)
        paused += [f"{flows} workflow{'s' if flows > 1 else ''}"] if flows else []
        parts.append(f"PAUSED: {', '.join(paused)}")
    parts.append(f"{up}/{len(windows)} up")
    parts += [f"{count} {word}" for word, count in counts.items() if count]
    return ", ".join(parts) + " "
