"""Retention on a real server: what goes, what stays, and a death at every step of it."""

from __future__ import annotations

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_kit import BAD, CODE, OK, W1, claimed, run, states, task, work_off

from ai_infra.core.errors import Conflict, NotFound, SystemProblem
from ai_infra.core.home import Home
from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.core.settings import TaskSettings, load_settings
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.history import past_tasks
from ai_infra.tasks.litter import tidy
from ai_infra.tasks.retention import archive_finished, drop
from ai_infra.tasks.statistics import summarise
from ai_infra.tasks.task import NeedsRule, Outcome, State, WorkflowHeader

ANY_END = {"needs_rule": NeedsRule.ALL_DONE}
FLOW = WorkflowId("w-1")


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    return Archive(tmp_path / "archive")


def limits(keep: int = 0, days: float = 7.0) -> TaskSettings:
    tasks = load_settings(Home(Path("/nonexistent")), {}).tasks
    return replace(tasks, keep_finished=keep, keep_finished_days=days)


def in_flow(name: str, *needs: str, **more: Any) -> Any:
    return task(name, *needs, workflow=FLOW, **more)


def header() -> WorkflowHeader:
    return WorkflowHeader(id=FLOW, name="flow")


def lines(archive: Archive) -> list[str]:
    return [line for path in archive.files() for line in gzip.open(path, "rt").read().splitlines()]


def archived(archive: Archive) -> list[str]:
    return sorted(record.id for record in archive.ended())


async def keys(engine: Engine) -> list[str]:
    return sorted(await engine.connection.command("KEYS", engine.connection.key("*")))


async def finished(engine: Engine, count: int, **more: Any) -> None:
    await engine.submit([task(f"f{i:04}", **more) for i in range(count)])
    await work_off(engine)


