"""Commands of tasks, really run: how they end, what is kept of them, and that nothing of them stays."""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_infra.agents import commands
from ai_infra.agents.attempt import Attempt
from ai_infra.agents.commands import Command, CommandEnd, CommandRun
from ai_infra.agents.output import OutputLog
from ai_infra.agents.scratch import Scratch
from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId
from ai_infra.core.orphans import end_orphans, find_orphans
from ai_infra.core.settings import AgentSettings, TaskSettings
from ai_infra.tasks.task import Claim, Expect, Outcome, State, TaskSpec, TaskView
from ai_infra.testing import wait_until, wait_until_async

PATH = "/usr/local/bin:/usr/bin:/bin"


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def gone(pid: int) -> None:
    """It was killed: the kernel needs a moment to be done with it."""
    wait_until(lambda: not alive(pid), 5, f"{pid} is gone")


class Runner:
    """Runs commands in a folder of their own, all into one log."""

    def __init__(self, folder: Path, max_bytes: int = 10**9, log: Path | None = None) -> None:
        self.folder = folder
        self.home = Home(folder / "home")
        self.shown: list[bytes] = []
        self.output = OutputLog(log or folder / "output.log", max_bytes, self.shown.append)
        self.env = {"PATH": PATH, "AI_INFRA_HOME": str(self.home.root), "AI_INFRA_TASK_ID": "t-1"}

    def start(
        self, command: Command, grace_s: float = 5.0, cwd: Path | None = None, **env: str
    ) -> CommandRun:
        return CommandRun(command, cwd or self.folder, {**self.env, **env}, self.output, grace_s)

    def run(self, command: Command, **more: Any) -> CommandEnd:
        return asyncio.run(self._bounded(self.start(command, **more)))

    def run_and(self, command: Command, act: Callable[[CommandRun], object], **more: Any) -> CommandEnd:
        """Run it, and `act` once it has said something."""

        async def both() -> CommandEnd:
            running = self.start(command, **more)
            end = asyncio.ensure_future(running.run())

            async def said() -> bool:
                return bool(self.shown)

            await wait_until_async(said)
            act(running)
            return await asyncio.wait_for(end, 20)

        return asyncio.run(both())

    async def _bounded(self, running: CommandRun) -> CommandEnd:
        return await asyncio.wait_for(running.run(), 20)

    @property
    def said(self) -> str:
        return b"".join(self.shown).decode()

    def file(self, name: str) -> str:
        """What a command wrote into a file, as soon as it is there."""
        return wait_until(lambda: (self.folder / name).exists() and (self.folder / name).read_text())


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    found = Runner(tmp_path)
    yield found
    found.output.close()
    end_orphans(found.home)


# -- how it ends --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "code"),
    [
        (("true",), 0),
        (("false",), 1),
        ("exit 7", 7),
        ("exit 255", 255),
        ("kill -KILL $$", -9),
        ("kill -TERM $$", -15),
        ("kill -SEGV $$", -11),
        ("false; true", 0),
        ("no-such-command-at-all", 127),
        (("bash", "-c", "exit 3"), 3),
    ],
)
def test_the_exit_code_is_the_commands(runner: Runner, command: Command, code: int) -> None:
    assert runner.run(command).exit_code == code


def test_a_command_that_does_not_exist(runner: Runner) -> None:
    assert runner.run(("no-such-command", "x")).exit_code == 127
    assert runner.said == "no-such-command: no such command\n"


def test_a_command_that_may_not_be_run(runner: Runner) -> None:
    (runner.folder / "plain").write_text("echo no\n")
    assert runner.run((str(runner.folder / "plain"),)).exit_code == 126
    assert runner.run((str(runner.folder),)).exit_code == 126
    assert runner.said.splitlines() == [
        f"{runner.folder}/plain: may not be run (permission denied)",
        f"{runner.folder}: may not be run (permission denied)",
    ]


def test_a_file_that_is_no_program(runner: Runner) -> None:
    (runner.folder / "plain").write_text("echo no\n")
    (runner.folder / "plain").chmod(0o755)
    assert runner.run((str(runner.folder / "plain"),)).exit_code == 126
    assert "Exec format error" in runner.said


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("echo", "a\0b"), "embedded null byte"),
        ("echo a\0b", "embedded null byte"),
        (("echo", "x" * 200_000), "Argument list too long"),
        (("echo", "\ud800"), "surrogates not allowed"),
    ],
    ids=["NUL", "NUL in text", "too long", "no text"],
)
def test_words_that_no_program_can_get(runner: Runner, command: Command, said: str) -> None:
    assert runner.run(command).exit_code == 126
    assert said in runner.said


