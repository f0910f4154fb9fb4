"""Export and import on real servers: what comes back, what is refused, and that it is all or nothing."""

from __future__ import annotations

import gzip
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, claimed, engine_on, run, states, task, work_off

from ai_infra.core.errors import AiInfraError, Conflict, NotFound
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.handoff import hand_over
from ai_infra.tasks.record import TaskRecord
from ai_infra.tasks.task import NeedsRule, Outcome, State, TaskView, WorkflowHeader
from ai_infra.tasks.transfer import Imported, export_lines, import_file
from tests.conftest import RedisServer, running_redis

FLOW = WorkflowId("w-1")
HEADER = WorkflowHeader(id=FLOW, name="flow", params={"a": "ü"})


@pytest.fixture
def other_redis() -> Iterator[RedisServer]:
    """Another installation's server."""
    with running_redis() as server:
        yield server


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "tasks.jsonl"


def in_flow(name: str, *needs: str, **more: Any) -> Any:
    return task(name, *needs, workflow=FLOW, **more)


async def export(e: Engine, path: Path, **options: Any) -> list[str]:
    lines = [line async for line in export_lines(e, **options)]
    write(path, "".join(lines).encode())
    return [json.loads(line)["task"]["id"] for line in lines if line.startswith('{"task"')]


def write(path: Path, data: bytes) -> None:
    path.write_bytes(data)


async def take_in(e: Engine, path: Path) -> Imported:
    return await import_file(e, path, ["code"])


async def a_bit_of_everything(e: Engine) -> None:
    """A workflow with tasks in every state."""
    fails = {"needs_rule": NeedsRule.ALL_DONE}
    flow = [
        in_flow("done", priority=10),
        in_flow("bad", priority=9),
        in_flow("gone", "bad"),
        in_flow("later", priority=8, retry_delay_s=50.0),
        in_flow("poor", priority=7),
        in_flow("runs", priority=6),
        in_flow("waits", "runs", "done", **fails),
        in_flow("ready", priority=1),
    ]
    await e.submit(flow, workflow=HEADER)
    await e.finish(await claimed(e), Outcome(ok=True, result={"value": "ü"}))
    await e.finish(await claimed(e), BAD)
    await e.finish(await claimed(e), Outcome(ok=False, error="again"))
    for _ in range(2):
        await claimed(e)
        await e.release(W1, reason="it died")
    await e.finish(await claimed(e), OK)  # poor: two deaths, then done
    await claimed(e)  # runs


def same(view: TaskView) -> Any:
    return (view.spec, view.state, view.attempt, view.excused, view.deaths, view.result, view.error,
            view.created_at, view.finished_at, view.started_at)  # fmt: skip


def test_everything_comes_back_as_it_stood(redis_server: Any, other_redis: RedisServer, file: Path) -> None:
    async def there(e: Engine) -> None:
        await a_bit_of_everything(e)
        assert len(await export(e, file)) == 8
        before = {v.id: v for v in (await e.workflow(FLOW)).tasks}
        async with engine_on(other_redis.address) as other:
            assert await take_in(other, file) == Imported(imported=8, there=0)
            await check(other, before)
            assert await take_in(other, file) == Imported(imported=0, there=8)
            await check(other, before)
            assert await work_off(other) == ["later", "runs", "waits", "ready"]
            view = await other.workflow(FLOW)
            assert view.header == HEADER
            assert view.counts == {State.COMPLETED: 6, State.FAILED: 1, State.CANCELLED: 1}
            assert await other.retry(TaskId("bad")) == ["bad", "gone"]
            assert await work_off(other) == ["bad", "gone"]
            assert [v.attempt for v in await other.get_many([TaskId("runs"), TaskId("bad")])] == [2, 2]
            # the file is of the past: what has gone on from there is left alone, what ended otherwise is not
            with pytest.raises(
                Conflict, match=rf"{file}:4: task bad is COMPLETED here and FAILED in the file"
            ):
                await take_in(other, file)

    async def check(e: Engine, before: dict[TaskId, TaskView]) -> None:
        after = {v.id: v for v in (await e.workflow(FLOW)).tasks}
        assert list(after) == list(before)
        for name in ("done", "bad", "gone", "poor"):
            assert same(after[TaskId(name)]) == same(before[TaskId(name)])
        expected = {"later": State.READY, "runs": State.READY, "ready": State.READY, "waits": State.BLOCKED}
        assert {n: after[TaskId(n)].state for n in expected} == expected
        assert (after[TaskId("runs")].excused, after[TaskId("runs")].attempt) == (1, 1)
        assert (after[TaskId("later")].excused, after[TaskId("later")].attempt) == (0, 1)
        counts = (await e.counts())[CODE]
        assert (counts.completed, counts.failed, counts.cancelled, counts.blocked, counts.ready) == (
            2,
            1,
            1,
            1,
            3,
        )

    run(redis_server.address, there)