class TestWhatGoes:
    def test_the_oldest_beyond_the_count(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await finished(e, 30)
            passed = await archive_finished(e, archive, limits(keep=10))
            assert passed.archived == 20
            assert archived(archive) == [f"f{i:04}" for i in range(20)]
            assert [v.id for v in await e.list_tasks()] == [f"f{i:04}" for i in range(29, 19, -1)]
            assert (await e.counts())[CODE].completed == 10
            assert passed.due_s is not None
            assert 6.9 * 86400 < passed.due_s <= 7 * 86400
            assert (await archive_finished(e, archive, limits(keep=10))).archived == 0

        run(redis_server.address, body)

    def test_those_that_are_too_old(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await finished(e, 3)
            assert (await archive_finished(e, archive, limits(keep=100, days=7))).archived == 0
            assert (await archive_finished(e, archive, limits(keep=100, days=0))).archived == 3

        run(redis_server.address, body)

    def test_nothing_is_left_of_them_in_redis(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([in_flow("a"), in_flow("b", "a"), in_flow("c", "b")], workflow=header())
            await e.finish(await claimed(e), Outcome(ok=True, result={"x": 1}))
            await e.finish(await claimed(e), BAD)
            before = await e.workflow(FLOW)
            await archive_finished(e, archive, limits())
            left = {key.removeprefix("ai:").split(":")[0] for key in await keys(e)}
            assert left <= {
                "agents",
                "events",
                "n",
                "seq",
                "timer",
                "workers",
                "leases",
                "schema",
                "m",
                "minutes",
            }
            found = archive.find_workflows("w-")[FLOW]
            assert found == replace(
                before, tasks=tuple(replace(v, archive=archive.files()[0].name) for v in before.tasks)
            )
            assert archive.find("a")[0].result == {"x": 1}
            assert archive.find("c")[0].error == "upstream b (b) is FAILED"

        run(redis_server.address, body)

    def test_a_large_result_goes_in_bounded_parts(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task(f"f{i:04}") for i in range(120)])
            await work_off(e, outcome=Outcome(ok=True, result={"text": "x" * 60_000}))
            part = await e.finished(keep=0, before_ms=0)
            assert 15 < len(part.records) < 20
            assert part.more
            assert (await archive_finished(e, archive, limits())).archived == 120

        run(redis_server.address, body)


class TestWhatStays:
    def test_the_tasks_of_an_open_workflow(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([in_flow("a"), in_flow("b", "a")], workflow=header())
            await e.submit([task("other", priority=9)])
            await e.finish(await claimed(e), OK)
            await e.finish(await claimed(e), OK)
            assert (await archive_finished(e, archive, limits())).archived == 1
            assert archived(archive) == ["other"]
            await work_off(e)
            assert (await archive_finished(e, archive, limits())).archived == 2

        run(redis_server.address, body)

    def test_what_an_open_task_needs(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("free")])
            await work_off(e)
            await e.submit([task("b", "a")])
            assert (await archive_finished(e, archive, limits())).archived == 1
            assert archived(archive) == ["free"]
            await work_off(e)
            assert (await archive_finished(e, archive, limits())).archived == 2

        run(redis_server.address, body)

    def test_many_that_stay_do_not_hold_up_the_others(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([in_flow(f"w{i:04}") for i in range(600)] + [in_flow("open", "w0000", "last")] +
                           [in_flow("last", priority=1)], workflow=header())  # fmt: skip
            for _ in range(600):
                await e.finish(await claimed(e), OK)
            await e.submit([task(f"f{i:04}", priority=9) for i in range(300)])
            for _ in range(300):
                await e.finish(await claimed(e), OK)
            assert (await archive_finished(e, archive, limits())).archived == 300

        run(redis_server.address, body)

    def test_one_that_was_tried_again_meanwhile(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b")])
            await work_off(e, outcome=BAD)
            part = await e.finished(keep=0, before_ms=0)
            await e.retry(TaskId("a"))
            assert await e.forget(part.records) == ["b"]
            assert await e.forget(part.records) == ["b"]  # the answer was lost, and it is asked again
            await work_off(e, outcome=BAD)
            assert await e.forget(part.records) == ["b"]
            assert await states(e, "a") == {"a": State.FAILED}

        run(redis_server.address, body)

    def test_a_dependant_of_an_archived_failure_does_not_run_as_if_it_had_succeeded(
        self, redis_server: Any, archive: Archive
    ) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a")])
            await e.finish(await claimed(e), BAD)
            part = await e.finished(keep=0, before_ms=0)
            await e.forget([r for r in part.records if r.id == "a"])
            with pytest.raises(Conflict, match="needs a, which did not succeed"):
                await e.retry(TaskId("b"))

        run(redis_server.address, body)

    def test_an_upstream_that_ends_after_its_archived_dependant(
        self, redis_server: Any, archive: Archive
    ) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("b", "a")])
            claim = await claimed(e)
            await e.cancel(TaskId("b"), reason="x")
            assert (await archive_finished(e, archive, limits())).archived == 1
            await e.finish(claim, BAD)
            assert await e.retry(TaskId("a")) == ["a"]
            await work_off(e)
            assert "ai:t:b" not in await keys(e)

        run(redis_server.address, body)


class TestWorkflows:
    def test_a_part_of_one_is_archived(self, redis_server: Any, archive: Archive) -> None:
        """It counts all of its tasks until the last has gone."""

        async def body(e: Engine) -> None:
            await e.submit([in_flow("a"), in_flow("b", "a"), in_flow("c", "b")], workflow=header())
            await work_off(e)
            await archive_finished(e, archive, limits(keep=1))
            view = await e.workflow(FLOW)
            assert ([v.id for v in view.tasks], view.counts) == (["c"], {State.COMPLETED: 3})
            assert view.state is State.COMPLETED
            await archive_finished(e, archive, limits())
            with pytest.raises(NotFound):
                await e.workflow(FLOW)
            assert await e.list_workflows() == []

        run(redis_server.address, body)


class TestDeadLetters:
    def test_drop_archives_it_with_what_was_cancelled_because_of_it(
        self, redis_server: Any, archive: Archive
    ) -> None:
        async def body(e: Engine) -> None:
            flow = [in_flow("a"), in_flow("b", "a"), in_flow("c", "b"), in_flow("other", priority=1)]
            await e.submit(flow, workflow=header())
            await e.finish(await claimed(e), BAD)
            assert sorted(await drop(e, archive, [TaskId("a")])) == ["a", "b", "c"]
            assert archived(archive) == ["a", "b", "c"]
            assert await e.list_tasks(state=State.FAILED) == []
            assert await work_off(e) == ["other"]
            await archive_finished(e, archive, limits())
            assert len(archive.find_workflows(FLOW)[FLOW].tasks) == 4

        run(redis_server.address, body)

    def test_one_that_is_needed_stays(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await e.submit([task("a"), task("z", "a", "open", **ANY_END), task("open", priority=1)])
            await e.finish(await claimed(e), BAD)
            with pytest.raises(Conflict, match="task a stays: task z, which has not ended, needs it"):
                await drop(e, archive, [TaskId("a")])
            with pytest.raises(Conflict, match="task open is READY, no dead letter"):
                await drop(e, archive, [TaskId("open")])
            with pytest.raises(NotFound, match="nope"):
                await drop(e, archive, [TaskId("nope")])
            assert lines(archive) == []

        run(redis_server.address, body)

    def test_two_writers_take_turns(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            with archive.writing(), pytest.raises(Conflict, match="somebody else is writing"):
                await archive_finished(e, archive, limits())

        run(redis_server.address, body)


class TestStatistics:
    def test_it_counts_what_is_in_redis_and_what_is_archived_once(
        self, redis_server: Any, archive: Archive
    ) -> None:
        async def body(e: Engine) -> None:
            await finished(e, 8)
            await e.submit([task("bad")])
            await work_off(e, outcome=replace(BAD, error="command 1 of 1 ended with exit code 2: false"))
            part = await e.finished(keep=3, before_ms=0)
            archive.folder.mkdir()
            archive.append(part.records)
            archive.append(part.records)  # a pass that died before it had them forgotten
            before = summarise(await past_tasks(e, archive, 0), 3600)
            await e.forget(part.records)
            after = summarise(await past_tasks(e, archive, 0), 3600)
            assert before == after
            code = after.agents[CODE]
            assert (code.completed, code.failed, code.runs, code.retries) == (8, 1, 9, 0)
            assert [(c.reason, c.tasks, c.example) for c in code.causes] == [
                ("ended with exit code 2", 1, "bad")
            ]
            assert await past_tasks(e, archive, 10**14) == []

        run(redis_server.address, body)

    def test_many_that_ended_in_one_instant(self, redis_server: Any, archive: Archive) -> None:
        async def body(e: Engine) -> None:
            await finished(e, 1300)
            done = e.connection.key("done")
            for id in await e.connection.command("ZRANGE", done, 0, 1199):
                await e.connection.command("ZADD", done, "XX", 1000, id)
            assert len(await past_tasks(e, archive, 0)) == 1300

        run(redis_server.address, body)


# -- deaths -------------------------------------------------------------------------------------------------

STEPS = ("before", "torn", "written", "half forgotten")
DYING = """
import asyncio, os, signal, sys
from ai_infra.connectors.redis import Connection
from ai_infra.tasks import archive, members, retention
from ai_infra.tasks.engine import Engine
sys.path[:0] = [{tests!r}]
from test_retention import limits

def die(*_, **__): os.kill(os.getpid(), signal.SIGKILL)
step, address, folder = sys.argv[1:]
real = members.append
def torn(path, data, note):
    with open(path, "ab") as file:
        file.write(members.pack(data, note)[:-20]); file.flush()
    die()
if step == "before": archive.append = die
if step == "torn": archive.append = torn
if step == "written": Engine.forget = die
if step == "half forgotten":
    forget = Engine.forget
    async def half(self, records, **more):
        await forget(self, records[: len(records) // 2]); die()
    Engine.forget = half

async def main():
    engine = Engine(await Connection.open(address))
    await retention.archive_finished(engine, archive.Archive(archive.Path(folder)), limits())
asyncio.run(main())
"""


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_nothing_is_lost(redis_server: Any, archive: Archive, step: str) -> None:
    async def fill(e: Engine) -> None:
        await finished(e, 1)
        await archive_finished(e, archive, limits())  # a file is there that must survive
        await e.submit([task(f"g{i:04}") for i in range(40)])
        await work_off(e)

    run(redis_server.address, fill)
    code = DYING.format(tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, "-c", code, step, redis_server.address, str(archive.folder)],
        capture_output=True, text=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr
    everything = ["f0000", *(f"g{i:04}" for i in range(40))]

    async def look(e: Engine) -> None:
        here = {v.id for v in await e.list_tasks(limit=1000)}
        assert sorted(here | set(archived(archive))) == everything
        await archive_finished(e, archive, limits())
        assert await e.list_tasks() == []

    run(redis_server.address, look)
    assert archived(archive) == everything
    assert [v.id for v in archive.find("g0039")] == ["g0039"]
    written = [json.loads(line)["task"]["id"] for line in lines(archive)]
    assert len(written) == (41 if step in ("before", "torn") else 81 if step == "written" else 61)


def test_a_damaged_file_is_named(redis_server: Any, archive: Archive) -> None:
    async def body(e: Engine) -> None:
        await finished(e, 5)
        await archive_finished(e, archive, limits())
        path = archive.files()[0]
        data = bytearray(path.read_bytes())
        data[-20] ^= 0xFF
        path.write_bytes(data)
        with pytest.raises(SystemProblem, match=f"{path}: cannot be read .*move it away"):
            archive.find("f0001")

    run(redis_server.address, body)


def test_a_full_disk_loses_nothing(redis_server: Any, archive: Archive) -> None:
    """The file system is one of 64 KB; what could not be written stays in Redis."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    archive.folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", archive.folder], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("this machine does not mount")
    try:

        async def body(e: Engine) -> None:
            await e.submit([task(f"f{i:04}") for i in range(60)])
            noise = [Outcome(ok=True, result={"text": os.urandom(2000).hex()}) for _ in range(60)]
            for outcome in noise:
                await e.finish(await claimed(e, W1), outcome)
            with pytest.raises(SystemProblem, match="the disk is full"):
                await archive_finished(e, archive, limits())
            assert len(await e.list_tasks(limit=1000)) == 60

        run(redis_server.address, body)
    finally:
        subprocess.run(["umount", archive.folder], check=True)


# -- what they left on disk ---------------------------------------------------------------------------------


def test_old_logs_and_folders_of_tasks_that_are_gone_are_removed(redis_server: Any, tmp_path: Path) -> None:
    home = Home(tmp_path)
    home.ensure()
    elsewhere = tmp_path / "precious"
    elsewhere.mkdir()
    working = home.scratch("code") / "working"
    working.mkdir(parents=True)
    made = {}
    for name in ("gone", "here", "new"):
        made[name] = [
            home.task_logs / f"{name}.1.log",
            working / name / "file",
            home.workflows / name / "file",
        ]
        for path in made[name]:
            path.parent.mkdir(exist_ok=True)
            path.write_text("x")
    (working / "link").symlink_to(elsewhere)
    (home.task_logs / "notes.txt").write_text("a person's")
    old = [
        home.task_logs / "notes.txt",
        *(p for n in ("gone", "here") for p in (*made[n], *(q.parent for q in made[n]))),
    ]
    for path in old:
        os.utime(path, (1, 1))
    os.utime(working / "link", (1, 1), follow_symlinks=False)
    os.utime(home.task_logs)

    async def body(e: Engine) -> None:
        await e.submit([task("here", workflow=WorkflowId("here"))])
        assert await tidy(e, home, 3600) == 4

    run(redis_server.address, body)
    assert {n: [p.exists() for p in paths] for n, paths in made.items()} == {
        "gone": [False] * 3, "here": [True] * 3, "new": [True] * 3
    }  # fmt: skip
    assert elsewhere.exists()
    assert not (working / "link").is_symlink()
    assert (home.task_logs / "notes.txt").exists()


async def commands_run(e: Engine) -> int:
    """By the server, those that functions call included."""
    told = await e.connection.command("INFO", "commandstats")
    return sum(int(line.split("calls=")[1].split(",")[0]) for line in told.splitlines() if "calls=" in line)


def test_no_call_keeps_the_server_busy_for_long(redis_server: Any, archive: Archive) -> None:
    """Dense layers: every task has a hundred dependants, and each is looked at. Counted, not timed."""
    most = 0

    async def body(e: Engine) -> None:
        nonlocal most
        layers = [[f"l{n}x{i:02}" for i in range(100)] for n in range(6)]
        specs = [task(name) for name in layers[0]]
        for above, layer in itertools.pairwise(layers):
            specs += [task(name, *above) for name in layer]
        await e.submit(specs)
        await work_off(e)
        call = e._call

        async def counted(function: str, *words: Any) -> Any:
            nonlocal most
            before = await commands_run(e)
            try:
                return await call(function, *words)
            finally:
                most = max(most, await commands_run(e) - before)

        e._call = counted  # type: ignore[method-assign]
        assert (await archive_finished(e, archive, limits())).archived == 600

    run(redis_server.address, body, timeout_s=60)
    assert 500 < most < 4000  # at 1 to 2 µs each