def test_a_folder_that_does_not_exist(runner: Runner) -> None:
    assert runner.run(("true",), cwd=runner.folder / "nothing").exit_code in (126, 127)
    assert f"{runner.folder}/nothing" in runner.said
    assert "no such command" not in runner.said


def test_durations(runner: Runner) -> None:
    assert 0.1 <= runner.run(("sleep", "0.1")).duration_s < 5


# -- what it gets -------------------------------------------------------------------------------------------


def test_an_argv_is_run_as_it_is(runner: Runner) -> None:
    runner.run(("printf", "%s|", "$PATH", "*", "a b", "; echo x", "`id`", "ü\n", ""))
    assert runner.said == "$PATH|*|a b|; echo x|`id`|ü\n||"


def test_a_text_is_run_by_bash_without_a_persons_settings(runner: Runner) -> None:
    (runner.folder / ".bashrc").write_text("echo from the rc file\n")
    (runner.folder / ".bash_profile").write_text("echo from the profile\n")
    runner.run(
        'x=(a b); echo "${x[1]}" $((6*7)) "$0" | tr b c; [[ $- == *i* ]] || echo plain',
        HOME=str(runner.folder),
    )
    assert runner.said == "c 42 /cin/cash\nplain\n"


def test_its_environment_is_exactly_what_is_given(runner: Runner) -> None:
    runner.run(("env", "-0"), ODD="a\nb=c ü")
    assert dict(pair.split("=", 1) for pair in runner.said.split("\0")[:-1]) == {
        **runner.env,
        "ODD": "a\nb=c ü",
    }


def test_it_works_in_its_folder_with_its_input_closed_and_its_own_session(runner: Runner) -> None:
    runner.run("pwd; wc -c; ps -o sid= -p $$ | tr -d ' '; echo $$")
    cwd, count, session, pid = runner.said.splitlines()
    assert (cwd, count) == (str(runner.folder), "0")
    assert session == pid


def test_it_has_no_descriptor_of_ours(runner: Runner) -> None:
    with open(runner.folder / "secret", "w"):
        runner.run("ls -l /proc/self/fd")
    assert "secret" not in runner.said
    assert "output.log" not in runner.said
    assert "socket:" not in runner.said


# -- what is kept -------------------------------------------------------------------------------------------


def test_output_and_errors_are_kept_in_their_order(runner: Runner) -> None:
    runner.run("for i in 1 2 3; do echo out $i; echo err $i >&2; done")
    runner.run(("echo", "the next command"))
    runner.output.close()
    expected = "".join(f"out {i}\nerr {i}\n" for i in (1, 2, 3)) + "the next command\n"
    assert runner.output.path.read_text() == runner.said == runner.output.tail() == expected
    assert stat.S_IMODE(runner.output.path.stat().st_mode) == 0o600


def test_ten_megabytes_are_bounded_on_disk_and_all_are_counted(tmp_path: Path) -> None:
    runner = Runner(tmp_path, max_bytes=1_000_000)
    end = runner.run("head -c 10000000 /dev/zero | tr '\\0' x; echo the end")
    runner.output.close()
    runner.output.close()
    kept = runner.output.path.read_bytes()
    assert end.exit_code == 0
    assert runner.output.total_bytes == sum(map(len, runner.shown)) == 10_000_008
    assert kept[:1_000_000] == b"x" * 1_000_000
    assert kept[1_000_000:] == b"\n[9000008 more bytes were not kept]\n"
    assert runner.output.tail().endswith("xxx" + "the end\n")
    assert len(runner.output.tail()) == 8192


def test_what_fits_exactly_is_kept_without_a_note(tmp_path: Path) -> None:
    runner = Runner(tmp_path, max_bytes=5)
    runner.run(("printf", "12345"))
    runner.output.close()
    assert runner.output.path.read_bytes() == b"12345"