def test_an_emptied_installation_gets_its_own_back(redis_server: Any, file: Path, tmp_path: Path) -> None:
    async def body(e: Engine) -> None:
        archive = Archive(tmp_path / "archive")
        await e.submit([task("old"), task("new"), task("open", priority=1)])
        await e.finish(await claimed(e), OK)
        part = await e.finished(keep=0, before_ms=0)
        archive.folder.mkdir()
        archive.append(part.records)
        assert sorted(await export(e, file, archive=archive)) == [
            "new",
            "old",
            "open",
        ]  # here goes before archived
        await e.forget(part.records)
        assert await export(e, file) == ["new", "open"]
        assert await export(e, file, archive=archive) == ["old", "new", "open"]
        redis_server.ask("FLUSHDB")
        assert (await take_in(e, file)).imported == 3
        assert await states(e, "old", "new", "open") == {
            "old": State.COMPLETED, "new": State.READY, "open": State.READY
        }  # fmt: skip

    run(redis_server.address, body)


def test_an_archived_part_of_a_workflow_comes_back_once(
    redis_server: Any, file: Path, tmp_path: Path
) -> None:
    async def body(e: Engine) -> None:
        archive = Archive(tmp_path / "archive")
        archive.folder.mkdir()
        await e.submit([in_flow("a"), in_flow("b", "a")], workflow=HEADER)
        await work_off(e)
        part = await e.finished(keep=1, before_ms=0)
        archive.append(part.records)
        assert await e.forget(part.records) == ["a"]
        await export(e, file, archive=archive)
        assert await take_in(e, file) == Imported(imported=1, there=1)
        view = await e.workflow(FLOW)
        assert ([v.id for v in view.tasks], view.counts) == (["a", "b"], {State.COMPLETED: 2})
        part = await e.finished(keep=0, before_ms=0)
        assert sorted(await e.forget(part.records)) == ["a", "b"]
        assert await e.list_workflows() == []

    run(redis_server.address, body)


def test_a_state_alone_brings_what_it_needs(redis_server: Any, other_redis: RedisServer, file: Path) -> None:
    async def body(e: Engine) -> None:
        await a_bit_of_everything(e)
        assert await export(e, file, states=[State.FAILED]) == ["bad"]
        assert await export(e, file, states=[State.BLOCKED]) == ["done", "runs", "waits"]
        async with engine_on(other_redis.address) as other:
            assert (await take_in(other, file)).imported == 3
            assert await work_off(other) == ["runs", "waits"]

    run(redis_server.address, body)


