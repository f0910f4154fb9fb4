"""Running one command: its own process group, its whole output kept up to a bound, and an end that is sure.

A command is an argument list, run as it is, or a text, run by `bash --norc --noprofile -c`. Stdin is closed.
What it leaves behind is killed with it: first its group, then whatever still carries the task's mark.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ai_infra.core.durable import system_problem

CHUNK_BYTES = 65536
TAIL_BYTES = 8192  #: of the output that travels with the result; the whole is in the log file
DRAIN_S = 0.5  #: how long we read on after the command ended, if a child of it holds the pipe
NOT_STARTED = 127  #: the shell's code for "no such command"; 126 for "may not be run"

Command = tuple[str, ...] | str


class OutputLog:
    """The output of one attempt: a file up to a bound, a tail in memory, and whoever watches."""

    def __init__(self, path: Path, max_bytes: int, show: Callable[[bytes], None]) -> None:
        self.path, self._max_bytes, self._show = path, max_bytes, show
        self.total_bytes = 0
        self._kept_bytes = 0
        self._tail = b""
        self.problem = ""
        try:
            self._file: IO[bytes] | None = open(path, "wb", opener=_private)  # noqa: SIM115 closed by close()
        except OSError as exc:
            raise system_problem(path, exc) from exc

    def write(self, chunk: bytes) -> None:
        """Keep what fits; a full disk is noted in `problem`, the command goes on."""
        self.total_bytes += len(chunk)
        self._tail = (self._tail + chunk)[-TAIL_BYTES:]
        self._show(chunk)
        room = self._max_bytes - self._kept_bytes
        if room <= 0 or self._file is None or self.problem:
            return
        try:
            self._file.write(chunk[:room])
            self._file.flush()
            self._kept_bytes += len(chunk[:room])
        except OSError as exc:
            self.problem = str(system_problem(self.path, exc))

    def tail(self) -> str:
        """The last TAIL_BYTES as text; what is not UTF-8 is replaced."""
        return self._tail.decode("utf-8", errors="replace")

    def close(self) -> None:
        """Note in the file how much was left out, and close it. Twice is safe."""
        if self._file is None:
            return
        left_out = self.total_bytes - self._kept_bytes
        with contextlib.suppress(OSError):
            if left_out:
                self._file.write(f"\n[{left_out} more bytes were not kept]\n".encode())
            self._file.close()
        self._file = None


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended. `exit_code` is negative for a signal, as in subprocess."""

    exit_code: int
    duration_s: float


class CommandRun:
    """One command while it runs; stop() may be called from anywhere, any number of times."""

    def __init__(
        self, command: Command, cwd: Path, env: Mapping[str, str], output: OutputLog, grace_s: float
    ) -> None:
        self._argv, self._cwd, self._env, self._output, self._grace_s = (
            argv_of(command),
            cwd,
            env,
            output,
            grace_s,
        )
        self._process: asyncio.subprocess.Process | None = None
        self._stopping: asyncio.Task[None] | None = None

    async def run(self) -> CommandEnd:
        """Run to the end. Never raises for what the command does; 127 and 126 as a shell would."""
        began = time.monotonic()
        # A pipe of our own: asyncio's would make wait() wait for every child that inherited it.
        reading, writing = os.pipe()
        try:
            code = await self._run(reading, writing)
        finally:
            os.close(reading)
        return CommandEnd(exit_code=code, duration_s=time.monotonic() - began)

    async def _run(self, reading: int, writing: int) -> int:
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, cwd=self._cwd, env=self._env, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=writing, stderr=writing,
            )  # fmt: skip
        except (OSError, ValueError) as exc:
            self._output.write(f"{self._argv[0]}: {_why_not(exc)}\n".encode())
            return NOT_STARTED if isinstance(exc, FileNotFoundError) else NOT_STARTED - 1
        finally:
            os.close(writing)
        try:
            return await self._read_until_end(self._process, reading)
        finally:
            self._signal(signal.SIGKILL)  # the group: what the command left in the background
            if self._stopping is not None:
                self._stopping.cancel()

    def stop(self) -> None:
        """Ask the whole group to end, and kill it after the grace."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="stop-command")

    def kill(self) -> None:
        """End the whole group at once."""
        self._signal(signal.SIGKILL)

    async def _stop(self) -> None:
        self._signal(signal.SIGTERM)
        await asyncio.sleep(self._grace_s)
        self._signal(signal.SIGKILL)

    async def _read_until_end(self, process: asyncio.subprocess.Process, reading: int) -> int:
        loop = asyncio.get_running_loop()
        closed = asyncio.Event()
        os.set_blocking(reading, False)
        loop.add_reader(reading, self._read, reading, closed)
        try:
            code = await process.wait()
            self._signal(signal.SIGKILL)
            with contextlib.suppress(TimeoutError):  # a child that left the group may hold the pipe for ever
                async with asyncio.timeout(DRAIN_S):
                    await closed.wait()
            return code
        finally:
            loop.remove_reader(reading)

    def _read(self, reading: int, closed: asyncio.Event) -> None:
        try:
            chunk = os.read(reading, CHUNK_BYTES)
        except BlockingIOError:
            return
        if chunk:
            self._output.write(chunk)
        else:
            closed.set()
            asyncio.get_running_loop().remove_reader(reading)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, number)


def argv_of(command: Command) -> list[str]:
    """What is executed for a command of a task."""
    if isinstance(command, str):
        return ["/bin/bash", "--norc", "--noprofile", "-c", command]
    return list(command)


def words_of(command: Command) -> str:
    """A command as a person would type it."""
    return command if isinstance(command, str) else shlex.join(command)


def _why_not(exc: OSError | ValueError) -> str:
    if isinstance(exc, FileNotFoundError):
        return "no such command"
    if isinstance(exc, PermissionError):
        return "may not be run (permission denied)"
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
