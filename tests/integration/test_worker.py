"""A worker's life on a real Redis: whatever tasks and Redis do to it, it goes on, or ends by name."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import shutil
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engine_kit import CODE, engine_on, task

from ai_infra.agents import attempt as attempt_module
from ai_infra.agents import worker as worker_module
from ai_infra.agents.scratch import Scratch
from ai_infra.agents.worker import Worker
from ai_infra.core.events import EventLog
from ai_infra.core.home import Home
from ai_infra.core.ids import TaskId, WindowName, WorkflowId
from ai_infra.core.process import Process
from ai_infra.core.settings import load_settings
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.task import Expect, State, TaskSpec, TaskView, WorkflowHeader
from ai_infra.tasks.workflow import load_workflow
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer

ENV = {"PATH": "/usr/local/bin:/usr/bin:/bin"}


class Window:
    """An agent's window; `breaks_on` is a command that it cannot bear to see."""

    breaks_on = ""
    idle_said = 0

    def idle(self, counts: Mapping[str, int]) -> None:
        self.idle_said += 1

    def task_started(self, spec: TaskSpec, attempt: int) -> None: ...
    def output(self, chunk: bytes) -> None: ...
    def command_ended(self, exit_code: int, duration_s: float) -> None: ...
    def check_result(self, what: str, ok: bool, evidence: str) -> None: ...
    def task_ended(self, spec: TaskSpec, state: str, reason: str, duration_s: float) -> None: ...

    def command_started(self, text: str) -> None:
        if text == self.breaks_on:
            raise RuntimeError("a fault of ours")


class Life:
    """One life of the agent `code`, and what a person can see of it."""

    def __init__(self, root: Path, address: str) -> None:
        self.home = Home(root)
        self.home.ensure()
        self.address = address
        self.settings = load_settings(self.home, {})
        self.scratch = Scratch(self.home, self.settings.agents["code"])
        self.scratch.ensure()
        self.window = Window()
        self.log = EventLog(self.home.logs / "code.jsonl", "code", 10**7)

    def run(self, body: Callable[[Life], Awaitable[None]], timeout_s: float = 30) -> None:
        """Live while `body` runs, then stop; raises what ended this life."""
        asyncio.run(asyncio.wait_for(self._run(body), timeout_s))

    async def _run(self, body: Callable[[Life], Awaitable[None]]) -> None:
        self.process = Process(WindowName("code"), self.home, self.log)
        async with engine_on(self.address) as self.person, engine_on(self.address) as engine:
            self.worker = Worker(self.process, self.settings, engine, self.window, ENV)
            self.serving = asyncio.create_task(self.worker.serve())
            try:
                await body(self)
            finally:
                self.process.stop.set()
                await self.serving

    async def submit(self, *run: str, **more: Any) -> TaskId:
        found = task(f"t-{len(self.events('task_started'))}-{id(run)}", run=run, **more)
        return (await self.person.submit([found]))[0]

    async def ended(self, task_id: TaskId) -> TaskView:
        return await ended(self.person, task_id)

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.home.logs / "code.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == name]

    async def logged(self, name: str) -> dict[str, Any]:
        async def found() -> list[dict[str, Any]]:
            return self.events(name)

        return (await wait_until_async(found, 10, name))[0]

    async def asleep(self) -> None:
        """Wait until the agent has nothing to do and listens."""

        async def idle() -> bool:
            key = self.person.connection.key(f"idle:{CODE}")
            return bool(await self.person.connection.command("ZCARD", key))

        await wait_until_async(idle, 10, "the agent sleeps")


async def ended(engine: Engine, task_id: TaskId) -> TaskView:
    async def over() -> TaskView | None:
        view = await engine.get(task_id)
        return view if view.finished_at is not None else None

    found = await wait_until_async(over, 15, f"{task_id} ended")
    assert found is not None
    return found


@pytest.fixture
def life(own_redis: RedisServer) -> Iterator[Life]:
    root = Path(tempfile.mkdtemp(prefix="ai-life-"))
    found = Life(root, own_redis.address)
    yield found
    found.log.close()
    shutil.rmtree(root, ignore_errors=True)