def test_locks_keys_and_times_hold_where_it_comes_to(
    redis_server: Any, other_redis: RedisServer, file: Path
) -> None:
    now = datetime.now(UTC)

    async def body(e: Engine) -> None:
        await e.submit(
            [task("holder", locks=("repo",)), task("aside", locks=("repo",)), task("keyed", key="k")]
        )
        await e.submit([task("late", deadline_at=now + timedelta(hours=1))])
        await e.submit([task("later", not_before=now + timedelta(hours=1))])
        await claimed(e)
        assert await e.submit([task("other", key="k")]) == ["keyed"]
        await e.finish(await claimed(e), OK)  # keyed: aside waits for the lock
        await export(e, file)
        async with engine_on(other_redis.address) as other:
            assert (await take_in(other, file)).imported == 5
            assert await states(other, "later", "late") == {"later": State.PENDING, "late": State.READY}
            assert (await other.connection.command("ZRANGE", "ai:deadlines", 0, -1)) == ["late"]
            first = await claimed(other)
            assert first.spec.id == "holder"
            assert (await claimed(other)).spec.id == "late"  # aside waits, here as well
            assert (await other.get(TaskId("aside"))).kept_by == "lock repo"
            await other.finish(first, OK)
            assert (await claimed(other)).spec.id == "aside"
            assert await other.submit([task("new", key="k")]) == ["new"]  # keyed has ended

    run(redis_server.address, body)


def test_an_atomic_workflow_is_undone_where_it_comes_to(
    redis_server: Any, other_redis: RedisServer, file: Path
) -> None:
    async def body(e: Engine) -> None:
        flow = replace(HEADER, atomic=True)
        steps = [in_flow("first", undo=(("undo-first",),)), in_flow("second", "first", undo=(("u2",),))]
        await e.submit([*steps, in_flow("third", "second")], workflow=flow)
        await e.finish(await claimed(e), OK)
        await e.finish(await claimed(e), OK)
        await export(e, file)

        async with engine_on(other_redis.address) as other:
            await take_in(other, file)
            await other.finish(await claimed(other), BAD)
            assert await work_off(other) == ["second.undo", "first.undo"]
            await export(other, file)
        await e.connection.command("FLUSHALL")
        await take_in(e, file)
        view = await e.workflow(FLOW)
        assert view.state is State.FAILED
        assert {t.id: t.state for t in view.tasks}[TaskId("first.undo")] is State.COMPLETED

    run(redis_server.address, body)


def test_a_key_that_another_open_task_has_is_refused(
    redis_server: Any, other_redis: RedisServer, file: Path
) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task("mine", key="k")])
        await export(e, file)
        async with engine_on(other_redis.address) as other:
            await other.submit([task("theirs", key="k")])
            with pytest.raises(
                Conflict, match=rf"{file}:2: task mine has the key k, which the open task theirs"
            ):
                await take_in(other, file)

    run(redis_server.address, body)


def test_an_upstream_that_comes_back_and_succeeds_forbids_nothing(redis_server: Any) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task("a"), task("b", "a")])
        await e.finish(await claimed(e), BAD)
        archived = [r for r in (await e.finished(keep=0, before_ms=2**50)).records if r.id == "a"]
        assert await e.forget(archived) == ["a"]
        with pytest.raises(Conflict, match="task b needs a, which did not succeed"):
            await e.retry(TaskId("b"))
        await e.import_records({}, [r for r in archived if isinstance(r, TaskRecord)])
        await e.retry(TaskId("a"))
        assert await work_off(e) == ["a"]
        await e.retry(TaskId("b"))
        assert await work_off(e) == ["b"]

    run(redis_server.address, body)


# -- what is refused ----------------------------------------------------------------------------------------


def change(path: Path, number: int, change: Any) -> None:
    lines = path.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1]) if callable(change) else change
    path.write_text("".join(f"{line}\n" for line in lines))


def drop(path: Path, number: int) -> None:
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[: number - 1] + lines[number:]))


def swap(*pairs: str) -> Any:
    """Replace the first of each pair by the second."""

    def act(line: str) -> str:
        for old, new in zip(pairs[::2], pairs[1::2], strict=True):
            assert old in line
            line = line.replace(old, new)
        return line

    return act


def many_fields(line: str) -> str:
    return line.replace('"at":', "".join(f'"x{n}":"1",' for n in range(190)) + '"at":')


