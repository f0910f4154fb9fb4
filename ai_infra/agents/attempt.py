"""One attempt at a task of kind `run`: its commands in order, its checks, and the outcome handed in."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from ai_infra.agents.checks import Checked, Ran, check_all
from ai_infra.agents.commands import Command, CommandEnd, CommandRun, words_of
from ai_infra.agents.exchange import Exchange
from ai_infra.agents.output import OutputLog
from ai_infra.agents.patterns import search
from ai_infra.agents.preparing import Prepared, Upstreams, prepare
from ai_infra.agents.result import result_of
from ai_infra.agents.scratch import Scratch
from ai_infra.agents.verdict import Ended, Verdict, verdict_of
from ai_infra.core.durable import system_problem
from ai_infra.core.errors import ConnectorError, UsageError
from ai_infra.core.home import Home
from ai_infra.core.orphans import MARK_AGENT, MARK_HOME, MARK_TASK, end_children
from ai_infra.core.settings import TaskSettings
from ai_infra.tasks.retry import patterns, refusal
from ai_infra.tasks.task import Claim, Outcome, TaskSpec

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
        upstreams: Upstreams,
    ) -> None:
        self.claim = claim
        self._home, self._scratch, self._limits, self._view = home, scratch, limits, view
        self._base_env, self._upstreams = base_env, upstreams
        self._env: dict[str, str] = {}
        self._exchange = Exchange(scratch.exchange(claim.spec.id))
        self._current: CommandRun | None = None
        self.left_behind = 0  #: processes that outlived their command, ended with the attempt
        self._ended_by = ""  #: why we stopped it: "timeout", "cancelled" or "drained"
        self._ended = asyncio.Event()  #: set with it
        self._told = False  #: whether the last command was told that soft_timeout_s is over
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
        try:
            prepared = await prepare(self.claim.spec, self._upstreams, self._ended)
        except UsageError as exc:  # another attempt would meet the same upstreams
            return Outcome(ok=False, error=str(exc), retry=False, reason="not fit to run")
        except ConnectorError:  # Redis stays away, and we must stop
            self._end("drained")
            prepared = None
        if prepared is None:
            verdict = verdict_of(self._ended_so())
            return Outcome(ok=False, error=verdict.error, reason=verdict.reason)
        if prepared.skipped is not None:
            what = {"skipped": True, "why": prepared.skipped}
            return Outcome(ok=True, result=what, reason=f"skipped: {prepared.skipped}")
        return await self._run(prepared)

    async def _run(self, prepared: Prepared) -> Outcome:
        spec, began = prepared.spec, time.monotonic()
        cwd = self._enter(prepared)
        self._env = task_env(replace(self.claim, spec=spec), self._home, self._scratch, self._base_env)
        if prepared.undone is not None:
            self._env["AI_INFRA_UNDO_RESULT"] = str(self._exchange.undone)
        output = OutputLog(self.log_path, self._limits.output_max_bytes, self._view.output)
        timers = self._timers(spec)
        ends: list[tuple[Command, CommandEnd]] = []
        checks: list[Checked] = []
        try:
            await self._run_commands(spec, cwd, output, ends)
            if self._ran_through(spec, ends):
                checks = await self._check(spec, cwd, output, [end.exit_code for _, end in ends])
            handed = self._exchange.read()
        finally:
            for timer in timers:
                timer.cancel()
            output.close()
            self.left_behind = end_children()
            self._exchange.close()
            self._scratch.leave(spec.undo_of or spec.id)
        result = result_of([end for _, end in ends], checks, output, time.monotonic() - began)
        result |= {"value": handed.value} if handed.given else {}
        ended = replace(self._ended_so(), ends=ends, checks=checks, handed=handed)
        return await self._outcome(verdict_of(ended), result, output)

    def _ended_so(self) -> Ended:
        return Ended(spec=self.claim.spec, stopped=self._ended_by, told=self._told)

    def _timers(self, spec: TaskSpec) -> list[asyncio.TimerHandle]:
        later = asyncio.get_running_loop().call_later
        timers = [later(spec.timeout_s, self._timeout)]
        return timers if spec.soft_timeout_s is None else [later(spec.soft_timeout_s, self._tell), *timers]

    def _tell(self) -> None:
        """soft_timeout_s is over: what runs is told, once; it goes on as it likes until timeout_s."""
        if self._current is not None and not self._ended_by:
            self._told = True
            self._current.tell()

    def _timeout(self) -> None:
        """timeout_s is over: what runs is asked to end and killed after the grace; at once if it was told."""
        self._end("timeout")
        if self._current is not None and self._told:
            self._current.kill()

    def _enter(self, prepared: Prepared) -> Path:
        spec = prepared.spec
        working = self._scratch.enter(spec.undo_of or spec.id)  # what is undone lies where it was done
        _make(self.log_path.parent)  # a person may have removed the logs
        self._exchange.open(prepared.inputs, prepared.undone)
        if spec.workflow is not None:
            _make(self._home.workflows / spec.workflow)
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
        self._told = False  # the one before it was, maybe
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

    async def _outcome(self, verdict: Verdict, result: dict[str, Any], output: OutputLog) -> Outcome:
        refused = await self._refusal(verdict, output) if verdict.failure is not None else ""
        return Outcome(
            ok=verdict.error is None,
            error=f"{verdict.error} ({refused})" if refused else verdict.error,
            retry=self._ended_by != "cancelled" and not refused,
            reason=verdict.reason,
            result=result,
        )

    async def _refusal(self, verdict: Verdict, output: OutputLog) -> str:
        """Why the retry rules of the task allow no other attempt; empty when they do."""
        spec, found = self.claim.spec, []
        ended = asyncio.Event() if self._ended_by == "timeout" else self._ended  # else no search would begin
        for pattern in patterns((*spec.retry_only_for, *spec.retry_not_for)):
            if (await search(pattern, output.end(), ended)).text is not None:
                found.append(pattern)
        assert verdict.failure is not None
        return refusal(verdict.failure, spec.retry_only_for, spec.retry_not_for, found)


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
        "AI_INFRA_RESULT": str(Exchange(scratch.exchange(spec.id)).result),
    }
    if spec.inputs:
        env["AI_INFRA_INPUTS"] = str(Exchange(scratch.exchange(spec.id)).inputs)
    if spec.undo_of is not None:
        env["AI_INFRA_UNDO_OF"] = spec.undo_of
    if spec.workflow is not None:
        env["AI_INFRA_WORKFLOW_ID"] = spec.workflow
        env["AI_INFRA_WORKFLOW_DIR"] = str(home.workflows / spec.workflow)
    return env


def _make(folder: Path) -> None:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise system_problem(folder, exc) from exc