# -- no task can end its agent ------------------------------------------------------------------------------


def test_a_fault_of_ours_costs_one_task_its_chance_and_nobody_else(life: Life) -> None:
    life.window.breaks_on = "echo poison"

    async def body(life: Life) -> None:
        poison = await life.ended(await life.submit("echo poison"))
        assert poison.state is State.FAILED
        assert poison.attempt == 1
        assert poison.error == "bug: RuntimeError('a fault of ours') (trace in logs/code.jsonl)"
        assert (await life.ended(await life.submit("echo next"))).state is State.COMPLETED

    life.run(body)
    (crash,) = life.events("attempt_crashed")
    assert "in command_started" in crash["trace"]


def test_a_result_that_nobody_takes_fails_the_task(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attempt_module, "result_of", lambda *_: {"too": "x" * 70_000})

    async def body(life: Life) -> None:
        view = await life.ended(await life.submit("true"))
        assert view.state is State.FAILED
        assert view.error is not None
        assert view.error.startswith("bug: UsageError(")
        assert "more than 65536" in view.error

    life.run(body)


def test_checks_that_say_too_much_are_cut_and_the_codes_stay(life: Life) -> None:
    patterns = [f"{i} {'😀' * 300}" for i in range(20)]

    async def body(life: Life) -> None:
        expect = tuple(Expect(output_matches=pattern) for pattern in patterns)
        view = await life.ended(await life.submit("true", "true", expect=expect, max_attempts=1))
        assert view.state is State.FAILED
        assert view.error is not None
        assert view.error.startswith("expected output matches '0 😀")
        assert view.result is not None
        assert view.result["cut"] is True
        assert view.result["exit_codes"] == [0, 0]
        assert [check["ok"] for check in view.result["checks"]] == [True] + [False] * 20

    life.run(body)


def test_a_search_without_end_holds_nobody_and_a_cancel_ends_it(life: Life) -> None:
    async def body(life: Life) -> None:
        text = f"printf '{'a' * 60}!'; echo > ran"
        task_id = await life.submit(text, expect=(Expect(output_matches="(a+)+$"),))
        await life.logged("task_started")

        async def searching() -> bool:
            return any(t.get_name() == "pattern" for t in asyncio.all_tasks())

        await wait_until_async(searching, 10, "the search")
        await life.person.cancel(task_id, reason="enough")
        loop = asyncio.get_running_loop()
        asked_s = loop.time()
        assert (await life.ended(task_id)).state is State.CANCELLED
        assert loop.time() - asked_s < 2

    life.run(body)


# -- Redis refuses, or says what nobody expected ------------------------------------------------------------


def test_while_redis_refuses_an_outcome_is_kept_and_said_once(life: Life, own_redis: RedisServer) -> None:
    async def body(life: Life) -> None:
        task_id = await life.submit("until [ -e $HOME/go ]; do sleep 0.02; done")
        await life.logged("task_started")
        assert "+OK" in own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "1")
        (life.scratch.root / "go").touch()
        refused = await life.logged("redis_refuses")
        assert "replicas" in refused["reason"]
        assert "+OK" in own_redis.ask("CONFIG", "SET", "min-replicas-to-write", "0")
        view = await life.ended(task_id)
        assert (view.state, view.attempt) == (State.COMPLETED, 1)

    life.run(body)
    assert len(life.events("redis_refuses")) <= 2  # the hand-in, and perhaps the listener
    assert len(life.events("task_started")) == 1


def test_an_agent_whose_waiting_was_broken_off_hears_the_next_task(
    life: Life, own_redis: RedisServer
) -> None:
    async def body(life: Life) -> None:
        await life.asleep()
        blocked = await wait_until_async(lambda: _blocked(own_redis), 10, "a blocked client")
        for client in blocked:
            own_redis.ask("CLIENT", "UNBLOCK", client, "ERROR")
        assert (await life.ended(await life.submit("true"))).state is State.COMPLETED

    life.run(body)


