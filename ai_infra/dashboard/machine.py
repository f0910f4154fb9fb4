"""The machine: load, memory and disk at one moment, read from /proc."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the machine has, and how much of it is in use."""

    load: float  #: mean of runnable processes over a minute
    cpus: int
    memory_used_bytes: int
    memory_total_bytes: int
    disk_used: float  #: of the file system the home is on, 0-1, as a plain user sees it


def read_machine(home: Path) -> Machine:
    """Now. Raises OSError where `home` does not exist."""
    memory = _meminfo()
    disk = os.statvfs(home)
    used_blocks = disk.f_blocks - disk.f_bfree
    return Machine(
        load=os.getloadavg()[0],
        cpus=os.cpu_count() or 1,
        memory_used_bytes=memory["MemTotal"] - memory["MemAvailable"],
        memory_total_bytes=memory["MemTotal"],
        disk_used=used_blocks / max(1, used_blocks + disk.f_bavail),
    )


def _meminfo() -> dict[str, int]:
    """In bytes."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
