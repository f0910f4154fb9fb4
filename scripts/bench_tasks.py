"""The task engine beside others and beside its floor: throughput, waiting, graphs, idling, death.

Every figure comes from a redis-server of its own with the same settings, one worker each, rounds interleaved.
Peers are installed by pip on first use, each into a virtual environment below --peers-venv. The floor is a
loop of one function that acknowledges a task and pops the next. All of it takes ten minutes on a quiet
machine; --save keeps what an interrupted run has found. What takes longer still: --million, --kill.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import benchlib
import benchtaskrows as rows
from benchengines import LUA, OURS, Engine, Environments, chosen
from benchlib import BenchError, Measure, Report, interleaved, measure, number
from benchtaskrows import Bench, percentile

ROWS = ("drain", "always", "batch", "waits", "graphs", "submit", "idle", "death", "agent")
LONG = ("million", "kill")
MILLION = 1_000_000
BATCH = 1000
GRAPH_TASKS = 1000
BIG_GRAPH = 10_000
CLAIMS = 2000
LEASE_LIMIT_S = 60.0
SHOWN_AS_NOTHING = 0.05  #: % of a CPU that is shown as 0.0


class Table:
    """All that was measured, by row and engine, and the bars that follow from it."""

    def __init__(self) -> None:
        self.samples: dict[str, dict[str, list[float]]] = {}
        self.measures: list[Measure] = []
        self.failed: dict[str, str] = {}

    def add(self, column: str, engine: str, *samples: float) -> None:
        """More samples of one figure."""
        self.samples.setdefault(column, {}).setdefault(engine, []).extend(samples)

    def figure(self, column: str, engine: Engine) -> float | None:
        """The median, or None: not measured."""
        samples = self.samples.get(column, {}).get(engine.name)
        return statistics.median(samples) if samples else None

    def best_peer(self, column: str, pick: Callable[[list[float]], float]) -> tuple[str, float] | None:
        """The best of those that are neither we nor a floor."""
        found = {
            name: statistics.median(samples)
            for name, samples in self.samples.get(column, {}).items()
            if name != OURS.name and not name.startswith(LUA.name)
        }
        best = pick(list(found.values())) if found else None
        return next(((name, value) for name, value in found.items() if value == best), None)

    def bar(
        self, name: str, unit: str, value: float, budget: float | None, *, at_least: bool = False
    ) -> None:
        """A figure that should reach something."""
        self.measures.append(measure(name, unit, [value], budget=budget, more_is_better=at_least))

    def beside_best(self, name: str, column: str, budget: float, *, at_least: bool = False) -> None:
        """Ours / the best peer's."""
        ours, best = self.figure(column, OURS), self.best_peer(column, max if at_least else min)
        if ours is not None and best is not None:
            self.bar(f"{name} / {best[0]}, the best peer", "x", ours / best[1], budget, at_least=at_least)

    def text(self, engines: list[Engine], versions: Mapping[str, str]) -> str:
        """Engines down, figures across: medians."""
        head = ["engine", "version", *self.samples]
        body = []
        for engine in engines:
            cells = [self.figure(column, engine) for column in self.samples]
            body.append([engine.name, versions[engine.name], *map(_cell, cells)])
        lines = [benchlib.table([head, *body], right=range(2, len(head)))]
        lines += [f"{name}: {words}" for name, words in self.failed.items()]
        return "\n".join(lines)


def _finite(sample: float) -> float | None:
    """For JSON, which has no infinity: None is never."""
    return None if math.isinf(sample) else sample


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return "never" if math.isinf(value) else number(value)


# -- rows -----------------------------------------------------------------------------------------------


