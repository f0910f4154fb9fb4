"""What the kernel counts of a process: CPU time, sleeps, and the moments in which it was awake.

All threads together; psutil's context switches are those of the first thread alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

SAMPLE_S = 0.02  #: moments closer to each other than this count as one


@dataclass(frozen=True, kw_only=True)
class Reading:
    """Counters of one process at one moment."""

    at_s: float
    cpu_s: float
    sleeps: int

    @classmethod
    def of(cls, process: psutil.Process) -> Reading:
        """Now. Raises psutil.NoSuchProcess, OSError."""
        return cls(at_s=time.monotonic(), cpu_s=cpu_s(process), sleeps=sleeps(process.pid))


def cpu_s(process: psutil.Process) -> float:
    """Its own, in nanoseconds where the kernel counts them, and that of children it has waited for."""
    times = process.cpu_times()
    own_s: float = times.user + times.system
    with contextlib.suppress(OSError):
        own_s = sum(int((t / "schedstat").read_text().split()[0]) for t in _threads(process.pid)) / 1e9
    return float(own_s + times.children_user + times.children_system)


def sleeps(pid: int) -> int:
    """Voluntary context switches so far."""
    total = 0
    for thread in _threads(pid):
        with contextlib.suppress(FileNotFoundError):
            text = (thread / "status").read_text()
            total += int(text.partition("\nvoluntary_ctxt_switches:")[2].split(maxsplit=1)[0])
    return total


async def count_wakeups(watched: Mapping[str, psutil.Process], seconds: int) -> dict[str, int]:
    """Look at every process for `seconds`: how often each left its sleep, however often it then waited."""
    last = {name: sleeps(process.pid) for name, process in watched.items()}
    was_awake = dict.fromkeys(watched, False)
    found = dict.fromkeys(watched, 0)
    began = time.monotonic()
    for tick in range(1, int(seconds / SAMPLE_S) + 1):
        await asyncio.sleep(max(0.0, began + tick * SAMPLE_S - time.monotonic()))
        for name, process in watched.items():
            now = sleeps(process.pid)
            is_awake = now != last[name]
            found[name] += is_awake and not was_awake[name]
            last[name], was_awake[name] = now, is_awake
    return found


def _threads(pid: int) -> list[Path]:
    return sorted(Path(f"/proc/{pid}/task").iterdir())
