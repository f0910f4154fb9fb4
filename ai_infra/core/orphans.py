"""Commands that outlived the process that ran them, found by the mark in their environment.

A command may fork, start a new session and be adopted by pid 1; its environment still names the task.
Whoever takes over from a dead process ends them first, so that no task runs twice at the same time.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

from ai_infra.core.home import Home

MARK_HOME, MARK_AGENT, MARK_TASK = "AI_INFRA_HOME", "AI_INFRA_AGENT", "AI_INFRA_TASK_ID"
_ROUNDS = 50  #: a fork bomb may race us; after this many rounds we give up and say so
_RETRY_S = 0.02


def find_orphans(home: Home, agent: str | None = None) -> list[int]:
    """Pids of commands of tasks of this installation (of one agent, if named)."""
    wanted = [f"{MARK_HOME}={home.root}".encode()]
    if agent is not None:
        wanted.append(f"{MARK_AGENT}={agent}".encode())
    return [pid for pid in _pids() if _is_marked(pid, wanted)]


def end_orphans(home: Home, agent: str | None = None) -> int:
    """Kill them until none is left; returns how many there were. Twice is safe."""
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        found = find_orphans(home, agent)
        if not found:
            break
        for pid in found:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        ended.update(found)
        time.sleep(_RETRY_S)
    return len(ended)


def _pids() -> list[int]:
    me = os.getpid()
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) != me]


def _is_marked(pid: int, wanted: list[bytes]) -> bool:
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return False  # gone, or not ours
    return all(mark in environ for mark in wanted) and any(
        pair.startswith(MARK_TASK.encode() + b"=") for pair in environ
    )