class Run:
    """One run of the benchmark."""

    def __init__(self, args: argparse.Namespace, engines: list[Engine]) -> None:
        self.args, self.engines, self.table = args, engines, Table()
        self.bench = Bench(environments=Environments(args.peers_venv), most=args.tasks)

    def install(self) -> dict[str, str]:
        """Everybody's environment; versions by name. One that cannot be installed is left out, and said."""
        for engine in list(self.engines):
            try:
                self.bench.environments.install(engine)
            except BenchError as exc:
                self.table.failed[engine.name] = str(exc)
                self.engines.remove(engine)
        return {engine.name: self.bench.environments.version(engine) for engine in self.engines}

    def as_json(self, versions: Mapping[str, str]) -> dict[str, Any]:
        """What was found so far."""
        return {
            "versions": versions,
            "measures": [row.as_json() for row in self.table.measures],
            "engines": {
                column: {name: [_finite(s) for s in samples] for name, samples in found.items()}
                for column, found in self.table.samples.items()
            },
            "failed": self.table.failed,
        }

    def _rounds(self, column: str, engines: list[Engine], work: Callable[[Engine], float]) -> None:
        def guarded(engine: Engine) -> float:
            try:
                return work(engine)
            except BenchError as exc:
                self.table.failed[f"{engine.name}, {column}"] = str(exc)
                return math.nan

        works = {engine.name: partial(guarded, engine) for engine in engines}
        for name, samples in interleaved(self.args.rounds, works).items():
            good = [sample for sample in samples if not math.isnan(sample)]
            if good:
                self.table.add(column, name, *good)

    def drain(self) -> None:
        """Row 1."""
        column = "no-ops/s"
        self._rounds(column, self.engines, lambda engine: rows.drain_per_s(self.bench, engine))
        self.table.beside_best("no-op tasks/s, everysec", column, 2.5, at_least=True)
        self._beside_floor("no-op tasks/s, everysec / Lua loop", column)

    def always(self) -> None:
        """Row 2, its first half."""
        column = "no-ops/s, fsync always"
        two = [engine for engine in self.engines if engine in (OURS, LUA)]
        self._rounds(column, two, lambda engine: rows.drain_per_s(self.bench, engine, "always"))
        self._beside_floor("no-op tasks/s, fsync always / Lua loop", column)

    def _beside_floor(self, name: str, column: str) -> None:
        ours, floor = self.table.figure(column, OURS), self.table.figure(column, LUA)
        if ours is not None and floor is not None:
            self.table.bar(name, "x", ours / floor, 0.6, at_least=True)

    def batch(self) -> None:
        """Row 2, its second half."""
        if OURS not in self.engines:
            return
        count = min(BATCH, self.args.tasks or BATCH)
        found = [rows.batch(self.bench, count) for _ in range(self.args.rounds)]
        middle = {key: statistics.median(one[key] for one in found) for key in found[0]}
        self.table.bar(f"fsyncs of a submit of {count} at once", "", middle["submit fsyncs"], 1)
        self.table.bar(f"fsyncs of {count} submits of one", "", middle["singles fsyncs"], None)
        self.table.bar(f"submit of {count} at once, fsync always", "ms", middle["submit ms"], None)
        self.table.bar(f"{count} submits of one, fsync always", "ms", middle["singles ms"], None)

    def waits(self) -> None:
        """Rows 3 and 4."""
        found: dict[str, dict[str, list[float]]] = {}

        def one(engine: Engine) -> float:
            series = rows.waits_ms(self.bench, engine)
            kept = found.setdefault(engine.name, {"starts": [], "answers": []})
            for key, samples in series.items():
                kept[key] += samples
            return statistics.median(series["starts"])

        self._rounds("start p50 ms", self.engines, one)
        for name, series in found.items():
            self.table.add("start p99 ms", name, percentile(series["starts"], 99))
            self.table.add("result p50 ms", name, statistics.median(series["answers"]))
        self.table.beside_best("submit → start p50", "start p50 ms", 1.0)
        p50, p99 = (self.table.figure(f"start {p} ms", OURS) for p in ("p50", "p99"))
        if p50 is not None and p99 is not None:
            self.table.bar("submit → start, ours: p99 / p50", "x", p99 / p50, 10)
        self.table.beside_best("submit → result p50", "result p50 ms", 1.0)

    def graphs(self) -> None:
        """Row 5."""
        tasks = min(GRAPH_TASKS, self.args.tasks or GRAPH_TASKS)
        able = [engine for engine in self.engines if engine.graphs]
        for kind, needs in rows.graphs(tasks).items():
            column = f"{kind} s"
            work = partial(rows.makespan_s, self.bench, needs=needs)
            self._rounds(column, able, work)
            for peer, budget in (("rq", 0.1), ("streaq", 0.25)):
                theirs = self.table.samples.get(column, {}).get(peer)
                ours = self.table.figure(column, OURS)
                if theirs and ours is not None:
                    value = ours / statistics.median(theirs)
                    self.table.bar(f"{kind} of {tasks} tasks, ours / {peer}", "x", value, budget)

    def submit(self) -> None:
        """Row 6."""
        if OURS not in self.engines:
            return
        tasks = min(BIG_GRAPH, (self.args.tasks or BIG_GRAPH) * 10)
        for fsync in ("everysec", "always"):
            found = [rows.big_submit(self.bench, tasks, fsync) for _ in range(self.args.rounds)]
            took_s = statistics.median(one["s"] for one in found)
            self.table.bar(f"submit of a graph of {tasks} tasks, fsync {fsync}", "s", took_s, 2.0)
        thousands = math.ceil(tasks / 1000)
        self.table.bar(f"its round trips, {thousands} thousand tasks", "", found[0]["calls"], thousands)

    def idle(self) -> None:
        """Row 8."""
        for name, found in rows.idle(self.bench, self.engines, self.args.seconds).items():
            for key, value in found.items():
                self.table.add(f"idle {key}", name, value)
        sent, cpu = (self.table.figure(f"idle {key}", OURS) for key in ("commands/s", "CPU %"))
        if sent is not None and cpu is not None:
            self.table.bar("idle worker: commands to Redis", "/s", sent, 1.0)
            self.table.bar("idle worker: CPU", "%", cpu, SHOWN_AS_NOTHING)

    def death(self) -> None:
        """Row 9, ours when the death is seen."""
        if OURS in self.engines:
            found = [rows.seen_death_s(self.bench) for _ in range(self.args.rounds)]
            name = "kill -9 of a worker, death seen: its task runs again"
            self.table.measures.append(measure(name, "s", found, budget=3.0))

    def kill(self) -> None:
        """Row 9, when nobody but the engine itself hears of it."""
        able = [engine for engine in self.engines if not engine.is_floor]
        for name, value in rows.killed(self.bench, able, LEASE_LIMIT_S).items():
            self.table.add("killed, runs again s", name, value)

    def million(self) -> None:
        """Row 7."""
        if OURS not in self.engines:
            return
        count = self.args.million or MILLION
        claims = min(CLAIMS, self.args.tasks or CLAIMS)
        found = rows.million(self.bench, count, claims)
        name = f"Redis' CPU for a finish-and-claim after {count} finished / before"
        self.table.bar(name, "x", found["after µs"] / found["before µs"], 1.2)
        self.table.bar("that CPU before", "µs", found["before µs"], None)
        name = f"memory after {count} finished / after half of them"
        self.table.bar(name, "x", found["full MB"] / found["half MB"], 1.2)
        self.table.bar("that memory", "MB", found["full MB"], None)

    def agent(self) -> None:
        """The whole agent, a process a task, beside a bare loop of as many; see bench_cli.py."""
        if OURS in self.engines:
            count = min(200, self.args.tasks or 200)
            bare, agent = rows.agent_per_s(count, self.args.rounds)
            self.table.bar("a whole agent: tasks of `true` / bare loop of `true`", "x", agent / bare, None)
            self.table.bar(f"a whole agent, {count} tasks of `true`", "/s", agent, None)


