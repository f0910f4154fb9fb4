"""The command line: what each command takes beside `python -c pass`, and how fast tasks go through it.

Every command is a whole process, from its start to its end, in a session that is up and idle.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from typing import Any

import benchlib
from benchinstallation import PROGRAM, Installation
from benchlib import Measure, Report, interleaved, measure, ratio

AGENT = "code"
HANDOVER_BUDGET_MS = 2.0


def bench(args: argparse.Namespace) -> Report:
    """One session for all."""
    facts = benchlib.machine_facts()
    with Installation() as machine:
        machine.ok(PROGRAM, "up")
        commands = command_measures(machine, args.rounds)
        tasks = throughput_measures(machine, args.tasks, max(1, args.rounds // 5))
    return Report(
        bench="cli",
        rounds=args.rounds,
        machine=facts,
        measures=[*commands, *tasks],
        details={"tasks": args.tasks},
    )


def command_measures(machine: Installation, rounds: int) -> list[Measure]:
    """Milliseconds of each command, and its ratio to an interpreter that does nothing."""
    ended: list[dict[str, Any]] = []  # what --wait showed, for the engine's own share
    works = command_works(machine, ended)
    for work in works.values():  # compiled files are there in every round
        work()
    ended.clear()
    found = interleaved(rounds, works)
    budgets = {"ai-infra status": 250.0, "ai-infra --help": 120.0, "ai-infra version": 120.0}
    rows = [measure(name, "ms", samples, budget=budgets.get(name)) for name, samples in found.items()]
    handovers = [1000 * (seconds(view, "started_at") - seconds(view, "created_at")) for view in ended]
    return [
        *rows,
        *(ratio(f"{row.name} / {rows[0].name}", row, rows[0]) for row in rows[1:]),
        measure(
            "submit → start in the idle agent, by Redis' clock", "ms", handovers, budget=HANDOVER_BUDGET_MS
        ),
    ]


def command_works(machine: Installation, ended: list[dict[str, Any]]) -> dict[str, Callable[[], float]]:
    """What is measured, by the name it has in the table."""
    submit = (PROGRAM, "task", "submit", AGENT)

    def plain(*argv: object) -> Callable[[], float]:
        return lambda: 1000 * machine.timed_s(*map(str, argv))

    def submitted() -> float:
        began = time.perf_counter()
        task = machine.ok(*submit, "--", "true").strip()
        took_ms = 1000 * (time.perf_counter() - began)
        machine.ok(PROGRAM, "task", "wait", task)  # not measured: the next command finds an idle session
        return took_ms

    def waited() -> float:
        began = time.perf_counter()
        view = machine.ok(*submit, "--wait", "--json", "--", "true")
        took_ms = 1000 * (time.perf_counter() - began)
        ended.append(json.loads(view))
        return took_ms

    return {
        "python -c pass": plain(sys.executable, "-c", "pass"),
        "ai-infra --help": plain(PROGRAM, "--help"),
        "ai-infra version": plain(PROGRAM, "version"),
        "ai-infra status": plain(PROGRAM, "status"),
        "ai-infra task submit": submitted,
        "ai-infra task submit --wait": waited,
    }


def throughput_measures(machine: Installation, tasks: int, rounds: int) -> list[Measure]:
    """Tasks per second of one agent that only runs `true`, beside a bare loop that does so."""
    file = machine.root / "many.yaml"
    file.write_text(many_tasks(tasks))
    found = interleaved(
        rounds,
        {
            "bare": lambda: bare_per_s(tasks),
            "agent": lambda: agent_per_s(machine, str(file)),
        },
    )
    bare = measure(f"bare loop of {tasks} `true`", "/s", found["bare"])
    agent = measure(f"one agent, {tasks} tasks of `true`", "/s", found["agent"])
    return [
        bare,
        agent,
        measure("a task's own cost: agent - bare", "ms", [1000 / agent.median - 1000 / bare.median]),
    ]


def many_tasks(count: int) -> str:
    """A workflow (JSON is YAML) of independent tasks of one agent."""
    tasks = {f"n{i}": {"agent": AGENT, "run": [["true"]]} for i in range(count)}
    return json.dumps({"name": "many", "tasks": tasks})


def bare_per_s(count: int) -> float:
    """How often this machine can run `true`, one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        subprocess.run(["true"], check=True, stdin=subprocess.DEVNULL, env={"PATH": os.environ["PATH"]})
    return count / (time.perf_counter() - began)


def agent_per_s(machine: Installation, file: str) -> float:
    """From the first start to the last end, by Redis' clock. Raises BenchError when one fails."""
    tasks = json.loads(machine.ok(PROGRAM, "workflow", "run", file, "--json"))["tasks"]
    began_s = min(seconds(task, "started_at") for task in tasks)
    return len(tasks) / (max(seconds(task, "finished_at") for task in tasks) - began_s)


def seconds(view: dict[str, Any], key: str) -> float:
    """A time of a task's view as POSIX seconds."""
    return datetime.fromisoformat(view[key]).timestamp()


def options(parser: argparse.ArgumentParser) -> None:
    """Those of this benchmark."""
    parser.add_argument("--tasks", type=benchlib.positive, default=200, help="of the workflow; default: 200")


if __name__ == "__main__":
    sys.exit(benchlib.main(__doc__ or "", bench, rounds=15, options=options))
