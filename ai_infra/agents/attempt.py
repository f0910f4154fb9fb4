"""One attempt at a task of kind `run`: its commands in order, its checks, and the outcome handed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from ai_infra.agents.checks import Checked, Ran, check_all
from ai_infra.agents.commands import Command, CommandEnd, CommandRun, words_of
from ai_infra.agents.output import OutputLog
from ai_infra.agents.result import result_of
from ai_infra.agents.scratch import Scratch
from ai_infra.core.durable import system_problem
from ai_infra.core.home import Home
from ai_infra.core.orphans import MARK_AGENT, MARK_HOME, MARK_TASK, end_children
from ai_infra.core.settings import TaskSettings
from ai_infra.tasks.task import CANCELLED_REASON, Claim, Outcome, TaskSpec

_PASSED_ON = ("LANG", "LC_ALL", "TZ", "USER", "LOGNAME")
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class AttemptView(Protocol):
    """Who watches an attempt: the agent's window."""

    def command_started(self, text: str) -> None:
        """A command of the task begins."""

    def output(self, chunk: bytes) -> None:
        """Bytes that it wrote; hostile until shown safe."""

    def command_ended(self, exit_code: int, duration_s: float) -> None:
        """It ended."""

    def check_result(self, what: str, ok: bool, evidence: str) -> None:
        """An expectation was checked."""


class Attempt:
    """One run of one claimed task. cancel(), drain() and kill() may be called while run() runs."""

    def __init__(
        self,
        claim: Claim,
        *,
        home: Home,
        scratch: Scratch,
        limits: TaskSettings,
        view: AttemptView,
        base_env: Mapping[str, str],
    ) -> None:
        self.claim = claim
        self._home, self._scratch, self._limits, self._view = home, scratch, limits, view
        self._env = task_env(claim, home, scratch, base_env)
        self._current: CommandRun | None = None
        self.left_behind = 0  #: processes that outlived their command, ended with the attempt
        self._ended_by = ""  #: why we stopped it: "timeout", "cancelled" or "drained"
        self._ended = asyncio.Event()  #: set with it
        self.log_path = home.task_logs / f"{claim.spec.id}.{claim.attempt}.log"

    @property
    def drained(self) -> bool:
        """Whether it was stopped because the process stops; it is then given back, not failed."""
        return self._ended_by == "drained"

    def cancel(self) -> None:
        """A person or an upstream wants it stopped: asked, then killed after the grace."""
        self._end("cancelled")

    def drain(self) -> None:
        """The process stops: asked, then killed after the grace."""
        self._end("drained")

    def kill(self) -> None:
        """The process must stop now."""
        self._end("drained")
        if self._current is not None:
            self._current.kill()

    async def run(self) -> Outcome:
        """Run to the end; never raises for what the commands do. Raises SystemProblem (disk, rights)."""
        spec, began = self.claim.spec, time.monotonic()
        cwd = self._enter(spec)
        output = OutputLog(self.log_path, self._limits.output_max_bytes, self._view.output)
        timer = asyncio.get_running_loop().call_later(spec.timeout_s, self._end, "timeout")
        ends: list[tuple[Command, CommandEnd]] = []
        checks: list[Checked] = []
        try:
            await self._run_commands(spec, cwd, output, ends)
            if self._ran_through(spec, ends):
                checks = await self._check(spec, cwd, output, [end.exit_code for _, end in ends])
        finally:
            timer.cancel()
            output.close()
            self.left_behind = end_children()
            self._scratch.leave(spec.undo_of or spec.id)
        return self._outcome(ends, checks, output, time.monotonic() - began)

    def _enter(self, spec: TaskSpec) -> Path:
        working = self._scratch.enter(spec.undo_of or spec.id)  # what is undone lies where it was done
        if spec.workflow is not None:
            shared = self._home.workflows / spec.workflow
            try:
                shared.mkdir(mode=0o700, parents=True, exist_ok=True)
            except OSError as exc:
                raise system_problem(shared, exc) from exc
        return working / spec.cwd if spec.cwd else working

    def _end(self, why: str) -> None:
        if not self._ended_by:
            self._ended_by = why
            self._ended.set()
            if self._current is not None:
                self._current.stop()

    async def _run_commands(
        self, spec: TaskSpec, cwd: Path, output: OutputLog, ends: list[tuple[Command, CommandEnd]]
    ) -> None:
        for command in spec.run:
            if self._ended_by or (ends and ends[-1][1].exit_code != 0):
                return
            ends.append((command, await self._run_one(command, cwd, output)))

    async def _run_one(self, command: Command, cwd: Path, output: OutputLog) -> CommandEnd:
        self._view.command_started(words_of(command))
        self._current = CommandRun(command, cwd, self._env, output, self._limits.grace_s)
        try:
            end = await self._current.run()
        finally:
            self._current = None
        self._view.command_ended(end.exit_code, end.duration_s)
        return end

    async def _check(self, spec: TaskSpec, cwd: Path, output: OutputLog, codes: list[int]) -> list[Checked]:
        async def run(command: Command) -> int:
            return (await self._run_one(command, cwd, output)).exit_code

        ran = Ran(exit_codes=codes, output=output, cwd=cwd, run=run, ended=self._ended)
        checks = await check_all(spec.expect, ran)
        for check in checks:
            self._view.check_result(check.what, check.ok, check.evidence)
        return checks

    def _ran_through(self, spec: TaskSpec, ends: list[tuple[Command, CommandEnd]]) -> bool:
        return not self._ended_by and len(ends) == len(spec.run)

    def _outcome(
        self, ends: list[tuple[Command, CommandEnd]], checks: list[Checked], output: OutputLog, took_s: float
    ) -> Outcome:
        error = self._error(ends, checks)
        return Outcome(
            ok=error is None,
            error=error,
            retry=self._ended_by != "cancelled",
            reason=self._reason(ends, checks),
            result=result_of([end for _, end in ends], checks, output, took_s),
        )

    def _reason(self, ends: list[tuple[Command, CommandEnd]], checks: list[Checked]) -> str:
        if self._ended_by:
            return CANCELLED_REASON if self._ended_by == "cancelled" else self._ended_by
        if any(not check.ok for check in checks):
            return "check failed"
        return f"exit {ends[-1][1].exit_code}" if ends else "nothing ran"

    def _error(self, ends: list[tuple[Command, CommandEnd]], checks: list[Checked]) -> str | None:
        """Why it is not done, in one line; None when it is."""
        spec = self.claim.spec
        if self._ended_by == "timeout":
            return f"not finished after {spec.timeout_s:g} s (timeout_s)"
        if self._ended_by:
            return f"stopped: {self._ended_by}"
        missed = [check for check in checks if not check.ok]
        if len(ends) < len(spec.run) or (missed and missed[0].what.startswith("exit code")):
            command, end = ends[-1]
            return f"command {len(ends)} of {len(spec.run)} {_how(end.exit_code)}: {words_of(command)[:200]}"
        if missed:
            return "; ".join(f"expected {check.what}: {check.evidence}" for check in missed)[:1000]
        return None