def test_output_that_is_no_text_is_kept_as_it_is(runner: Runner) -> None:
    runner.run(r"printf 'a\xff\xfe\x00b'; printf '\xe2\x82'; sleep 0.05; printf '\xac'")
    runner.output.close()
    assert runner.output.path.read_bytes() == b"a\xff\xfe\0b\xe2\x82\xac"
    assert runner.output.tail() == "a��\0b€"


def test_a_full_disk_is_noted_and_the_command_goes_on(tmp_path: Path) -> None:
    runner = Runner(tmp_path, log=Path("/dev/full"))
    assert runner.run("for i in 1 2 3; do echo $i; sleep 0.02; done").exit_code == 0
    runner.output.close()
    assert runner.output.problem.startswith("/dev/full: the disk is full")
    assert runner.said == runner.output.tail() == "1\n2\n3\n"


# -- how it is stopped --------------------------------------------------------------------------------------


def test_asked_to_stop_it_may_tidy_up(runner: Runner) -> None:
    text = "trap 'echo tidied; exit 3' TERM; echo begun; while :; do sleep 0.02; done"
    end = runner.run_and(text, CommandRun.stop)
    assert end.exit_code == 3
    assert runner.said.endswith("tidied\n")


def test_one_that_ignores_the_asking_is_killed_after_the_grace(runner: Runner) -> None:
    text = "trap 'echo no' TERM INT HUP; echo begun; while :; do sleep 0.02; done"
    end = runner.run_and(text, CommandRun.stop, grace_s=0.3)
    assert end.exit_code == -9
    assert 0.3 <= end.duration_s < 3


def test_one_that_a_signal_holds_still_is_killed_after_the_grace(runner: Runner) -> None:
    end = runner.run_and("echo begun; kill -STOP $$; echo more", CommandRun.stop, grace_s=0.2)
    assert end.exit_code in (-9, -15)


def test_asking_many_times_does_not_shorten_the_grace(runner: Runner) -> None:
    def often(running: CommandRun) -> None:
        for _ in range(5):
            running.stop()

    text = "trap 'sleep 0.2; echo tidied; exit 0' TERM; echo begun; while :; do sleep 0.02; done"
    assert runner.run_and(text, often, grace_s=5).exit_code == 0
    assert runner.said.endswith("tidied\n")


def test_kill_ends_it_at_once_with_its_children(runner: Runner) -> None:
    text = "trap '' TERM; sleep 600 & echo $! > child; echo begun; wait"
    end = runner.run_and(text, CommandRun.kill)
    assert end.exit_code == -9
    assert end.duration_s < 5
    gone(int(runner.file("child")))


@pytest.mark.parametrize(("act", "code"), [(CommandRun.stop, -15), (CommandRun.kill, -9)])
def test_one_that_is_stopped_before_it_runs_ends_as_it_begins(
    runner: Runner, act: Callable[[CommandRun], None], code: int
) -> None:
    async def main() -> None:
        running = runner.start(("sleep", "600"))
        act(running)
        assert (await asyncio.wait_for(running.run(), 10)).exit_code == code

    asyncio.run(main())


def test_stop_and_kill_after_it_ended_do_nothing(runner: Runner) -> None:
    async def main() -> None:
        running = runner.start(("true",), grace_s=0.01)
        assert (await running.run()).exit_code == 0
        running.kill()
        running.stop()
        await asyncio.sleep(0)

    asyncio.run(main())


# -- what it leaves behind ----------------------------------------------------------------------------------


def test_a_child_in_the_background_ends_with_it_at_once(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commands, "DRAIN_S", 30)
    end = runner.run("sleep 600 & echo $! > child; nohup sleep 601 & echo $! > other; echo done")
    assert end.exit_code == 0
    assert end.duration_s < 5
    for name in ("child", "other"):
        gone(int(runner.file(name)))


def daemon(command: str, how: str = "exec ") -> str:
    """Bash that starts `command` in a session of its own, and goes on when it runs; its pid is in `child`."""
    inner = f"echo $$ > new; {how or 'exec '}sh -c 'mv new child; exec {command}'"
    return f"setsid bash -c {shlex.quote(inner)} & while [ ! -e child ]; do sleep 0.01; done"


def test_a_child_that_left_the_group_and_holds_the_pipe_does_not_hold_us(runner: Runner) -> None:
    end = runner.run(f"{daemon('sleep 600')}; echo done")
    pid = int(runner.file("child"))
    assert (end.exit_code, runner.said) == (0, "done\n")
    assert end.duration_s < 5
    assert alive(pid)
    assert find_orphans(runner.home) == [pid]
    assert end_orphans(runner.home) == 1
    gone(pid)


