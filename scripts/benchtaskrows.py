"""The rows of bench_tasks.py: each measures one engine once, on a server of its own, and gives numbers."""

from __future__ import annotations

import contextlib
import math
import os
import select
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import bench_cli
from benchengines import OURS, START_S, Engine, Environments, Site
from benchinstallation import PROGRAM, Installation
from benchlib import BenchError, interleaved, say
from benchserver import Server

WARM_UP = 20  #: of a series, or a tenth of a drain: imports, first connections
SERIES = 200  #: one after the other, for start and result
SETTLE_S = 3.0
DIAMOND = 10  #: the width of a layer


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What every row is given."""

    environments: Environments
    most: int | None = None  #: tasks at most, for a quick look


# -- throughput -----------------------------------------------------------------------------------------


def drain_per_s(bench: Bench, engine: Engine, fsync: str = "everysec") -> float:
    """No-op tasks a second through one worker that finds all of them in its queue."""
    count = min(engine.tasks, bench.most or engine.tasks)
    with Server(fsync) as server, Site(engine, bench.environments, server) as site:
        site.do("submit", count)
        site.work()
        site.until(count)
        stamps = site.stamps()[count // 10 :]
    return (len(stamps) - 1) * 1e9 / (stamps[-1] - stamps[0])


def batch(bench: Bench, count: int) -> dict[str, float]:
    """fsyncs and ms of a submit of `count` tasks at once, and of as many one by one, with fsync always."""
    found = {}
    with Server("always") as server, Site(OURS, bench.environments, server) as site:
        site.do("one")
        for name in ("submit", "singles"):
            before = server.fsyncs
            took_ms = _took_s(site, name, count) * 1000
            found[f"{name} fsyncs"], found[f"{name} ms"] = server.fsyncs - before, took_ms
    return found


def _took_s(site: Site, name: str, *args: object) -> float:
    said = site.do(name, *args)
    return float(said["ended_ns"] - said["began_ns"]) / 1e9


# -- waiting --------------------------------------------------------------------------------------------


def waits_ms(bench: Bench, engine: Engine) -> dict[str, list[float]]:
    """submit → start in the idle worker, and submit → result, each a series."""
    count = min(SERIES, bench.most or SERIES)
    with (
        Server() as server,
        Site(engine, bench.environments, server, results=True) as site,
    ):
        site.ready()
        found = {}
        for name in ("starts", "answers"):
            site.do(name, min(count, WARM_UP))
            found[name] = list(site.do(name, count)["found"])
    return found


def percentile(samples: Sequence[float], percent: int) -> float:
    """Of 100 equal parts."""
    return statistics.quantiles(samples, n=100, method="inclusive")[percent - 1]


# -- graphs ---------------------------------------------------------------------------------------------


def graphs(tasks: int) -> dict[str, list[list[int]]]:
    """What each task needs, by number: a chain, diamonds ten wide, dense layers of ten."""
    chain = [[i - 1] if i else [] for i in range(tasks)]
    return {
        "chain": chain,
        "diamonds": _layers(tasks, (1, DIAMOND)),
        "dense": _layers(tasks, (DIAMOND,)),
    }


def _layers(tasks: int, widths: Sequence[int]) -> list[list[int]]:
    """Layers of these widths in turn; every task needs all of the layer above."""
    needs: list[list[int]] = []
    above: list[int] = []
    layer = 0
    while len(needs) < tasks:
        here = list(range(len(needs), min(tasks, len(needs) + widths[layer % len(widths)])))
        needs += [list(above) for _ in here]
        above, layer = here, layer + 1
    return needs


def makespan_s(bench: Bench, engine: Engine, needs: list[list[int]]) -> float:
    """From before the submit to the beginning of the last task, a worker being idle at first."""
    with Server() as server, Site(engine, bench.environments, server) as site:
        site.ready()
        before = site.count()
        began_ns = site.do("graph", needs)["began_ns"]
        site.until(before + len(needs))
        return float(site.stamps()[-1] - began_ns) / 1e9


def big_submit(bench: Bench, tasks: int, fsync: str) -> dict[str, float]:
    """Seconds and round trips of a submit of one graph: layers of ten, five needs each."""
    needs = [[n for n in row if n % 2] for row in _layers(tasks, (DIAMOND,))]
    with Server(fsync) as server, Site(OURS, bench.environments, server) as site:
        before, _ = server.calls("fcall")
        took_s = _took_s(site, "graph", needs)
        return {"s": took_s, "calls": server.calls("fcall")[0] - before}


# -- many finished tasks --------------------------------------------------------------------------------


def million(bench: Bench, count: int, claims: int) -> dict[str, float]:
    """µs of Redis' CPU for a claim and finish in a new queue and after `count` finished tasks; its memory."""
    with Server() as server, Site(OURS, bench.environments, server) as site:
        site.do("finished", claims)  # the allocator and caches are warm
        began_mb = server.memory_mb
        found = {"before µs": _claim_us(site, claims)}
        for name in ("half", "full"):
            for part in range(5):
                say(f"finished tasks: {name} {part + 1} of 5")
                site.do("finished", count // 10)
            found[f"{name} MB"] = server.memory_mb - began_mb
        found["after µs"] = _claim_us(site, claims)
    return found


def _claim_us(site: Site, claims: int) -> float:
    """Its CPU for a task that is handed in while the next is taken. The best of five: least noise."""
    found = []
    for _ in range(5):
        site.do("submit", claims)
        before_s = site.server.cpu_s
        site.do("drain")
        found.append(1e6 * (site.server.cpu_s - before_s) / claims)
    return min(found)


# -- idle, and killed -----------------------------------------------------------------------------------


class Fleet:
    """All engines at the same time, each on a server of its own, for what is nothing but waiting."""

    def __init__(self, bench: Bench, engines: Sequence[Engine]) -> None:
        self._bench, self._engines = bench, engines
        self.sites: list[Site] = []
        self.failed: dict[str, str] = {}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Fleet:
        with contextlib.ExitStack() as stack:
            for engine in self._engines:
                server = stack.enter_context(Server())
                self.sites.append(stack.enter_context(Site(engine, self._bench.environments, server)))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def each(self, work: Callable[[Site], object]) -> None:
        """Do it for each; one that fails is left out from now on."""
        for site in list(self.sites):
            try:
                work(site)
            except BenchError as exc:
                self.failed[site.engine.name] = str(exc)
                self.sites.remove(site)


def idle(bench: Bench, engines: Sequence[Engine], seconds: float) -> dict[str, dict[str, float]]:
    """Commands a second that reach Redis, and CPU of the worker and of Redis in %, while nothing is to do."""
    with Fleet(bench, engines) as fleet, contextlib.ExitStack() as stack:
        say(f"idle: {len(engines)} engines start")
        fleet.each(Site.ready)
        time.sleep(SETTLE_S)
        began = time.monotonic()
        spies = {s.engine.name: stack.enter_context(s.server.spy()) for s in fleet.sites}
        before = {s.engine.name: (s.worker_cpu_s(), s.server.cpu_s) for s in fleet.sites}
        say(f"idle: looking on for {seconds:g} s")
        time.sleep(seconds)
        after = {s.engine.name: (s.worker_cpu_s(), s.server.cpu_s) for s in fleet.sites}
        took_s = time.monotonic() - began
        return {
            name: {
                "commands/s": spies[name].seen() / took_s,
                "CPU %": 100 * (after[name][0] - before[name][0]) / took_s,
                "Redis CPU %": 100 * (after[name][1] - before[name][1]) / took_s,
            }
            for name in before
        }


def killed(bench: Bench, engines: Sequence[Engine], limit_s: float) -> dict[str, float]:
    """Seconds from kill -9 of a worker to the next run of its task, another worker started at once.

    Infinite: not within the limit. Nobody but the engine itself hears of the death.
    """
    with Fleet(bench, engines) as fleet:
        say("kill: tasks begin")
        fleet.each(Site.work)
        fleet.each(lambda site: site.do("hold"))
        fleet.each(lambda site: site.until(1, START_S))
        died: dict[str, int] = {}
        for site in fleet.sites:
            site.kill_workers()
            died[site.engine.name] = time.monotonic_ns()
            site.work()
        deadline = time.monotonic() + limit_s
        while (left := deadline - time.monotonic()) > 0 and any(s.count() < 2 for s in fleet.sites):
            say(f"kill: {sum(s.count() < 2 for s in fleet.sites)} tasks are still lost, {left:.0f} s left")
            time.sleep(0.1)
        return {
            s.engine.name: (s.stamps()[1] - died[s.engine.name]) / 1e9 if s.count() > 1 else math.inf
            for s in fleet.sites
        }


def seen_death_s(bench: Bench) -> float:
    """The same for us when the death is seen, as the supervisor sees every death of an agent."""
    with Server() as server, Site(OURS, bench.environments, server) as site:
        pid = site.work()
        site.do("hold")
        site.until(1, START_S)
        watch = os.pidfd_open(pid)
        died_ns = time.monotonic_ns()
        site.kill_workers()
        select.select([watch], [], [])  # as the supervisor hears of it
        os.close(watch)
        site.work()
        site.do("death", f"w-{pid}")
        site.until(2, START_S)
        return (site.stamps()[1] - died_ns) / 1e9


# -- the whole agent ------------------------------------------------------------------------------------


def agent_per_s(count: int, rounds: int) -> tuple[float, float]:
    """`true` run by a bare loop and by an agent of a session, a second; see bench_cli.py."""
    with Installation() as machine:
        machine.ok(PROGRAM, "up")
        file = machine.root / "many.yaml"
        file.write_text(bench_cli.many_tasks(count))
        works = {
            "bare": lambda: bench_cli.bare_per_s(count),
            "agent": lambda: bench_cli.agent_per_s(machine, str(file)),
        }
        found = interleaved(rounds, works)
    return statistics.median(found["bare"]), statistics.median(found["agent"])