def task_env(claim: Claim, home: Home, scratch: Scratch, base_env: Mapping[str, str]) -> dict[str, str]:
    """The environment of a task's commands: an allow list, the task's own variables, and the marks.

    The marks come last: no task can hide from whoever ends what it left behind.
    """
    spec = claim.spec
    env = {name: base_env[name] for name in _PASSED_ON if name in base_env}
    env |= {
        "PATH": f"{home.run / 'bin'}:{base_env.get('PATH') or _DEFAULT_PATH}",
        "HOME": str(scratch.root),
        "TMPDIR": str(scratch.temp),
        "GIT_TERMINAL_PROMPT": "0",
    }
    env |= spec.env
    env |= {
        MARK_HOME: str(home.root),
        MARK_AGENT: spec.agent,
        MARK_TASK: spec.id,
        "AI_INFRA_TASK_NAME": spec.name,
        "AI_INFRA_ATTEMPT": str(claim.attempt),
    }
    if spec.undo_of is not None:
        env["AI_INFRA_UNDO_OF"] = spec.undo_of
    if spec.workflow is not None:
        env["AI_INFRA_WORKFLOW_ID"] = spec.workflow
        env["AI_INFRA_WORKFLOW_DIR"] = str(home.workflows / spec.workflow)
    return env


def _how(exit_code: int) -> str:
    return f"was killed by signal {-exit_code}" if exit_code < 0 else f"ended with exit code {exit_code}"
