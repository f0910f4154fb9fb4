"""Bounded: run one command of a repository with a limit on time and output, and leave nothing of it behind.

The command gets a session of its own, no standard input and a clean environment. At the limit its group is
asked to stop (an interrupt, so a test runner may still print its counts), then killed; whatever it started
and detached is found by a mark in its environment and killed too, also when an earlier life of this process
could not do it.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import IO

GRACE_S = 5.0  #: between the interrupt and the kill
HEAD_BYTES, TAIL_BYTES = 32_000, 200_000  #: of the output, what is kept
_TICK_S = 0.2

MARK = "AI_INFRA_CHECKUP_RUN"  #: in the environment of everything a run starts; the value names the run


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one command ended."""

    code: int | None  #: None: it was stopped at the limit
    output: str  #: both streams; the middle is left out when there is too much
    output_bytes: int
    took_s: float


def run_bounded(
    command: Sequence[str], cwd: Path, env: Mapping[str, str], limit_s: float, *, run: str
) -> Outcome:
    """Run until it ends or `limit_s` is over; nothing of it lives when this returns.

    Raises OSError if it cannot start.
    """
    started = time.monotonic()
    process = subprocess.Popen(
        [*_dies_with_us(), *command],
        cwd=cwd,
        env={**env, MARK: run},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    assert process.stdout is not None
    kept = _Kept()
    with process.stdout as output:
        try:
            ended = _follow(process, output, kept, started + limit_s)
            if not ended:
                _signal_group(process, signal.SIGINT)
                _follow(process, output, kept, time.monotonic() + GRACE_S)
        finally:
            _signal_group(process, signal.SIGKILL)
            process.wait()
            kill_marked(run)
        _drain(output, kept)
    code = process.returncode if ended else None
    return Outcome(code=code, output=kept.text(), output_bytes=kept.total, took_s=time.monotonic() - started)


def kill_marked(run: str) -> int:
    """Kill every process that carries the mark of `run`; how many there were. Safe to repeat."""
    import psutil

    killed = 0
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.pid != os.getpid() and process.environ().get(MARK) == run:
                process.kill()
                killed += 1
    return killed


@contextlib.contextmanager
def signals_raise() -> Iterator[None]:
    """For the length of a block, SIGTERM and SIGHUP end it by SystemExit, so that its clean-up happens."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = (signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, _raise) for number in wanted}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _raise(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def _dies_with_us() -> list[str]:
    """A prefix after which the kernel kills the command when this process dies, kill -9 included."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _follow(process: subprocess.Popen[bytes], output: IO[bytes], kept: _Kept, deadline: float) -> bool:
    """Read until the command itself has ended (its children may hold the pipe) or the deadline.

    Whether it ended.
    """
    open_ = True
    while process.poll() is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if not open_:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(min(left, _TICK_S))
        elif select.select([output], [], [], min(left, _TICK_S))[0]:
            open_ = kept.take(os.read(output.fileno(), 1 << 16))
    return True


def _drain(output: IO[bytes], kept: _Kept) -> None:
    while select.select([output], [], [], 0)[0]:
        if not kept.take(os.read(output.fileno(), 1 << 16)):
            return


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    # The leader is not reaped before the last call, so the group's number cannot belong to anybody else.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, number)


class _Kept:
    """The first and the last bytes of an output of any length."""

    def __init__(self) -> None:
        self.total = 0
        self._head, self._tail = bytearray(), bytearray()

    def take(self, block: bytes) -> bool:
        """Keep what fits; False at the end of the output."""
        self.total += len(block)
        room = HEAD_BYTES - len(self._head)
        self._head += block[:room]
        self._tail += block[room:] if room > 0 else block
        if len(self._tail) > 2 * TAIL_BYTES:
            del self._tail[:-TAIL_BYTES]
        return bool(block)

    def text(self) -> str:
        """What was kept, as text."""
        tail = self._tail[-TAIL_BYTES:]
        left_out = self.total - len(self._head) - len(tail)
        gap = f"\n… {left_out:,} bytes left out …\n".encode() if left_out else b""
        return (bytes(self._head) + gap + bytes(tail)).decode("utf-8", "replace")
