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
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from ai_infra.agents.output import OutputLog

CHUNK_BYTES = 65536
DRAIN_S = 0.5  #: how long we read on after the command ended, if a child of it holds the pipe
NOT_STARTED = 127  #: the shell's code for "no such command"; 126 for "may not be run"

Command = tuple[str, ...] | str


@dataclass(frozen=True, kw_only=True)
class CommandEnd:
    """How a command ended. `exit_code` is negative for a signal, as in subprocess."""

    exit_code: int
    duration_s: float


class CommandRun:
    """One command. tell(), stop() and kill() may come at any time; too early, they reach it as it begins."""

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
        self._begun = asyncio.Event()
        self._killed = self._told = False
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
            process = await self._begin(writing)
            if isinstance(process, int):
                return process
            self._process = process
            self._begun.set()
            if self._killed:
                self._signal(signal.SIGKILL)
            elif self._told:
                self._signal(signal.SIGTERM)
            return await self._read_until_end(process, reading)
        finally:
            self._signal(signal.SIGKILL)  # the group: what the command left in the background
            self._process = None  # its number may be another's from now on
            if self._stopping is not None:
                self._stopping.cancel()

    async def _begin(self, writing: int) -> asyncio.subprocess.Process | int:
        """The process, or the exit code when there is none."""
        try:
            return await asyncio.create_subprocess_exec(
                *self._argv, cwd=self._cwd, env=self._env, start_new_session=True,
                stdin=asyncio.subprocess.DEVNULL, stdout=writing, stderr=writing,
            )  # fmt: skip
        except (OSError, ValueError) as exc:
            self._output.write(f"{self._why_not(exc)}\n".encode("utf-8", "backslashreplace"))
            return NOT_STARTED if isinstance(exc, FileNotFoundError) else NOT_STARTED - 1
        finally:
            os.close(writing)

    def tell(self) -> None:
        """Say to the whole group that its time is over; what it makes of that is its own business."""
        self._told = True
        self._signal(signal.SIGTERM)

    def stop(self) -> None:
        """Ask the whole group to end, and kill it after the grace."""
        if self._stopping is None:
            self._stopping = asyncio.create_task(self._stop(), name="stop-command")

    def kill(self) -> None:
        """End the whole group at once."""
        self._killed = True
        self._signal(signal.SIGKILL)

    async def _stop(self) -> None:
        await self._begun.wait()
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

    def _why_not(self, exc: OSError | ValueError) -> str:
        if isinstance(exc, OSError) and not os.path.isdir(self._cwd):
            return f"{self._cwd}: no such folder to work in"
        return f"{self._argv[0]}: {_reason(exc)}"

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


def _reason(exc: OSError | ValueError) -> str:
    if isinstance(exc, FileNotFoundError):
        return "no such command"
    if isinstance(exc, PermissionError):
        return "may not be run (permission denied)"
    return exc.strerror or str(exc) if isinstance(exc, OSError) else str(exc)