def test_a_child_that_never_stops_writing_does_not_hold_us(runner: Runner) -> None:
    end = runner.run(f"{daemon('yes')}; exit 4")
    assert end.exit_code == 4
    assert end.duration_s < 10
    assert runner.output.total_bytes > 100_000


def test_no_descriptor_is_left_open(runner: Runner) -> None:
    runner.run(("true",))
    before = len(os.listdir("/proc/self/fd"))
    for command in (("true",), ("no-such-command",), daemon("sleep 600")):
        runner.run(command)
    assert len(os.listdir("/proc/self/fd")) == before


# -- a whole attempt ----------------------------------------------------------------------------------------


class View:
    """Notes what an agent's window is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def command_started(self, text: str) -> None:
        self.told.append(text)

    def output(self, chunk: bytes) -> None:
        self.told.append(chunk)

    def command_ended(self, exit_code: int, duration_s: float) -> None:
        self.told.append(exit_code)

    def check_result(self, what: str, ok: bool, evidence: str) -> None:
        self.told.append((what, ok))


async def no_upstreams(tasks: object) -> list[TaskView | None]:
    raise AssertionError("a task without needs asks for nothing")


class Agent:
    """An agent that runs single attempts."""

    def __init__(self, root: Path) -> None:
        self.home = Home(root)
        self.home.ensure()
        self.scratch = Scratch(self.home, AgentSettings(name=AgentName("code")))
        self.scratch.ensure()
        self.view = View()

    def attempt(self, *run: Command, **more: Any) -> Attempt:
        spec = TaskSpec(id=TaskId("t-1"), name="x", agent=AgentName("code"), run=run, **more)
        claim = Claim(spec=spec, attempt=2, fence=1, worker=WorkerId("code.1"), state=State.IN_PROGRESS)
        limits = TaskSettings(
            lease_s=30.0, grace_s=0.3, output_max_bytes=10**6, temp_max_age_s=0.0, aging_s=0.0
        )
        return Attempt(
            claim,
            home=self.home,
            scratch=self.scratch,
            limits=limits,
            view=self.view,
            base_env={"PATH": PATH},
            upstreams=no_upstreams,
        )

    def run(self, *run: Command, **more: Any) -> Outcome:
        return asyncio.run(self.run_and(self.attempt(*run, **more)))

    async def run_and(
        self, attempt: Attempt, act: Callable[[Attempt], None] | None = None, when: object = None
    ) -> Outcome:
        """Run it, and `act` once the window was told `when`."""
        running = asyncio.ensure_future(attempt.run())

        async def is_time() -> bool:
            return when in self.view.told

        if act is not None:
            await wait_until_async(is_time)
            act(attempt)
        return await asyncio.wait_for(running, 20)


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    found = Agent(tmp_path / "home")
    yield found
    end_orphans(found.home)


def test_a_success_and_what_is_told_of_it(agent: Agent) -> None:
    outcome = agent.run(("echo", "one"), "echo two", expect=(Expect(output_matches="t.o"),))
    assert (outcome.ok, outcome.error, outcome.reason) == (True, None, "exit 0")
    result = dict(outcome.result)
    assert (result["exit_codes"], result["output_tail"], result["output_bytes"]) == ([0, 0], "one\ntwo\n", 8)
    assert [check["ok"] for check in result["checks"]] == [True, True]
    assert result["log"] == str(agent.home.task_logs / "t-1.2.log")
    assert Path(result["log"]).read_text() == "one\ntwo\n"
    assert agent.view.told == [
        "echo one", b"one\n", 0, "echo two", b"two\n", 0,
        ("exit code 0", True), ("output matches 't.o'", True),
    ]  # fmt: skip
    assert not (agent.scratch.root / "working" / "t-1").exists()


def test_the_first_command_that_fails_is_the_last(agent: Agent) -> None:
    outcome = agent.run(("echo", "one"), "exit 3", ("echo", "never"))
    assert (outcome.ok, outcome.retry, outcome.reason) == (False, True, "exit 3")
    assert outcome.error == "command 2 of 3 ended with exit code 3: exit 3"
    assert outcome.result["exit_codes"] == [0, 3]
    assert outcome.result["checks"] == []


def test_a_command_killed_from_outside_says_so(agent: Agent) -> None:
    assert agent.run("kill -KILL $$").error == "command 1 of 1 was killed by signal 9: kill -KILL $$"


def test_an_expectation_that_is_missed(agent: Agent) -> None:
    outcome = agent.run(("echo", "x"), expect=(Expect(file="out.csv"), Expect(command=("false",))))
    assert (outcome.ok, outcome.reason) == (False, "check failed")
    assert outcome.error is not None
    assert re.fullmatch(
        r"expected file /.*/out\.csv: not there; expected `false` succeeds: exit 1", outcome.error
    )


def test_a_timeout(agent: Agent) -> None:
    outcome = agent.run("sleep 600", ("echo", "never"), timeout_s=0.2)
    assert (outcome.ok, outcome.retry, outcome.reason) == (False, True, "timeout")
    assert outcome.error == "not finished after 0.2 s (timeout_s)"


def test_cancel_and_drain(agent: Agent) -> None:
    for act, reason, retry in ((Attempt.cancel, "cancelled", False), (Attempt.drain, "drained", True)):
        attempt = agent.attempt("echo begun; exec sleep 600")
        agent.view.told.clear()
        outcome = asyncio.run(agent.run_and(attempt, act, b"begun\n"))
        assert (outcome.ok, outcome.reason, outcome.retry) == (False, reason, retry)
        assert attempt.drained is (reason == "drained")


#: An agent's process: it adopts what its commands leave behind, runs one attempt, and tells what it ended.
AGENT_PROCESS = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
import test_commands
from ai_infra.core.orphans import adopt_orphans
adopt_orphans()
agent = test_commands.Agent(Path(sys.argv[2]))
import asyncio
attempt = agent.attempt(sys.argv[3])
outcome = asyncio.run(agent.run_and(attempt))
print(outcome.ok, attempt.left_behind, Path(agent.scratch.root, "child").read_text().strip())
"""


