"""Commands that outlived what ran them, and their end.

While an agent lives it is the subreaper of all that its commands start: whatever they fork, however they
detach, and whatever they do to their environment, it becomes the agent's child when its parent ends, and is
ended with the attempt. When the agent itself has died, its commands are found by the mark in their
environment; whoever takes over ends them first, so that no task runs twice at the same time.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

from ai_infra.core.home import Home
from ai_infra.core.ids import is_id, is_name

MARK_HOME, MARK_AGENT, MARK_TASK = "AI_INFRA_HOME", "AI_INFRA_AGENT", "AI_INFRA_TASK_ID"
_PR_SET_CHILD_SUBREAPER = 36
_ROUNDS = 50  #: a fork bomb may race us, and the kernel may be stuck: after this many rounds we give up
_RETRY_S = 0.02
_REAP_S = 0.001


def task_in(env: Mapping[str, str]) -> tuple[str, str] | None:
    """The agent and the task whose commands have this environment; None for whatever else runs."""
    agent, task = env.get(MARK_AGENT, ""), env.get(MARK_TASK, "")
    return (agent, task) if is_name(agent) and is_id(task) else None


def adopt_orphans() -> None:
    """From now on this process is the parent of what its descendants leave behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_children() -> int:
    """Kill and reap what was left to this process, and what that leaves, until none is left; how many it was.

    Commands begin in sessions of their own and cannot come back to ours; what is in ours, we started.
    """
    ended = 0
    for _ in range(_ROUNDS):
        children = _children()
        for pid in children:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not children:
            break
        time.sleep(_REAP_S)
        ended += sum(_reaped(pid) for pid in children)
    return ended


def _reaped(pid: int) -> bool:
    """Whether a killed child is gone; one that may not be killed, or is stuck, is not waited for."""
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return False


def _children() -> list[int]:
    """Children of this process in other sessions."""
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return []  # no child at all, by far the most frequent answer: nothing to look for
    me, session = os.getpid(), os.getsid(0)
    return [
        pid
        for pid in _pids()
        if (found := _parent_and_session(pid)) and found[0] == me and found[1] != session
    ]


def _parent_and_session(pid: int) -> tuple[int, int] | None:
    try:
        _, parent, _, session, *_ = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return int(parent), int(session)


def find_orphans(home: Home, agent: str | None = None) -> list[int]:
    """Pids of commands of tasks of this installation (of one agent, if named)."""
    wanted = [f"{MARK_HOME}={home.root}".encode()]
    if agent is not None:
        wanted.append(f"{MARK_AGENT}={agent}".encode())
    return [pid for pid in _pids() if _is_marked(pid, wanted)]


def end_orphans(home: Home, agent: str | None = None) -> int:
    """Kill them until none is left; returns how many there were. Twice is safe.

    Some may be left (stuck in the kernel, another user's): who must know asks find_orphans() again.
    """
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
