"""The process contract: one life at a time, two signals, and an end that is on record."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from ai_infra.core.durable import FileLock
from ai_infra.core.home import Home
from ai_infra.core.ids import WindowName
from ai_infra.core.process import Process, exit_path, last_exit, living_pid, lock_path
from ai_infra.testing import wait_until

#: Lives as `code`; what main() does is a word of the command line.
LIFE = """
import asyncio, sys
from pathlib import Path
from ai_infra.core.errors import AiInfraError, SystemProblem
from ai_infra.core.home import Home
from ai_infra.core.process import Process

def log(event, level="info", **fields):
    print(event, level, fields, flush=True)

async def main():
    deed = sys.argv[2]
    process.ready()
    if deed == "serve":
        await process.stop.wait()
    elif deed == "stubborn":
        await process.insist.wait()
        raise SystemProblem("insisted")
    elif deed == "bug":
        {}["nothing"]
    elif deed == "groups":
        async with asyncio.TaskGroup() as outer:
            async def inner():
                async with asyncio.TaskGroup() as group:
                    async def fail():
                        raise SystemProblem("deep inside")
                    group.create_task(fail())
            outer.create_task(inner())
    elif deed == "disk":
        raise OSError(5, "Input/output error")
    elif deed == "thread":
        import threading
        threading.Thread(target=lambda: {}["nothing"], name="aside").start()
        await process.stop.wait()
    elif deed == "exit":
        sys.exit(9)

home = Home(Path(sys.argv[1]))
process = Process("code", home, log)
try:
    sys.exit(process.run(main, wait_s=float(sys.argv[3])))
except AiInfraError as exc:
    print(exc, flush=True)
    sys.exit(exc.exit_code)
"""


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "home")
    found.ensure()
    return found


@contextmanager
def life(home: Home, deed: str = "serve", wait_s: float = 0) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", LIFE, str(home.root), deed, str(wait_s)], stdout=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def until(process: subprocess.Popen[str], word: str) -> str:
    """Read what it says until a line begins with this word."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(word):
            return line
    raise AssertionError(f"it ended without saying {word}")


def test_a_thread_that_fails_is_told_in_the_log(home: Home) -> None:
    with life(home, "thread") as process:
        line = until(process, "thread_failed")
    assert "KeyError('nothing')" in line


def ended(home: Home, process: subprocess.Popen[str]) -> dict[str, Any]:
    """The record of its end, once it has ended."""
    process.wait(10)
    found = last_exit(home, "code", process.pid)
    assert found is not None
    return found


def test_it_is_known_while_it_lives_and_no_longer(home: Home) -> None:
    assert living_pid(home, "code") is None
    with life(home) as process:
        until(process, "ready")
        assert living_pid(home, "code") == process.pid
        holder = json.loads(lock_path(home, "code").read_text())
        assert holder["worker"].startswith("code.")
        process.kill()
        process.wait()
        assert living_pid(home, "code") is None
        assert last_exit(home, "code", process.pid) is None  # kill -9 leaves no record


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_the_first_signal_asks(home: Home, number: signal.Signals) -> None:
    with life(home) as process:
        until(process, "ready")
        process.send_signal(number)
        assert number.name in until(process, "stop_asked")
        record = ended(home, process)
    assert (record["code"], record["reason"], process.returncode) == (0, f"asked by {number.name}", 0)


def test_the_second_signal_insists(home: Home) -> None:
    with life(home, "stubborn") as process:
        until(process, "ready")
        process.send_signal(signal.SIGTERM)
        until(process, "stop_asked")
        assert process.poll() is None
        process.send_signal(signal.SIGHUP)
        assert ended(home, process)["reason"] == "insisted"


