"""The idle system: memory, CPU and wake-ups of every process for a while, and what Redis is asked meanwhile.

A wake-up is a moment in which a process leaves its sleep, however often it then waits for an answer; the
heartbeat is one. Sleeps are all voluntary context switches.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import benchlib
import psutil
from benchinstallation import PROGRAM, Installation
from benchlib import BenchError, Measure, Report, measure, say
from benchprocess import Reading, count_wakeups

from ai_infra.app.command import engine_now
from ai_infra.tasks.engine import Engine

RSS_BUDGET_MB = 45.0
CPU_BUDGET_PERCENT = 0.05  #: what is shown as 0.0 %
WAKEUPS_BUDGET = 1.0
COMMANDS_SHOWN = 12


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """One process of the session, over the time it was looked at."""

    process: str
    rss_mb: float
    pss_mb: float  #: shared pages count in part for each sharer: these add up
    uss_mb: float  #: what its end would free
    threads: int
    cpu_s: float
    cpu_percent: float
    sleeps: int
    wakeups: int
    wakeups_per_beat: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """Everything that one round saw."""

    footprints: Sequence[Footprint]
    redis_per_s: Mapping[str, float]  #: by command; what functions call inside counts, too


def bench(args: argparse.Namespace) -> Report:
    """One session, looked at in each round."""
    facts = benchlib.machine_facts()
    with Installation() as machine:
        machine.ok(PROGRAM, "up")
        beat_s = machine.settings.supervisor.heartbeat_s
        agents = machine.agents
        say(f"settling for {args.settle} s")
        time.sleep(args.settle)
        looks = asyncio.run(look_on(machine, args.rounds, args.seconds, beat_s))
    middle = [middle_of(rows) for rows in zip(*(look.footprints for look in looks), strict=True)]
    return Report(
        bench="footprint",
        rounds=args.rounds,
        machine=facts,
        measures=measures(looks, agents),
        details={
            "seconds": args.seconds,
            "heartbeat_s": beat_s,
            "processes": [asdict(row) for row in middle],
            "redis_commands_per_s": looks[-1].redis_per_s,
        },
        more=f"{process_table(middle)}\n\nRedis, per second: {commands_words(looks[-1].redis_per_s)}",
    )


# -- looking --------------------------------------------------------------------------------------------


async def look_on(machine: Installation, rounds: int, seconds: int, beat_s: float) -> list[Look]:
    """Look `rounds` times at the same processes. Raises BenchError when one of them ends."""
    found = []
    async with engine_now(machine.settings) as engine:
        watched = processes(machine)
        for i in range(rounds):
            say(f"round {i + 1} of {rounds}: {seconds} s")
            try:
                found.append(await look(engine, watched, seconds, beat_s))
            except (psutil.Error, OSError) as exc:
                raise BenchError(f"a process ended while it was looked at: {exc}") from exc
    return found


async def look(engine: Engine, watched: Mapping[str, psutil.Process], seconds: int, beat_s: float) -> Look:
    """Read, wait, read again."""
    asked = await command_counts(engine)
    before = {name: Reading.of(process) for name, process in watched.items()}
    wakeups = await count_wakeups(watched, seconds)
    after = {name: Reading.of(process) for name, process in watched.items()}
    asked_then = await command_counts(engine)
    rows = [
        footprint(name, process, before[name], after[name], wakeups[name], beat_s)
        for name, process in watched.items()
    ]
    return Look(footprints=rows, redis_per_s=rates(asked, asked_then, seconds))


def processes(machine: Installation) -> dict[str, psutil.Process]:
    """Every process of the session by its window, those that a window's process has started, too."""
    found: dict[str, psutil.Process] = {}
    for window in machine.windows:
        process = found[window] = psutil.Process(machine.pid(window))
        for child in process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                if not child.name().startswith("tmux"):  # a question to tmux: over in a moment
                    found[f"{window}: {child.name()}"] = child
    found["(tmux server)"] = psutil.Process(int(machine.tmux("display-message", "-p", "#{pid}")))
    return found


def footprint(
    name: str, process: psutil.Process, before: Reading, after: Reading, wakeups: int, beat_s: float
) -> Footprint:
    """What two readings say."""
    memory = process.memory_full_info()
    took_s, used_s = after.at_s - before.at_s, after.cpu_s - before.cpu_s
    beats = took_s // beat_s + 1  # as many may fall into the time
    return Footprint(
        process=name,
        rss_mb=round(memory.rss / 1e6, 1),
        pss_mb=round(memory.pss / 1e6, 1),
        uss_mb=round(memory.uss / 1e6, 1),
        threads=process.num_threads(),
        cpu_s=round(used_s, 4),
        cpu_percent=round(100 * used_s / took_s, 3),
        sleeps=after.sleeps - before.sleeps,
        wakeups=wakeups,
        wakeups_per_beat=round(wakeups / beats, 2),
    )


