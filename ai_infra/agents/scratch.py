"""The scratch workspace of an agent: `working/`, `temp/`, `cache/` and the folders its role needs.

A task works in `working/TASK`, which is removed afterwards if it is empty. What is older than the
settings say is cleaned out of `temp/`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import time
from pathlib import Path

from ai_infra.core import ids
from ai_infra.core.durable import system_problem
from ai_infra.core.home import Home
from ai_infra.core.settings import AgentSettings

STANDARD = ("working", "temp", "cache")


class Scratch:
    """One agent's folders."""

    def __init__(self, home: Home, agent: AgentSettings) -> None:
        self._agent = agent
        self.root = home.scratch(agent.name)

    @property
    def temp(self) -> Path:
        """`TMPDIR` of the agent's commands."""
        return self.root / "temp"

    def ensure(self) -> None:
        """Create what is missing. Twice is safe. Raises SystemProblem."""
        try:
            for folder in (*STANDARD, *self._agent.folders):
                (self.root / folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise system_problem(self.root, exc) from exc

    def enter(self, task: ids.TaskId) -> Path:
        """The working folder of a task, made if needed; a later attempt finds what an earlier one left."""
        folder = self.root / "working" / task
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as exc:
            raise system_problem(folder, exc) from exc
        return folder

    def exchange(self, task: ids.TaskId) -> Path:
        """Where an attempt finds its inputs and leaves its result; see exchange.py."""
        return self.root / "exchange" / task

    def leave(self, task: ids.TaskId) -> None:
        """Remove a task's working folder if nothing was left in it."""
        with contextlib.suppress(OSError):
            (self.root / "working" / task).rmdir()

    def clean_temp(self, max_age_s: float) -> int:
        """Remove what has not been changed for `max_age_s` from temp/; returns how many entries went.

        May take long: not for the event loop. What cannot be removed stays.
        """
        oldest = time.time() - max_age_s
        removed = 0
        if self.temp.is_symlink():  # a task did this, to lead us elsewhere
            return 0
        with contextlib.suppress(OSError):
            for entry in list(os.scandir(self.temp)):
                with contextlib.suppress(RecursionError):  # folders nested deeper than Python can follow
                    removed += self._clean(entry, oldest)
        return removed

    def _clean(self, entry: os.DirEntry[str], oldest: float) -> int:
        if _newest(Path(entry.path)) > oldest:
            return 0
        if entry.is_dir(follow_symlinks=False):
            shutil.rmtree(entry.path, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                os.unlink(entry.path)
        return 1


def _newest(path: Path) -> float:
    """When anything in a file or folder was last changed; links are not followed."""
    try:
        info = path.lstat()
        if not stat.S_ISDIR(info.st_mode):
            return info.st_mtime
        inner = (
            os.lstat(os.path.join(top, n)).st_mtime
            for top, dirs, files in os.walk(path)
            for n in dirs + files
        )
        return max(inner, default=info.st_mtime)
    except OSError:
        return time.time()  # it is being changed right now