async def _blocked(server: RedisServer) -> list[str]:
    clients = [line for line in server.ask("CLIENT", "LIST").splitlines() if " cmd=blpop" in line]
    return [word[3:] for line in clients for word in line.split() if word.startswith("id=")]


@pytest.mark.parametrize("running", [False, True])
def test_an_agent_that_goes_deaf_ends_by_name(life: Life, own_redis: RedisServer, running: bool) -> None:
    done: list[TaskView] = []

    async def body(life: Life) -> None:
        task_id = None
        if running:
            task_id = await life.submit("until [ -e $HOME/go ]; do sleep 0.02; done")
            await life.logged("task_started")
        else:
            await life.asleep()
        own_redis.ask("RPUSH", life.person.connection.key(f"inbox:{life.process.worker}"), "no notice")
        await asyncio.wait_for(life.process.stop.wait(), 10)
        assert life.process.payload()["state"] == "STOPPING"
        assert life.process.changed.is_set()  # so the heartbeat tells it at once
        (life.scratch.root / "go").touch()
        await asyncio.wait({life.serving}, timeout=10)
        if task_id is not None:
            done.append(await life.person.get(task_id))

    with pytest.raises(json.JSONDecodeError):
        life.run(body)
    (failed,) = life.events("side_task_failed")
    assert failed["level"] == "error"
    assert [view.state for view in done] == [State.COMPLETED] * running  # it had the drain to finish


# -- the loop is never held ---------------------------------------------------------------------------------


