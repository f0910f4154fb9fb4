"""Boot and recovery: `ai-infra up` beside the least that as many windows take, and what follows a kill -9.

The floor: a tmuxp session of as many windows, each of which imports redis and no more, until every import
is done. `up` begins as the floor does, without a tmux server, and ends when every window is READY, embedded
Redis included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shlex
import signal
import sys
import time
from pathlib import Path

import benchlib
from benchinstallation import PROGRAM, Installation, eventually
from benchlib import BenchError, Measure, Report, measure, ratio, say

from ai_infra.app.command import engine_now
from ai_infra.testing import wait_until_async

HEAL_TIMEOUT_S = 30.0
FLOOR_PROGRAM = "import pathlib, sys, time, redis; pathlib.Path(sys.argv[1]).touch(); time.sleep(600)"


def bench(args: argparse.Namespace) -> Report:
    """Boot rounds, then the deaths in one session."""
    machine = benchlib.machine_facts()
    with Installation() as warm:  # compiled files and the disk cache are there in every round
        windows = warm.windows
        warm.ok(sys.executable, "-c", "import redis")
        warm.ok(PROGRAM, "up")
        floor_s(windows)
    boots: dict[str, list[float]] = {"floor": [], "fresh": [], "again": []}
    for i in range(args.rounds):
        say(f"boot {i + 1} of {args.rounds}")
        boots["floor"].append(floor_s(windows))
        fresh_s, again_s = boot_s()
        boots["fresh"].append(fresh_s)
        boots["again"].append(again_s)
    with Installation() as machine_of_deaths:
        agents_s, supervisors_s = deaths(machine_of_deaths, args.rounds)
    measures = boot_measures(len(windows), boots) + death_measures(agents_s, supervisors_s)
    return Report(
        bench="boot", rounds=args.rounds, machine=machine, measures=measures, details={"windows": windows}
    )


def boot_measures(windows: int, boots: dict[str, list[float]]) -> list[Measure]:
    """Seconds and their ratios to the floor."""
    floor = measure(f"floor: {windows} windows of `import redis` by tmuxp", "s", boots["floor"])
    fresh = measure(f"up, new home, {windows} windows READY", "s", boots["fresh"], budget=5.0)
    again = measure("up, existing home", "s", boots["again"], budget=5.0)
    return [
        floor,
        fresh,
        ratio("up, new home / floor", fresh, floor, 2.5),
        again,
        ratio("up, existing home / floor", again, floor, 2.5),
    ]


def death_measures(agents_s: list[float], supervisors_s: list[float]) -> list[Measure]:
    """Seconds of recovery."""
    return [
        measure("kill -9 of an agent: its task runs again", "s", agents_s, budget=3.0),
        measure("kill -9 of the supervisor: another is READY", "s", supervisors_s, budget=3.0),
    ]


# -- boot -----------------------------------------------------------------------------------------------


def boot_s() -> tuple[float, float]:
    """Seconds of the first `up` of an installation, and of the next one after a `down`."""
    with Installation() as machine:
        fresh_s = machine.timed_s(PROGRAM, "up")
        machine.ok(PROGRAM, "down")
        return fresh_s, machine.timed_s(PROGRAM, "up")


def floor_s(windows: list[str]) -> float:
    """Seconds from `tmuxp load` to the last window's mark."""
    with Installation() as machine:
        marks = machine.root / "marks"
        marks.mkdir()
        session = machine.root / "floor.yaml"
        session.write_text(floor_session(windows, marks))
        tmuxp = Path(sys.prefix) / "bin" / "tmuxp"
        began = time.perf_counter()
        machine.ok(tmuxp, "load", "-y", "-d", "--no-progress", "-S", machine.socket, session)
        eventually(lambda: len(os.listdir(marks)) == len(windows), 60, "every window has imported redis")
        return time.perf_counter() - began


def floor_session(windows: list[str], marks: Path) -> str:
    """A tmuxp file (JSON is YAML) of windows that leave a mark after their import."""
    rows = [
        {
            "window_name": name,
            "window_shell": shlex.join([sys.executable, "-c", FLOOR_PROGRAM, str(marks / name)]),
            "panes": [None],
        }
        for name in windows
    ]
    return json.dumps({"session_name": "floor", "windows": rows})


# -- deaths ---------------------------------------------------------------------------------------------


def deaths(machine: Installation, rounds: int) -> tuple[list[float], list[float]]:
    """Agent and supervisor killed in turn; seconds of recovery of each."""
    machine.ok(PROGRAM, "up")
    agents_s, supervisors_s = [], []
    for i in range(rounds):
        agent = machine.agents[i % len(machine.agents)]
        say(f"death {i + 1} of {rounds}: {agent}, supervisor")
        agents_s.append(agent_death_s(machine, agent, i))
        supervisors_s.append(supervisor_death_s(machine))
        # A person's restart forgets earlier deaths: else each delay would be twice the one before.
        machine.ok(PROGRAM, "restart", agent)
        machine.ok(PROGRAM, "restart", "supervisor")
        asyncio.run(until_ready(machine, agent))
        asyncio.run(until_ready(machine, "supervisor"))
    return agents_s, supervisors_s


def agent_death_s(machine: Installation, agent: str, number: int) -> float:
    """Seconds from the kill of an agent to the next start of the command it was running."""
    starts = machine.root / f"starts-{number}"
    command = f"date +%s.%N >> {shlex.quote(str(starts))}; exec sleep 600"
    task = machine.ok(PROGRAM, "task", "submit", agent, "--attempts", "3", "--shell", command).strip()
    eventually(lambda: len(stamps(starts)) == 1, HEAL_TIMEOUT_S, "the task runs")
    killed_at = kill(machine, agent)
    eventually(lambda: len(stamps(starts)) == 2, HEAL_TIMEOUT_S, f"the task of the dead {agent} runs again")
    machine.ok(PROGRAM, "task", "cancel", task)
    machine.run(PROGRAM, "task", "wait", task)
    return stamps(starts)[1] - killed_at


def stamps(path: Path) -> list[float]:
    """POSIX times, one a whole line; none where there is no file yet."""
    text = path.read_text() if path.exists() else ""
    return [float(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def supervisor_death_s(machine: Installation) -> float:
    """Seconds from the kill of the supervisor to the READY of the next one."""
    old_pid = machine.pid("supervisor")
    killed_at = kill(machine, "supervisor")
    asyncio.run(until_ready(machine, "supervisor", not_pid=old_pid))
    return time.time() - killed_at


def kill(machine: Installation, window: str) -> float:
    """kill -9 of a window's process; the POSIX time of it."""
    pid = machine.pid(window)
    killed_at = time.time()
    os.kill(pid, signal.SIGKILL)
    return killed_at


async def until_ready(machine: Installation, window: str, not_pid: int | None = None) -> None:
    """Wait until the window's process says RUNNING. Raises BenchError."""
    async with engine_now(machine.settings) as engine:

        async def ready() -> bool:
            beat = (await engine.beats()).get(window)
            said = beat.payload if beat is not None else {}
            return said.get("state") == "RUNNING" and said["pid"] not in (None, not_pid)

        try:
            await wait_until_async(ready, HEAL_TIMEOUT_S, f"{window} is READY")
        except AssertionError as exc:
            raise BenchError(str(exc)) from None


if __name__ == "__main__":
    sys.exit(benchlib.main(__doc__ or "", bench, rounds=5))
