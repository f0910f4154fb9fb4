"""Retention: what many finished tasks cost Redis before and after they are archived, and a claim beside them.

A private redis-server at the shipped durability; tasks are written as finished ones would stand, through the
engine's import, so that a million takes minutes. `--tasks 1000000` is the size the budget speaks of.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import benchlib
from benchlib import Measure, Report, measure, ratio

from ai_infra.connectors.embedded_redis import EmbeddedRedis
from ai_infra.connectors.redis import Connection
from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId, WorkerId, new_id
from ai_infra.core.settings import load_settings
from ai_infra.tasks.archive import Archive
from ai_infra.tasks.engine import Engine
from ai_infra.tasks.history import past_tasks
from ai_infra.tasks.record import TaskRecord
from ai_infra.tasks.retention import archive_finished
from ai_infra.tasks.spec import dump_json, dump_spec
from ai_infra.tasks.statistics import summarise
from ai_infra.tasks.task import Outcome, TaskSpec

CODE, ME = AgentName("code"), WorkerId("code.bench")
CLAIMS = 500
SLOW_US = 20_000
RESULT = {"exit_codes": [0], "durations_s": [0.01], "checks": [], "output_tail": "all is well\n" * 5}


def bench(args: argparse.Namespace) -> Report:
    """One server, one round: the sizes are the point, not the noise."""
    facts = benchlib.machine_facts()
    with tempfile.TemporaryDirectory(prefix="air-") as folder:
        home = Home(Path(folder))
        home.ensure()
        rows = asyncio.run(run(home, args.tasks, args.keep))
    return Report(bench="retention", rounds=1, machine=facts, measures=rows, details={"tasks": args.tasks})


async def run(home: Home, tasks: int, keep: int) -> list[Measure]:
    """Start the server, measure, stop it."""
    server = EmbeddedRedis(home, lambda words, level: None)
    await server.start()
    try:
        engine = Engine(await Connection.open(str(home.redis_socket)))
        try:
            return await measured(engine, home, tasks, keep)
        finally:
            engine.close()
    finally:
        await server.stop(10)


async def measured(engine: Engine, home: Home, tasks: int, keep: int) -> list[Measure]:
    """Empty, full, and after retention."""
    rows = []
    empty_us = await claim_us(engine)
    await engine.import_records({}, finished(tasks))
    full_mb, full_us = await memory_mb(engine), await claim_us(engine)
    await engine.connection.command("CONFIG", "SET", "slowlog-log-slower-than", SLOW_US)
    await engine.connection.command("SLOWLOG", "RESET")
    limits = replace(load_settings(home, {}, own_files=False).tasks, keep_finished=keep)
    archive = Archive(home.archive)
    with during(engine) as claims:
        began = time.perf_counter()
        passed = await archive_finished(engine, archive, limits)
        took_s = time.perf_counter() - began
    slow = await engine.connection.command("SLOWLOG", "GET", 128)
    worst_us = max((row[2] for row in slow), default=0)
    kept_mb, kept_us = await memory_mb(engine), await claim_us(engine)
    rows += [
        measure("claim and finish, nothing finished", "µs", empty_us),
        measure(f"claim and finish, {tasks} finished", "µs", full_us),
        measure("the same, archived", "µs", kept_us),
    ]
    rows.append(ratio("full / empty", rows[1], rows[0], budget=1.2))
    rows += [
        measure("Redis, all of them in it", "MB", [full_mb]),
        measure(f"Redis, {keep} kept", "MB", [kept_mb]),
        measure("archived", "tasks/s", [passed.archived / took_s]),
        measure(f"calls over {SLOW_US // 1000} ms meanwhile", "calls", [len(slow)], budget=0),
        measure("the longest of them", "ms", [worst_us / 1000]),
        measure("claim and finish meanwhile", "µs", claims or [0.0]),
        measure(
            "file", "bytes a task", [sum(p.stat().st_size for p in archive.files()) / max(1, passed.archived)]
        ),
    ]
    return [*rows, *await reading(engine, archive, tasks)]


async def reading(engine: Engine, archive: Archive, tasks: int) -> list[Measure]:
    """One task out of all, and statistics over all."""
    began = time.perf_counter()
    assert [view.id for view in archive.find(f"t{tasks // 3:09}")]
    found_s = time.perf_counter() - began
    began = time.perf_counter()
    told = summarise(await past_tasks(engine, archive, 0), 86400)
    assert told.all.completed >= tasks
    return [
        measure("an archived task is found", "ms", [1000 * found_s]),
        measure("statistics over all of them", "s", [time.perf_counter() - began]),
    ]


def finished(count: int) -> Iterator[TaskRecord]:
    """Tasks that ended one after the other, the last one just now."""
    now_ms = round(time.time() * 1000)
    for n in range(count):
        spec = TaskSpec(id=TaskId(f"t{n:09}"), name=f"task {n}", agent=CODE, run=(("make", "test", str(n)),))
        end = now_ms - 10 * (count - n)
        fields = {
            "s": "COMPLETED", "a": CODE, "p": "5", "q": str(n), "n": "0", "r": "all_succeeded", "at": "1",
            "mx": "4", "f": "1", "w": "code.0123456789", "nm": spec.name, "dl": "1000", "ts": str(end - 30),
            "rd": str(end - 30), "st": str(end - 10), "fi": str(end), "df": "1",
        }  # fmt: skip
        yield TaskRecord(id=spec.id, fields=fields, spec_text=dump_spec(spec), result_text=dump_json(RESULT))


async def claim_us(engine: Engine) -> list[float]:
    """Claim and finish one task at a time, beside what is there."""
    samples = []
    for _ in range(5):
        specs = [TaskSpec(id=TaskId(new_id("b")), name="b", agent=CODE, run=("true",)) for _ in range(CLAIMS)]
        await engine.submit(specs)
        began = time.perf_counter()
        claim = await engine.claim(CODE, ME)
        while claim is not None:
            _, claim = await engine.finish(claim, Outcome(ok=True), take_next=True)
        samples.append((time.perf_counter() - began) / CLAIMS * 1e6)
    return samples


@contextmanager
def during(engine: Engine) -> Iterator[list[float]]:
    """Samples of a worker that goes on while the block runs."""
    samples: list[float] = []

    async def work() -> None:
        while True:
            samples.append(statistics.median(await claim_us(engine)))
            await asyncio.sleep(0.2)

    task = asyncio.create_task(work(), name="worker")
    try:
        yield samples
    finally:
        task.cancel()


async def memory_mb(engine: Engine) -> float:
    """What Redis has in use."""
    info = await engine.connection.command("INFO", "memory")
    return (
        int(next(line for line in info.splitlines() if line.startswith("used_memory:")).split(":")[1]) / 1e6
    )


def options(parser: argparse.ArgumentParser) -> None:
    """Those of this benchmark."""
    parser.add_argument(
        "--tasks", type=benchlib.positive, default=200_000, help="finished ones; default: 200000"
    )
    parser.add_argument("--keep", type=benchlib.positive, default=20_000, help="of them; default: 20000")


if __name__ == "__main__":
    sys.exit(benchlib.main(__doc__ or "", bench, rounds=1, options=options))