def test_cleaning_does_not_hold_the_loop(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    in_time: list[bool] = []

    def slow(scratch: Scratch, max_age_s: float) -> int:
        begun.set()
        in_time.append(go_on.wait(10))
        raise RuntimeError("it cannot be cleaned, either")

    monkeypatch.setattr(Scratch, "clean_temp", slow)

    async def body(life: Life) -> None:
        async def cleaning() -> bool:
            return begun.is_set()

        await wait_until_async(cleaning, 15, "the cleaning")
        go_on.set()
        assert (await life.ended(await life.submit("true"))).state is State.COMPLETED
        assert (await life.logged("temp_not_cleaned"))["level"] == "warning"

    life.run(body)
    assert in_time == [True]


def test_commands_that_cannot_be_ended_are_told(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_module, "adopt_orphans", lambda: None)
    monkeypatch.setattr(worker_module, "end_orphans", lambda home, agent: 2)
    monkeypatch.setattr(worker_module, "find_orphans", lambda home, agent: [4242])

    async def main() -> None:
        async with engine_on(life.address) as engine:
            process = Process(WindowName("code"), life.home, life.log)
            await Worker(process, life.settings, engine, life.window, ENV).recover()

    asyncio.run(main())
    assert [event["pids"] for event in life.events("commands_left")] == [[4242]]
    assert [event["commands_ended"] for event in life.events("recovered")] == [2]


# -- pauses and rates ---------------------------------------------------------------------------------------


def test_a_pause_is_said_once_and_so_is_its_end(life: Life) -> None:
    async def body(life: Life) -> None:
        async def waits() -> bool:
            return life.window.idle_said == 1

        await wait_until_async(waits, 10, "it says that it waits")
        for reason in ("", "disk is full", "disk is full", "disk is full (bob)", "", ""):
            life.worker.note_pause(reason)

    life.run(body)
    assert [entry["reason"] for entry in life.events("paused")] == ["disk is full", "disk is full (bob)"]
    assert len(life.events("resumed")) == 1
    assert life.window.idle_said == 2


def test_a_new_life_brings_its_rate_and_takes_an_old_one_away(life: Life) -> None:
    async def rate(life: Life, per_minute: float) -> float:
        agents = {**life.settings.agents}
        agents["code"] = dataclasses.replace(agents["code"], rate_per_minute=per_minute)
        life.worker._settings = dataclasses.replace(life.settings, agents=agents)
        await life.worker.recover()
        return (await life.person.counts())[CODE].rate_per_minute

    async def body(life: Life) -> None:
        assert await rate(life, 90) == pytest.approx(90, rel=0.01)
        assert await rate(life, 0) == 0

    life.run(body)
    assert [entry["rate_per_minute"] for entry in life.events("rate_limited")] == [90]


def test_an_undo_task_finds_its_steps_folder_and_result(life: Life) -> None:
    async def body(life: Life) -> None:
        flow = WorkflowId("w")
        undo = 'cat kept "$AI_INFRA_UNDO_RESULT"; echo "for $AI_INFRA_UNDO_OF at $AI_INFRA_UNDO_RESULT"'
        step = task("w.a", workflow=flow, run=("echo 42; echo kept here > kept",), undo=(undo,))
        await life.person.submit([step], workflow=WorkflowHeader(id=flow, name="w"))
        await life.person.wait_workflow(flow)
        await life.person.undo_workflow(flow, reason="a test")
        view = await life.ended(TaskId("w.a.undo"))
        assert view.state is State.COMPLETED
        assert view.result is not None
        kept, told, path = view.result["output_tail"].splitlines()
        assert kept == "kept here"
        assert (json.loads(told)["state"], json.loads(told)["result"]["output_tail"]) == ("COMPLETED", "42\n")
        left.append(Path(path.removeprefix("for w.a at ")))

    left: list[Path] = []
    life.run(body)
    assert left[0].parent == life.scratch.exchange(TaskId("w.a.undo"))
    assert not left[0].exists()


@pytest.mark.parametrize("how", ["mkfifo", "ln -s /dev/full"])
def test_a_step_cannot_stand_in_the_way_of_its_undo(life: Life, how: str) -> None:
    """It knows the id of its undo: a pipe in the place of a file would hold the whole agent."""

    async def body(life: Life) -> None:
        flow = WorkflowId("w")
        places = [
            life.scratch.temp / "w.a.undo.json",
            life.scratch.exchange(TaskId("w.a.undo")) / "undone.json",
        ]
        run = tuple(f"mkdir -p {place.parent}; {how} {place}" for place in places)
        step = task("w.a", workflow=flow, run=run, undo=('cat "$AI_INFRA_UNDO_RESULT"',))
        await life.person.submit([step], workflow=WorkflowHeader(id=flow, name="w"))
        await life.person.wait_workflow(flow)
        await life.person.undo_workflow(flow, reason="a test")
        view = await life.ended(TaskId("w.a.undo"))
        assert view.state is State.COMPLETED, view.error
        assert json.loads((view.result or {})["output_tail"])["task"] == "w.a"

    life.run(body)


FLOW = """\
name: late
atomic: true
tasks:
  a:
    agent: code
    run: ['echo "{\\"n\\": 5}" > "$AI_INFRA_RESULT"']
    undo: ['cat "$AI_INFRA_UNDO_RESULT"']
  b:
    agent: code
    needs: [a]
    when: tasks.a.result.n > 1
    run: ["true"]
    undo: ['echo "b had" {{ tasks.a.result.n }}', [echo, "{{ task.id }}"]]
  c:
    agent: code
    needs: [a, b]
    when: tasks.a.result.n > 9
    run: ["true"]
    undo: ["false"]
  d:
    agent: code
    needs: [c]
    max_attempts: 1
    run: ["exit 3"]
"""


def test_what_upstreams_handed_in_is_known_to_the_undo(life: Life, tmp_path: Path) -> None:
    """The condition of a step was for its run; a step that was skipped is not undone."""
    path, flow = tmp_path / "late.yaml", WorkflowId("w-1")
    path.write_text(FLOW)
    folder = life.home.workflows / flow
    header, specs = load_workflow(path, {}, agents=("code",), workflow_dir=folder, workflow_id=flow)

    async def body(life: Life) -> None:
        await life.person.submit(specs, workflow=header)
        view = await life.person.wait_workflow(flow)
        assert view.undo is not None
        assert (view.undo.undone, view.undo.complete) == (("b", "a"), True), view.undo
        told = {task.name: (task.result or {})["output_tail"] for task in view.tasks if task.spec.undo_of}
        assert told["undo-b"] == "b had 5\nw-1.b\n"
        assert json.loads(told["undo-a"])["result"]["value"] == {"n": 5}

    life.run(body)