REFUSED = {
    "not JSON": (4, "{", "4: Expecting"),
    "no object": (4, "[1]", "4: is not a JSON object"),
    "nested too deeply": (4, "[" * 100_000, "4: "),
    "neither": (4, '{"x": 1}', "4: is neither a task nor a workflow"),
    "no head": (1, '{"version": 1}', "1: is not the head of an export"),
    "of the future": (1, '{"ai-infra": "tasks", "version": 2}', "1: its format is 2, this ai-infra reads up"),
    "an empty line": (11, "", "11: Expecting"),
    "another state": (4, swap('"s":"FAILED"', '"s":"LOST"'), "4: task bad: 'LOST' is no state"),
    "without an end": (4, swap('"fi":', '"fj":'), "4: task bad: is FAILED without the instant"),
    "spec and field": (4, swap('"a":"code"', '"a":"qa"'), "4: task bad: the field 'a' is 'qa'"),
    "no number": (4, swap('"at":"1"', '"at":"x"'), "4: task bad: the field 'at' is not a whole"),
    "a bad spec": (4, swap('"run":[["true"]]', '"run":[]'), "4: task bad: run is empty"),
    "unknown agent": (8, swap('"code"', '"zed"'), "8: task runs is for the agent 'zed'; there are code"),
    "twice": (3, swap('"done"', '"bad"'), "4: task bad comes twice, first in line 3"),
    "unknown upstream": (9, swap("runs", "none"), "9: needs task none, neither above it"),
    "too many fields": (4, many_fields, "4: task bad: has 2"),
    "undone, but has no undo": (
        4,
        swap('"at":', '"cs":"1","at":'),
        "4: task bad: the field 'cs' is there, but",
    ),
    "undo of no number": (4, swap('"at":', '"cs":"x","at":'), "4: task bad: the field 'cs' is not a whole"),
    "a mark": (4, swap('"at":', '"x":"1","ua":"z","at":'), "4: task bad: the field 'ua' is 'z'"),
    "no workflow": (2, swap('"name":"flow"', '"nome":"flow"'), "2: stored workflow is not readable"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_bad_line_is_named_and_nothing_comes_in(
    redis_server: Any, other_redis: RedisServer, file: Path, what: str
) -> None:
    async def body(e: Engine) -> None:
        await a_bit_of_everything(e)
        await export(e, file)
        number, new, said = REFUSED[what]
        change(file, number, new)
        async with engine_on(other_redis.address) as other:
            with pytest.raises(AiInfraError) as found:
                await take_in(other, file)
            assert str(found.value).startswith(f"{file}:{said}"), str(found.value)[:300]
            assert await other.list_tasks() == []
            assert await other.list_workflows() == []

    run(redis_server.address, body)


def test_a_workflow_that_is_nowhere_is_named(redis_server: Any, other_redis: RedisServer, file: Path) -> None:
    async def body(e: Engine) -> None:
        await a_bit_of_everything(e)
        await export(e, file)
        drop(file, 2)
        async with engine_on(other_redis.address) as other:
            with pytest.raises(
                AiInfraError, match=f"{file}:2: is of workflow w-1, neither in the file nor here"
            ):
                await take_in(other, file)
        assert (await take_in(e, file)).there == 8

    run(redis_server.address, body)


def test_a_task_that_was_handed_over_comes_with_its_undo(
    redis_server: Any, other_redis: RedisServer, file: Path
) -> None:
    async def body(e: Engine) -> None:
        await e.submit([in_flow("first", undo=(("u",),), agent="qa")], workflow=HEADER)
        await hand_over(e, TaskId("first"), CODE, 5)
        await export(e, file)
        async with engine_on(other_redis.address) as other:
            assert (await take_in(other, file)).imported == 1

    run(redis_server.address, body)


def test_a_cut_file_is_noticed(redis_server: Any, file: Path) -> None:
    async def body(e: Engine) -> None:
        await a_bit_of_everything(e)
        await export(e, file)
        whole = "".join([line async for line in export_lines(e)]).encode()
        write(file, whole.removesuffix(b'{"end":true}\n'))
        with pytest.raises(AiInfraError, match=f"{file}:11: the end line is missing; the file was cut"):
            await take_in(e, file)
        packed = gzip.compress(whole)
        write(file, packed[:-30])
        with pytest.raises(AiInfraError, match=f"{file}:.*the compressed file is damaged or cut"):
            await take_in(e, file)
        write(file, packed)
        assert (await take_in(e, file)).there == 8

    run(redis_server.address, body)


def test_a_conflict_in_a_late_part_undoes_the_early_ones(
    redis_server: Any, other_redis: RedisServer, file: Path
) -> None:
    async def body(e: Engine) -> None:
        await e.submit([task(f"t{i:04}") for i in range(1200)])
        await work_off(e)
        await export(e, file)
        async with engine_on(other_redis.address) as other:
            await other.submit([task("t1100", priority=9)])
            with pytest.raises(
                Conflict, match=rf"{file}:1102: task t1100 exists already .*nothing was imported"
            ):
                await take_in(other, file)
            assert [v.id for v in await other.list_tasks(limit=2000)] == ["t1100"]
            assert await other.connection.command("KEYS", "ai:r:*") == []
            assert await other.connection.command("KEYS", "ai:sub*") == []

    run(redis_server.address, body)


def test_no_such_file(redis_server: Any, tmp_path: Path) -> None:
    async def body(e: Engine) -> None:
        with pytest.raises(NotFound, match="no such file"):
            await take_in(e, tmp_path / "none")
        with pytest.raises(AiInfraError, match=f"{tmp_path}: "):
            await take_in(e, tmp_path)

    run(redis_server.address, body)


# -- deaths -------------------------------------------------------------------------------------------------

DYING = """
import asyncio, os, signal, sys
from pathlib import Path
from ai_infra.connectors.redis import Connection
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.transfer import import_file

step, address, file = sys.argv[1:]
def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
calls = []
class Dying(Engine):
    async def _call(self, function, *words):
        calls.append(function)
        if step == f"before {function} {calls.count(function)}": die()
        answer = await super()._call(function, *words)
        if step == f"after {function} {calls.count(function)}": die()
        return answer

async def main():
    await import_file(Dying(await Connection.open(address)), Path(file), ["code"])
asyncio.run(main())
"""


async def deadlines_come(e: Engine) -> None:
    """Imports that broke off are undone, or carried to their end."""
    while subs := await e.connection.command("ZRANGE", "ai:subs", 0, -1):
        for sub in subs:
            await e.connection.command("ZADD", "ai:subs", 1, sub)
        await e.tick()


STEPS = ["before import 1", "after import 1", "after import 2", "after import 3", "after commit 1"]


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_it_is_all_or_nothing(
    redis_server: Any, other_redis: RedisServer, file: Path, step: str
) -> None:
    names = [f"t{i:04}" for i in range(1100)]

    async def make(e: Engine) -> None:
        await e.submit([task(name) for name in names[:600]])
        await work_off(e)
        await e.submit([task(name) for name in names[600:]])
        await export(e, file)

    run(redis_server.address, make)
    done = subprocess.run(
        [sys.executable, "-c", DYING, step, other_redis.address, file],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr

    async def look(e: Engine) -> None:
        assert await e.claim(CODE, W1, 30) is None or "commit" in step  # nothing runs before all is there
        await deadlines_come(e)
        here = [v.id for v in await e.list_tasks(limit=2000)]
        assert sorted(here) == (names if "commit" in step else [])
        assert (await take_in(e, file)).imported == (0 if "commit" in step else 1100)
        counts = (await e.counts())[CODE]
        assert (counts.completed, counts.ready + counts.active) == (600, 500)

    run(other_redis.address, look)


def test_one_that_broke_off_is_gone_on_with(redis_server: Any, other_redis: RedisServer, file: Path) -> None:
    """Before its deadline, too."""

    async def make(e: Engine) -> None:
        await e.submit([task(f"t{i:04}") for i in range(700)])
        await export(e, file)

    run(redis_server.address, make)
    subprocess.run(
        [sys.executable, "-c", DYING, "after import 1", other_redis.address, file], timeout=60, check=False
    )

    async def look(e: Engine) -> None:
        assert (await take_in(e, file)).imported == 700
        await deadlines_come(e)
        assert len(await work_off(e)) == 700

    run(other_redis.address, look)
