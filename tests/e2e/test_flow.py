"""When work may begin and must have ended: pauses, locks, delays, deadlines, keys, rates, watching."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import PROGRAM, SESSION, Installation

ENDED = ("COMPLETED", "FAILED", "CANCELLED")


@pytest.fixture(scope="module")
def session() -> Iterator[Installation]:
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        found.configure("tasks: {grace_s: 1}\nsupervisor: {heartbeat_s: 0.5}\n")
        (found.home.config / "agents.yaml").write_text("agents: {qa: {rate_per_minute: 120}}\n")
        found.ok("up")
        yield found
    finally:
        found.close()


def submit(session: Installation, agent: str, *words: str, **env: str) -> str:
    return session.ok("task", "submit", agent, *words, **env).strip()


def ended(session: Installation, task_id: str, timeout_s: float = 20) -> Any:
    def over() -> Any:
        view = session.task(task_id)
        return view if view["state"] in ENDED else None

    return wait_until(over, timeout_s, f"{task_id} ended")


def begun(session: Installation, task_id: str) -> None:
    wait_until(lambda: session.task(task_id)["state"] == "IN_PROGRESS", 15, f"{task_id} runs")


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


# -- pauses -------------------------------------------------------------------------------------------------


def test_a_paused_agent_finishes_and_begins_nothing_whatever_restarts(session: Installation) -> None:
    gate = session.root / "gate"
    running = submit(session, "code", "--shell", f"until [ -e {gate} ]; do sleep 0.05; done")
    begun(session, running)
    said = session.ok("agent", "pause", "code", "--reason", "the disk is full")
    assert said.startswith("code is paused")
    waiting = submit(session, "code", "--", "true")
    gate.touch()
    assert ended(session, running)["state"] == "COMPLETED"
    session.ok("restart", "code")
    session.ok("restart", "redis")
    assert session.task(waiting)["state"] == "READY"
    assert "why      code paused: the disk is full (" in session.ok("task", "show", waiting)
    assert "code paused: the disk" in session.ok("task", "list", "--state", "READY")

    status = session.ok("status")
    assert "paused: code: the disk is full (" in status
    assert "`ai-infra agent resume code`" in " ".join(status.split())
    wait_until(lambda: "paused: the disk is full" in session.screen("code"), 10, "the pane says it")
    wait_until(
        lambda: "paused: code: the disk is full" in session.screen("monitor"), 10, "so does the monitor"
    )
    row = next(row for row in session.json("agent", "list") if row["name"] == "code")
    assert (row["paused"].split(" (")[0], row["load"]["ready"]) == ("the disk is full", 1)
    assert "the disk is full" in session.ok("agent", "list")

    assert session.ok("agent", "resume", "code") == "code goes on\n"
    assert ended(session, waiting)["state"] == "COMPLETED"
    wait_until(lambda: "goes on" in session.screen("code"), 10, "the pane says that, too")
    assert "paused" not in session.ok("status")
    assert session.ok("agent", "resume", "code") == "code was not paused\n"


def test_all_agents_are_paused_at_once(session: Installation) -> None:
    assert len(session.ok("agent", "pause", "--all").splitlines()) == 6
    task = submit(session, "data", "--", "true")
    assert session.task(task)["kept_by"] == "agent"
    assert "paused: supervisor, code, data, infra, research, qa: by " in session.ok("status")
    assert session.json("agent", "pause", "qa", "--reason", "x")["reason"].startswith("x (")
    resumed = session.json("agent", "resume", "--all")
    assert len(resumed["resumed"]) == len(resumed["paused_before"]) == 6
    assert ended(session, task)["state"] == "COMPLETED"


def flow(session: Installation, **tasks: Any) -> str:
    path = session.root / "flow.yaml"
    path.write_text(json.dumps({"name": "build", "tasks": tasks}))
    return str(session.json("workflow", "run", str(path), "--no-wait")["id"])


def test_a_workflow_is_paused_resumed_and_cancelled(session: Installation) -> None:
    gate = session.root / "flow-gate"
    first = {"agent": "code", "run": [f"until [ -e {gate} ]; do sleep 0.05; done"]}
    second = {"agent": "code", "needs": ["first"], "run": ["true"]}
    third = {"agent": "code", "needs": ["second"], "run": ["sleep 60"]}
    work = flow(session, first=first, second=second, third=third)
    session.ok("workflow", "pause", work[:-1], "--reason", "the database is down")
    gate.touch()

    def kept() -> Any:
        return next(
            t for t in session.json("workflow", "show", work)["tasks"] if t["spec"]["name"] == "second"
        )

    wait_until(lambda: kept()["kept_by"] == "flow", 10, "its second task is held")
    assert submit(session, "code", "--wait", "--", "true")  # others of the agent go on
    shown = session.ok("workflow", "show", work)
    assert "paused: the database is down (" in shown
    assert "workflow paused: the database" in session.ok("task", "show", kept()["spec"]["id"])
    status = " ".join(session.ok("status").split())
    assert "paused: workflow build: the database is down (" in status
    assert f"`ai-infra workflow resume {work}`" in status
    assert "the database" in session.ok("workflow", "list")

    assert session.ok("workflow", "resume", work) == f"{work} goes on\n"
    wait_until(lambda: kept()["state"] == "COMPLETED", 10, "it went on")
    last = session.json("workflow", "show", work)["tasks"][2]["spec"]["id"]
    begun(session, last)
    began = time.monotonic()
    assert "1 running and told to stop" in session.ok("workflow", "cancel", work, "--reason", "wrong branch")
    assert ended(session, last)["error"] == "cancelled: wrong branch"
    assert time.monotonic() - began < 5
    assert "has ended already" in session.fails("workflow", "cancel", work, code=5)
    assert "is CANCELLED; there is nothing to pause" in session.fails("workflow", "pause", work, code=5)
    assert session.ok("workflow", "resume", work) == f"{work} was not paused\n"
    assert session.json("workflow", "resume", work) == {"resumed": work, "was_paused": False}


# -- locks and rates ----------------------------------------------------------------------------------------


def test_a_lock_holds_between_agents(session: Installation) -> None:
    gate = session.root / "lock-gate"
    first = submit(session, "code", "--lock", "repo", "--shell", f"until [ -e {gate} ]; do sleep 0.05; done")
    begun(session, first)
    second = submit(session, "data", "--lock", "repo", "--lock", "db", "--", "true")
    free = submit(session, "data", "--wait", "--", "true")
    assert free
    view = session.task(second)
    assert (view["state"], view["kept_by"], view["kept_why"]) == ("READY", "lock repo", first)
    assert f"waits for lock repo, held by {first}" in session.ok("task", "show", second)
    assert f"lock repo, held by {first}" in session.ok("task", "list", "--agent", "data", COLUMNS="200")
    gate.touch()
    one, two = ended(session, first), ended(session, second)
    assert at(two["started_at"]) >= at(one["finished_at"])


def test_an_agent_with_a_rate_begins_evenly(session: Installation) -> None:
    tasks = [submit(session, "qa", "--", "true") for _ in range(4)]
    began = sorted(at(ended(session, task)["started_at"]) for task in tasks)
    assert all(later - earlier > 0.45 for earlier, later in itertools.pairwise(began))
    assert "120/min" in session.ok("agent", "list")
    assert "begins at most 120 tasks a minute" in session.ok("logs", "qa")


def test_age_makes_up_for_priority_as_the_settings_say(session: Installation) -> None:
    session.ok("agent", "pause", "data")
    orders = []
    for aging in ("0.2", "0"):
        old = submit(session, "data", "--priority", "1", "--", "true", AI_INFRA_TASKS_AGING_S=aging)
        since = time.monotonic()
        wait_until(lambda since=since: time.monotonic() - since > 2.5, 10, "it is old")  # type: ignore[misc]
        new = submit(session, "data", "--priority", "10", "--", "true", AI_INFRA_TASKS_AGING_S=aging)
        orders.append([old, new])
    session.ok("agent", "resume", "data")
    began = {task: at(ended(session, task)["started_at"]) for pair in orders for task in pair}
    assert began[orders[0][0]] < began[orders[0][1]]
    assert began[orders[1][0]] > began[orders[1][1]]


# -- times --------------------------------------------------------------------------------------------------


def test_a_task_for_later_waits_for_its_time(session: Installation) -> None:
    before = time.time()
    task = submit(session, "infra", "--delay", "5s", "--", "true")
    view = session.task(task)
    assert view["state"] == "PENDING"
    assert before + 4.9 < at(view["due_at"]) < time.time() + 5.1
    assert "waits for its time: due in " in session.ok("task", "show", task)
    assert at(ended(session, task)["started_at"]) - before >= 5

    later = submit(session, "infra", "--at", "2099-12-01T08:00Z", "--", "true")
    shown = session.ok("task", "show", later)
    assert "due in " in shown
    assert "Dec 2099" in shown
    assert "due in" in session.ok("task", "list", "--agent", "infra")
    session.ok("task", "cancel", later)


def test_what_runs_at_its_deadline_is_stopped_with_all_it_began(session: Installation) -> None:
    """The command ignores the request, so it is killed after the grace of 1 s."""
    mark = session.root / "pid"
    text = f"trap '' TERM; echo $$ > {mark}; while :; do sleep 0.05; done"
    task = submit(session, "infra", "--deadline", "6s", "--shell", text)
    begun(session, task)
    assert "deadline in " in " ".join(session.ok("task", "show", task).split())
    view = ended(session, task)
    assert (view["state"], view["error"]) == ("FAILED", "its deadline has passed")
    over_s = at(view["finished_at"]) - at(view["spec"]["deadline_at"])
    assert 0.9 < over_s < 2.0
    assert not Path(f"/proc/{mark.read_text().strip()}").exists()
    assert "is being stopped: its deadline has passed" in session.ok("logs", "infra")


def test_what_has_not_begun_by_its_deadline_fails(session: Installation) -> None:
    session.ok("agent", "pause", "infra")
    task = submit(session, "infra", "--deadline", "1s", "--", "true")
    assert "deadline" in session.ok("task", "list", "--agent", "infra")
    view = ended(session, task, 10)
    assert (view["state"], view["error"], view["attempt"]) == ("FAILED", "its deadline has passed", 0)
    session.ok("agent", "resume", "infra")


def test_a_retry_says_when(session: Installation) -> None:
    task = submit(session, "infra", "--retry-delay", "2h", "--", "false")
    wait_until(lambda: session.task(task)["state"] == "PENDING", 10, "it failed once")
    view = session.task(task)
    assert view["spec"]["retry_max_delay_s"] == 7200
    assert 5390 < at(view["due_at"]) - time.time() <= 7200
    assert "waits to be tried again (due in 1h" in session.ok("task", "show", task)
    session.ok("task", "cancel", task)


# -- keys ---------------------------------------------------------------------------------------------------


def test_a_key_submitted_twice_is_one_task(session: Installation) -> None:
    words = ("task", "submit", "research", "--key", "nightly", "--delay", "1h", "--", "true")
    first = session.run(*words)
    again = session.run(*words)
    assert (first.returncode, first.stderr) == (0, "")
    assert (again.returncode, again.stdout) == (0, first.stdout)
    task = first.stdout.strip()
    assert (
        again.stderr == f"a task with the key nightly is open already: {task} (PENDING); nothing was added\n"
    )
    session.ok("task", "cancel", task)
    other = session.ok(*words).strip()
    assert other != task
    session.ok("task", "cancel", other)


# -- words that are wrong -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--delay", "10x"], 2, "'--delay': '10x' is not a duration; say for example 90s, 10m, 2h, 1d"),
        (["--delay", "9999d"], 2, "'9999d' is longer than ten years"),
        (["--at", "tomorrow"], 2, "'tomorrow' is not an instant; say for example 2026-12-01T08:00"),
        (["--at", "2020-01-01"], 2, "'2020-01-01' has passed; it is "),
        (["--deadline", "soon"], 2, "'soon' is neither a duration nor an instant"),
        (["--deadline", "0s"], 2, "'0s' has passed"),
        (["--delay", "1m", "--at", "2099-01-01"], 2, "--delay and --at say the same thing"),
        (["--delay", "2h", "--deadline", "1h"], 2, "deadline_at is not after not_before"),
        (["--key", "a b"], 2, "key 'a b': use up to 80 letters"),
        (["--lock", "a b"], 2, "locks 'a b' is not a name"),
        (["--lock", "a", "--lock", "a"], 2, "must be up to 20 different names"),
        (
            ["--retry-delay", "1m", "--retry-max-delay", "1s"],
            2,
            "--retry-max-delay is less than --retry-delay",
        ),
        (["--timeout", "0"], 2, "'0' is less than 0.1 s"),
    ],
)
def test_a_task_that_cannot_be(session: Installation, words: list[str], code: int, said: str) -> None:
    assert said in session.fails("task", "submit", "code", *words, "--", "true", code=code)


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["agent", "pause", "nobody"], 4, "no agent 'nobody'; there are supervisor, code"),
        (["agent", "pause"], 2, "name one agent or more, or say --all"),
        (["agent", "resume", "code", "--all"], 2, "name one agent or more, or say --all"),
        (["workflow", "pause", "w-nothing"], 4, "no workflow 'w-nothing'; `ai-infra workflow list`"),
        (["workflow", "cancel", "a b"], 2, "'a b' is no workflow id"),
        (["task", "watch", "t-nothing"], 4, "no task 't-nothing'; `ai-infra task list`"),
        (["task", "watch", "--agent", "nobody"], 4, "no agent 'nobody'"),
        (["task", "watch", "t-1", "--agent", "code"], 2, "a task's ID goes without --workflow and --agent"),
    ],
)
def test_what_cannot_be_done(session: Installation, words: list[str], code: int, said: str) -> None:
    assert said in session.fails(*words, code=code)


def test_without_a_session(machine: Installation) -> None:
    for words in (["agent", "pause", "code"], ["workflow", "pause", "w-1"], ["task", "watch"]):
        assert "the session is not up; `ai-infra up` starts it" in machine.fails(*words, code=3)


# -- watching -----------------------------------------------------------------------------------------------


class Watch:
    """A `task watch` that runs, and the lines it has printed."""

    def __init__(self, session: Installation, *words: str) -> None:
        self.out = session.root / f"watch-{time.monotonic_ns()}"
        self.err = self.out.with_suffix(".err")
        with open(self.out, "w") as out, open(self.err, "w") as err:
            self.process = subprocess.Popen(
                [PROGRAM, "task", "watch", *words], env=session.env, stdout=out, stderr=err
            )

    def lines(self) -> list[str]:
        return self.out.read_text().splitlines()

    def saw(self, *words: str, timeout_s: float = 15) -> str:
        """The first line that has all these words."""

        def found() -> str | None:
            return next((line for line in self.lines() if all(word in line for word in words)), None)

        line = wait_until(found, timeout_s, f"a line with {words} in {self.lines()}")
        assert line is not None
        return line

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(10)


@pytest.fixture
def watching(session: Installation) -> Iterator[Any]:
    found: list[Watch] = []

    def begin(*words: str) -> Watch:
        found.append(Watch(session, *words))
        return found[-1]

    yield begin
    for watch in found:
        watch.process.kill()
        watch.process.wait()


def test_watching_one_task_to_its_end(session: Installation, watching: Any) -> None:
    gate = session.root / "watch-gate"
    task = submit(
        session, "code", "--attempts", "1", "--shell", f"until [ -e {gate} ]; do sleep 0.05; done; exit 3"
    )
    begun(session, task)
    text, told = watching(task[:-1]), watching(task, "--json")
    assert "● in progress" in text.saw(task)
    told.saw("IN_PROGRESS")
    gate.touch()
    assert (text.process.wait(10), told.process.wait(10)) == (1, 1)
    line = text.saw("in progress → ✗ failed", "code", "attempt 1")
    assert line == text.lines()[-1]
    moves = [json.loads(line) for line in told.lines()]
    assert [(m["from"], m["to"]) for m in moves] == [
        ("IN_PROGRESS", "IN_PROGRESS"),
        ("IN_PROGRESS", "FAILED"),
    ]
    assert moves[-1]["reason"]
    assert line.endswith(moves[-1]["reason"])
    assert (moves[-1]["task"], moves[-1]["agent"], moves[-1]["attempt"]) == (task, "code", 1)
    assert set(moves[-1]) == {
        "at", "task", "name", "agent", "workflow", "from", "to", "attempt", "worker", "reason",
    }  # fmt: skip
    assert session.run("task", "watch", task).returncode == 1  # it has ended: said at once
    good = submit(session, "code", "--wait", "--", "true").splitlines()[0]
    assert "✓ completed" in session.ok("task", "watch", good)


def test_watching_all_through_the_death_of_redis(session: Installation, watching: Any) -> None:
    everything, only_code = watching(), watching("--agent", "code")
    one = first_seen(session, everything, "data")
    old = session.kill("redis")
    session.wait_healed("redis", old)
    two = submit(session, "code", "--name", "second", "--wait", "--", "true").splitlines()[0]
    everything.saw(two, "→ ✓ completed")
    only_code.saw(two, "→ ✓ completed")
    assert not any(one in line for line in only_code.lines())
    assert len([line for line in everything.lines() if two in line and "completed" in line]) == 1
    began = time.monotonic()
    assert (everything.end(), only_code.end()) == (130, 130)
    assert time.monotonic() - began < 3
    assert "Traceback" not in everything.err.read_text()


def first_seen(session: Installation, watch: Watch, agent: str) -> str:
    """Submit until the watch, which may still be starting, has seen one."""

    def seen() -> str | None:
        task = submit(session, agent, "--wait", "--", "true").splitlines()[0]
        return task if any(task in line for line in watch.lines()) else None

    found = wait_until(seen, 20, "the watch sees tasks")
    assert found is not None
    return found


def test_watching_a_workflow(session: Installation, watching: Any) -> None:
    gate = session.root / "seen-gate"
    work = flow(session, slow={"agent": "code", "run": [f"until [ -e {gate} ]; do sleep 0.05; done"]},
                next={"agent": "data", "needs": ["slow"], "run": ["true"]})  # fmt: skip
    watch, other = watching("--workflow", work[:-1]), watching()
    noise = first_seen(session, other, "infra")
    gate.touch()
    watch.saw("next", "→ ✓ completed", "data")
    assert not any(noise in line for line in watch.lines())


def test_a_watch_whose_reader_has_gone_ends_at_once(session: Installation) -> None:
    process = subprocess.Popen(
        [PROGRAM, "task", "watch"], env=session.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    os.set_blocking(process.stdout.fileno(), False)

    def shows() -> bool:
        submit(session, "code", "--wait", "--", "true")
        return bool(process.stdout and process.stdout.read())

    try:
        wait_until(shows, 20, "it shows moves")
        process.stdout.close()  # nothing moves any more
        assert process.communicate(timeout=10)[1] == b""
        assert process.returncode == 0
    finally:
        process.kill()
        process.communicate()


def test_the_monitor_and_the_status_line_tell_of_a_pause(session: Installation) -> None:
    session.ok("agent", "pause", "research")

    def line() -> str:
        return session.tmux("display-message", "-p", "-t", SESSION, "#{T:status-right}")

    wait_until(lambda: "PAUSED: research" in line(), 15, "the status line says it")
    session.ok("agent", "resume", "research")