@pytest.mark.parametrize("how", ["", "exec -c "])
def test_what_a_task_leaves_behind_is_ended_even_without_its_mark(tmp_path: Path, how: str) -> None:
    text = f"{daemon('sleep 600', how)}; mv child $HOME"
    done = subprocess.run(
        [sys.executable, "-c", AGENT_PROCESS, str(Path(__file__).parent), str(tmp_path / "home"), text],
        capture_output=True, text=True, timeout=30, check=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    ok, left_behind, pid = done.stdout.split()
    assert ok == "True"
    assert int(left_behind) >= 1
    assert not alive(int(pid))


def test_a_task_of_a_workflow_shares_a_folder(agent: Agent) -> None:
    outcome = agent.run('echo x > "$AI_INFRA_WORKFLOW_DIR/file"', workflow=WorkflowId("w-1"))
    assert outcome.ok
    assert (agent.home.workflows / "w-1" / "file").read_text() == "x\n"


def test_a_folder_named_in_the_task(agent: Agent) -> None:
    first = agent.run("mkdir sub; echo x > sub/file")
    assert first.ok
    assert agent.run(("cat", "file"), cwd="sub").result["output_tail"] == "x\n"


@pytest.mark.parametrize("why", ["timeout", "cancel"])
def test_checks_end_with_the_attempt(agent: Agent, why: str) -> None:
    checks = [f"touch {agent.home.root}/{name}; echo begun; exec sleep 5" for name in ("first", "second")]
    attempt = agent.attempt(
        ("true",),
        expect=tuple(Expect(command=text) for text in checks),
        timeout_s=1.0 if why == "timeout" else 60.0,
    )
    began = time.monotonic()
    act = Attempt.cancel if why == "cancel" else None
    outcome = asyncio.run(agent.run_and(attempt, act, b"begun\n"))
    assert not outcome.ok
    assert (agent.home.root / "first").exists()
    assert not (agent.home.root / "second").exists()
    assert time.monotonic() - began < 5


def test_a_file_in_the_place_of_the_workflows_folder_fails_the_task_not_the_agent(agent: Agent) -> None:
    from ai_infra.core.errors import SystemProblem

    (agent.home.workflows / "w-1").write_text("a task did this")
    with pytest.raises(SystemProblem):
        agent.run(("true",), workflow=WorkflowId("w-1"))