def bench(args: argparse.Namespace) -> Report:
    """The rows that were asked for."""
    facts = benchlib.machine_facts()
    run = Run(args, chosen(args.engines))
    versions = run.install()
    wanted = args.only or [*ROWS, *(row for row in LONG if getattr(args, row))]
    for row in wanted:
        getattr(run, row)()
        if args.save is not None:
            args.save.write_text(json.dumps(run.as_json(versions), indent=2))
    if not run.table.measures and not run.table.samples:
        raise BenchError("nothing was measured: " + "; ".join(run.table.failed.values()))
    details = {key: value for key, value in run.as_json(versions).items() if key != "measures"}
    return Report(
        bench="tasks", rounds=args.rounds, machine=facts, measures=run.table.measures, details=details,
        more=run.table.text(run.engines, versions),
    )  # fmt: skip


def _names(known: tuple[str, ...] | None, text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if known is not None and name not in known]
    if unknown or not names:
        raise argparse.ArgumentTypeError(f"{text!r}: choose from {', '.join(known or ())}")
    return names


def options(parser: argparse.ArgumentParser) -> None:
    """Those of this benchmark."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ai-infra" / "bench-peers"
    all_rows = (*ROWS, *LONG)
    parser.add_argument("--only", type=partial(_names, all_rows), metavar="ROW,ROW", help=", ".join(all_rows))
    parser.add_argument("--engines", type=partial(_names, None), metavar="NAME,NAME", help="default: all")
    parser.add_argument("--peers-venv", type=Path, default=cache, help="default: %(default)s")
    parser.add_argument("--tasks", type=benchlib.positive, help="at most, for a quick look")
    parser.add_argument("--save", type=Path, metavar="FILE", help="JSON, anew after every row")
    parser.add_argument("--seconds", type=benchlib.positive, default=20, help="of idling; default: 20")
    parser.add_argument(
        "--million", type=benchlib.positive, nargs="?", const=MILLION, metavar="COUNT",
        help="finished tasks, then claims; ten minutes",
    )  # fmt: skip
    parser.add_argument("--kill", action="store_true", help="the peers' workers, too; a minute more")


if __name__ == "__main__":
    sys.exit(benchlib.main(__doc__ or "", bench, rounds=3, options=options))