@pytest.mark.parametrize(
    ("deed", "code", "reason"),
    [
        ("finish", 0, "finished"),
        ("bug", 1, "bug: KeyError('nothing') (trace in logs/code.jsonl)"),
        ("groups", 7, "deep inside"),
        ("disk", 1, "bug: OSError(5, 'Input/output error') (trace in logs/code.jsonl)"),
        ("exit", 1, "bug: SystemExit(9) (trace in logs/code.jsonl)"),
    ],
)
def test_every_end_is_on_record(home: Home, deed: str, code: int, reason: str) -> None:
    with life(home, deed) as process:
        record = ended(home, process)
    assert (record["code"], record["reason"], process.returncode) == (code, reason, code)


def test_the_trace_of_a_bug_is_logged(home: Home) -> None:
    with life(home, "bug") as process:
        assert "Traceback" in until(process, "crashed")


def test_one_life_at_a_time(home: Home) -> None:
    with life(home) as first:
        until(first, "ready")
        with life(home) as second:
            assert until(second, "code: already running").strip() == (
                f"code: already running as pid {first.pid}; `ai-infra restart code` replaces it"
            )
            assert second.wait(10) == 5
        assert living_pid(home, "code") == first.pid
        assert first.poll() is None


def test_a_lock_whose_file_was_removed_is_taken_again(home: Home) -> None:
    process = Process(WindowName("code"), home, lambda *words, **fields: None)

    async def main() -> None:
        process.keep_lock()
        for removed in (lock_path(home, "code"), home.run, home.root):
            if removed.is_dir():
                shutil.rmtree(removed)
            else:
                removed.unlink()
            assert living_pid(home, "code") is None
            process.keep_lock()
            assert living_pid(home, "code") == (None if not home.run.exists() else os.getpid())
        assert process.stop.is_set() is False

    process.run(main, wait_s=0)


def test_a_lock_that_another_has_by_now_ends_us(home: Home) -> None:
    said: list[str] = []
    process = Process(WindowName("code"), home, lambda event, *words, **fields: said.append(event))

    async def main() -> None:
        lock_path(home, "code").unlink()
        with life(home) as other:
            until(other, "ready")
            process.keep_lock()
            assert process.stop.is_set()
            assert living_pid(home, "code") == other.pid

    process.run(main, wait_s=0)
    assert said == ["started", "lock_lost", "exited"]


def test_the_next_life_waits_for_the_end_of_the_last(home: Home) -> None:
    with life(home) as first:
        until(first, "ready")
        with life(home, wait_s=20) as second:
            first.send_signal(signal.SIGTERM)
            until(second, "ready")
            assert living_pid(home, "code") == second.pid


def test_a_record_of_another_life_does_not_count(home: Home) -> None:
    exit_path(home, "code").write_text('{"pid": 4242, "code": 0, "reason": "finished"}')
    assert last_exit(home, "code", 4242) is not None
    assert last_exit(home, "code", 4243) is None
    exit_path(home, "code").write_text("{")
    assert last_exit(home, "code", 4242) is None


def test_a_lock_without_a_pid_names_nobody(home: Home) -> None:
    lock = FileLock(lock_path(home, "code"))
    assert lock.try_acquire()
    assert living_pid(home, "code") is None
    lock.write({"pid": os.getpid()})
    assert living_pid(home, "code") == os.getpid()
    lock.release()
    assert living_pid(home, "code") is None


def test_what_a_heartbeat_says(home: Home) -> None:
    process = Process(WindowName("code"), home, lambda *words, **fields: None)
    process.activity = {"task": "t-1"}
    said = process.payload()
    assert (said["pid"], said["state"], said["task"]) == (os.getpid(), "STARTING", "t-1")
    assert said["rss_bytes"] > 1_000_000
    assert said["cpu_percent"] is None
    process._cpu_mark = (process._cpu_mark[0] - 10, process._cpu_mark[1])
    percent = process.payload()["cpu_percent"]
    assert 0 <= percent < 100
    process.ready()
    assert process.payload()["state"] == "RUNNING"
    assert wait_until(process.changed.is_set)
    process.changed.clear()
    process.begin_stop()
    process.ready()  # asked to stop while it started
    assert process.payload()["state"] == "STOPPING"
    assert process.stop.is_set()
    assert process.changed.is_set()
