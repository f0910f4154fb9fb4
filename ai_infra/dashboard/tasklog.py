"""A task's own log: the end of what its last run wrote, handed in or not. Reads only."""

from __future__ import annotations

import contextlib
import os
import stat
from dataclasses import replace
from pathlib import Path
from typing import Any

from ai_infra.core.home import Home
from ai_infra.tasks.task import State, TaskView

TAIL_BYTES = 4000
LOOKED_AT = 10  #: runs, from the last one back


def with_output(home: Home, task: TaskView) -> TaskView:
    """The task with the end of its last run's output.

    A run that ended with its worker, or has not ended, left no result; the one there is is of an
    earlier run. One that wrote nothing (words die in a worker's pipe with it) gives way to the one before.
    """
    if task.state is State.COMPLETED or task.attempt == 0:
        return task
    told = str((task.result or {}).get("log") or "")
    for attempt in range(task.attempt, max(0, task.attempt - LOOKED_AT), -1):
        path = home.task_logs / f"{task.id}.{attempt}.log"
        if told.endswith(f"/{path.name}"):
            return task
        found = read_tail(path)
        if found is not None and found["output_bytes"]:
            return replace(task, result=found)
    return task


def read_tail(path: Path) -> dict[str, Any] | None:
    """What a result would say of this log, or None. Only plain files: a task may have changed it."""
    with contextlib.suppress(OSError):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if stat.S_ISREG(found.st_mode):
                file.seek(max(0, found.st_size - TAIL_BYTES))
                tail = file.read(TAIL_BYTES).decode("utf-8", "replace")
                return {"output_tail": tail, "output_bytes": found.st_size, "log": str(path)}
    return None