async def command_counts(engine: Engine) -> dict[str, int]:
    """Commands that Redis has run so far, but our question; subcommands count for their command."""
    found: dict[str, int] = {}
    for line in (await engine.connection.command("INFO", "commandstats")).splitlines():
        key, _, fields = line.partition(":")
        if key.startswith("cmdstat_") and key != "cmdstat_info":
            name = key.removeprefix("cmdstat_").partition("|")[0]
            found[name] = found.get(name, 0) + int(fields.partition("calls=")[2].partition(",")[0])
    return found


def rates(before: Mapping[str, int], after: Mapping[str, int], seconds: int) -> dict[str, float]:
    """Commands per second, most frequent first."""
    grown = {name: count - before.get(name, 0) for name, count in after.items()}
    ranked = sorted(grown.items(), key=lambda pair: -pair[1])
    return {name: round(count / seconds, 3) for name, count in ranked if count}


# -- saying it ------------------------------------------------------------------------------------------


def middle_of(rows: Sequence[Footprint]) -> Footprint:
    """The median of every figure of one process."""
    values = [asdict(row) for row in rows]
    names = [name for name in values[0] if name != "process"]
    middle = {name: statistics.median(value[name] for value in values) for name in names}
    return Footprint(process=rows[0].process, **middle)


def measures(looks: Sequence[Look], agents: Sequence[str]) -> list[Measure]:
    """The worst agent against the budgets, and the sums."""

    def worst(field: str) -> list[float]:
        return [max(getattr(r, field) for r in look.footprints if r.process in agents) for look in looks]

    def total(field: str) -> list[float]:
        return [sum(getattr(row, field) for row in look.footprints) for look in looks]

    return [
        measure("agent, the biggest: RSS", "MB", worst("rss_mb"), budget=RSS_BUDGET_MB),
        measure("agent, the busiest: CPU", "%", worst("cpu_percent"), budget=CPU_BUDGET_PERCENT),
        measure("agent, the busiest: wake-ups per heartbeat", "", worst("wakeups_per_beat"),
                budget=WAKEUPS_BUDGET),
        measure("all processes: RSS", "MB", total("rss_mb")),
        measure("all processes: PSS", "MB", total("pss_mb")),
        measure("all processes: USS", "MB", total("uss_mb")),
        measure("all processes: CPU", "%", total("cpu_percent")),
        measure("Redis: commands per second", "/s", (sum(look.redis_per_s.values()) for look in looks)),
    ]  # fmt: skip


#: head of the column → field of a Footprint, and digits
COLUMNS = {
    "RSS MB": ("rss_mb", 1),
    "PSS MB": ("pss_mb", 1),
    "USS MB": ("uss_mb", 1),
    "threads": ("threads", 0),
    "CPU s": ("cpu_s", 3),
    "CPU %": ("cpu_percent", 2),
    "sleeps": ("sleeps", 0),
    "wake-ups": ("wakeups", 0),
    "per beat": ("wakeups_per_beat", 1),
}


def process_table(rows: Sequence[Footprint]) -> str:
    """A line per process, and the sum."""
    columns = [[getattr(row, field) for row in rows] for field, _ in COLUMNS.values()]
    figures = [
        [f"{value:.{digits}f}" for value in (*column, sum(column))]
        for column, (_, digits) in zip(columns, COLUMNS.values(), strict=True)
    ]
    figures[-1][-1] = ""  # moments of several processes are no rate
    names = [*(row.process for row in rows), "sum"]
    body = [list(row) for row in zip(names, *figures, strict=True)]
    return benchlib.table([["process", *COLUMNS], *body], right=range(1, len(COLUMNS) + 1))


def commands_words(per_s: Mapping[str, float]) -> str:
    """The most frequent commands."""
    return ", ".join(f"{name} {rate:.3g}" for name, rate in list(per_s.items())[:COMMANDS_SHOWN])


def options(parser: argparse.ArgumentParser) -> None:
    """Those of this benchmark."""
    add = parser.add_argument
    add("--seconds", type=benchlib.positive, default=60, help="of each round; default: %(default)s")
    add("--settle", type=benchlib.positive, default=10, help="seconds before it; default: %(default)s")


if __name__ == "__main__":
    sys.exit(benchlib.main(__doc__ or "", bench, rounds=1, options=options))
