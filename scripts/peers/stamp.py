"""Stamps: a run of a task appends the monotonic clock, which all processes share, to one file.

Every engine's tasks do this and no more, so that starts are seen alike whatever process they happen in.
"""

from __future__ import annotations

import os
import struct
import time

SOCKET = os.environ["BENCH_SOCKET"]  #: of the Redis of this measurement
KEEPS_RESULTS = os.environ.get("BENCH_RESULTS") == "1"  #: somebody waits for them
PATH = os.environ["BENCH_STAMPS"]
HOLD_S = 120.0

_file = os.open(PATH, os.O_WRONLY | os.O_APPEND | os.O_CREAT)


def mark() -> None:
    """One run has begun."""
    os.write(_file, struct.pack("q", time.monotonic_ns()))


def hold() -> None:
    """A run that is still there when its worker is killed."""
    mark()
    time.sleep(HOLD_S)


def count() -> int:
    """How many runs have begun."""
    return os.stat(_file).st_size // 8


def last() -> int:
    """When the last of them did, in ns."""
    with open(PATH, "rb") as file:
        file.seek(-8, os.SEEK_END)
        return int(struct.unpack("q", file.read(8))[0])
