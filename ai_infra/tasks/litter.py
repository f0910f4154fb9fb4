"""Litter: what archived tasks left on disk, output and working folders, removed when it is old.

Nothing of a task that Redis still knows is touched, and no link is followed.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from ai_infra.core.home import Home
from ai_infra.core.ids import is_id
from ai_infra.tasks.engine import Engine

PART = 500  #: names asked about and removed in one go


@dataclass(frozen=True, kw_only=True)
class Litter:
    """One file or folder that may go when its task, or workflow, is gone."""

    path: Path
    task: str  #: or workflow
    is_workflow: bool = False


async def tidy(engine: Engine, home: Home, max_age_s: float) -> int:
    """Remove what tasks and workflows that are gone from Redis left longer ago; how many files and folders.

    Raises ConnectorError: nobody knows then what is gone.
    """
    removed = 0
    parts = find_litter(home, max_age_s)
    while part := await asyncio.to_thread(next, parts, None):
        gone = set(await engine.missing([one.task for one in part if not one.is_workflow]))
        ended = set(await engine.missing_workflows([one.task for one in part if one.is_workflow]))
        going = [one for one in part if one.task in (ended if one.is_workflow else gone)]
        removed += await asyncio.to_thread(lambda some: sum(map(remove, some)), going)
    return removed


def find_litter(home: Home, max_age_s: float) -> Iterator[list[Litter]]:
    """What has not been changed for so long, in parts; whether its task is gone must be asked yet."""
    found = _old(home, time.time() - max_age_s)
    while part := list(islice(found, PART)):
        yield part


def remove(litter: Litter) -> bool:
    """Remove it; whether it went. What cannot be removed stays."""
    try:
        if litter.path.is_symlink() or not litter.path.is_dir():
            litter.path.unlink()
        else:
            shutil.rmtree(litter.path, ignore_errors=True)
    except (OSError, RecursionError):
        return False
    return not litter.path.exists()


def _old(home: Home, oldest: float) -> Iterator[Litter]:
    for entry in _entries(home.task_logs, oldest):
        task, _, attempt = entry.name.removesuffix(".log").rpartition(".")
        if entry.name.endswith(".log") and attempt.isdigit() and is_id(task):
            yield Litter(path=Path(entry.path), task=task)
    for agent in _entries(home.scratch("x").parent, float("inf")):
        for entry in _entries(Path(agent.path) / "working", oldest):
            if is_id(entry.name):
                yield Litter(path=Path(entry.path), task=entry.name)
    for entry in _entries(home.workflows, oldest):
        if is_id(entry.name):
            yield Litter(path=Path(entry.path), task=entry.name, is_workflow=True)


def _entries(folder: Path, oldest: float) -> Iterator[os.DirEntry[str]]:
    """What is in a folder and was last changed before `oldest`."""
    if folder.is_symlink():  # a task did this, to lead us elsewhere
        return
    with contextlib.suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(OSError):
                if entry.stat(follow_symlinks=False).st_mtime < oldest:
                    yield entry
