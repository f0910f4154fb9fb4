"""Logs as one stream: real files, real rotation by the real writer, real inotify."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from dashboard_data import HOSTILE, entry, in_loop

from ai_infra.core.errors import NotFound
from ai_infra.core.events import EventLog
from ai_infra.dashboard.logs import Recent, follow, format_entry, recent
from ai_infra.dashboard.tail import Tails
from ai_infra.testing import wait_until, wait_until_async


def write(path: Path, *entries: dict[str, object]) -> None:
    with open(path, "a") as file:
        file.writelines(json.dumps(one) + "\n" for one in entries)


@contextlib.asynccontextmanager
async def following(folder: Path, **options: object) -> AsyncIterator[list[str]]:
    """Lines as they come from follow(); it has begun, and ends cleanly."""
    lines: list[str] = []
    stop = asyncio.Event()
    options = {"colour": False, "width": lambda: None, **options}
    task = asyncio.create_task(follow(folder, stop, emit=lines.append, **options))  # type: ignore[arg-type]
    try:
        yield lines
    finally:
        stop.set()
        await asyncio.wait_for(task, 5)


async def until(lines: list[str], *words: str) -> None:
    async def there() -> bool:
        return all(any(word in line for line in lines) for word in words)

    await wait_until_async(there, 5, f"{words} in the log")


def test_an_entry_is_a_line_for_people() -> None:
    line = format_entry(entry("task_started", name="lint", attempt=1, task="t-1"))
    assert line.split(" ", 1)[1].split() == ["code", "lint", "started,", "attempt", "1", "(t-1)"]
    assert format_entry(entry("odd", level="error", n=1)).endswith("code       !! odd n=1")
    assert "\x1b[" in format_entry(entry("odd"), colour=True)
    assert len(format_entry(entry("odd", text="x" * 500), 60)) == 60
    assert format_entry({}).startswith("--:--:-- ?")


def test_a_hostile_entry_is_one_clean_line() -> None:
    line = format_entry(
        entry(HOSTILE, **{HOSTILE: HOSTILE, "at": HOSTILE, "process": HOSTILE, "level": HOSTILE})
    )
    assert line.isprintable()


def test_recent_entries_are_merged_by_time_filtered_and_bounded(tmp_path: Path) -> None:
    write(tmp_path / "code.jsonl", *(entry("c", 100 - i, n=i) for i in range(0, 100, 2)))
    write(tmp_path / "qa.jsonl", *(entry("q", 100 - i, n=i, process="qa") for i in range(1, 100, 2)))
    write(tmp_path / "qa.jsonl", entry("noise", level="debug"), entry("bad", level="error"))
    assert [one.get("n") for one in recent(tmp_path, lines=5)] == [96, 97, 98, 99, None]
    assert [one["event"] for one in recent(tmp_path, lines=2, level="error")] == ["bad"]
    assert [one["n"] for one in recent(tmp_path, ["code"], lines=2)] == [96, 98]
    assert recent(tmp_path, lines=0) == []
    assert recent(tmp_path / "absent") == []
    assert [one["event"] for one in recent(tmp_path, lines=2, level="debug")] == ["noise", "bad"]


def test_the_backlog_reaches_into_the_old_file_and_over_blocks(tmp_path: Path) -> None:
    write(tmp_path / "code.1.jsonl", *(entry("old", n=i, pad="x" * 1000) for i in range(300)))
    write(tmp_path / "code.jsonl", entry("new", n=300))
    assert [one["n"] for one in recent(tmp_path, lines=50)] == list(range(251, 301))
    assert len(Tails(tmp_path).backlog(150)) == 150


def test_rubbish_is_shown_and_a_cut_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    path.write_bytes(b'\x00\xff{"x\n[1]\n' + b"[" * 100_000 + b"\n" + b'{"event": "half')
    tails = Tails(tmp_path)
    assert [one["event"] for one in tails.backlog(10)] == ["unreadable_line"] * 3
    assert all(format_entry(one).isprintable() for one in recent(tmp_path))
    with open(path, "ab") as file:
        file.write(b' a line"}\n')
    assert [one["event"] for one in tails.new()] == ["half a line"]


def test_each_call_gives_what_is_new_through_rotations_and_an_emptied_file(tmp_path: Path) -> None:
    log, tails = EventLog(tmp_path / "code.jsonl", "code", max_bytes=2000), Tails(tmp_path)
    seen: list[int] = []
    written = 0
    chance = random.Random(4)
    for _ in range(200):
        for _ in range(chance.randrange(25)):  # up to two rotations between two looks
            log("tick", n=written)
            written += 1
        seen += [one["n"] for one in tails.new()]
    assert written > 1000
    assert seen == list(range(written))
    log.close()
    os.truncate(tmp_path / "code.jsonl", 0)
    tails.new()
    write(tmp_path / "code.jsonl", entry("after"))
    assert [one["event"] for one in tails.new()] == ["after"]
    tails.close()


def test_recent_keeps_the_last_and_reads_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "code.jsonl"
    feed = Recent(tmp_path, lines=3)
    assert feed.entries() == ()
    write(path, *(entry("e", n=i) for i in range(5)))
    assert [one["n"] for one in feed.entries()] == [2, 3, 4]
    write(path, entry("e", n=5), entry("e", n=6, level="debug"))
    assert [one["n"] for one in feed.entries()] == [3, 4, 5]
    feed.close()


@in_loop
async def test_following_shows_the_backlog_then_new_lines_new_files_and_rotations(tmp_path: Path) -> None:
    write(tmp_path / "code.jsonl", *(entry(f"old{i}") for i in range(5)))
    async with following(tmp_path, since_lines=2) as lines:
        await until(lines, "old3", "old4")
        assert not any("old2" in line for line in lines)
        write(tmp_path / "code.jsonl", entry("fresh"))
        await until(lines, "fresh")
        write(tmp_path / "newcomer.jsonl", entry("hello", process="newcomer"))
        await until(lines, "hello")
        os.replace(tmp_path / "code.jsonl", tmp_path / "code.1.jsonl")
        write(tmp_path / "code.jsonl", entry("turned"))
        await until(lines, "turned")
        assert len(lines) == len(set(lines)) == 1 + 5  # a line for the day, and each entry once


@in_loop
async def test_following_loses_nothing_of_a_writer_that_turns_its_file_over(tmp_path: Path) -> None:
    log = EventLog(tmp_path / "code.jsonl", "code", max_bytes=20_000)

    def work() -> None:
        for n in range(1500):
            log("tick", n=n)
            if n % 150 == 0:  # a file turned over twice in one look is gone, for anybody
                wait_until(lambda n=n: len(lines) >= n, 10, "it is followed")  # type: ignore[misc]

    log("begun")
    async with following(tmp_path) as lines:
        await until(lines, "begun")
        writer = threading.Thread(target=work)
        writer.start()
        await until(lines, "n=1499")
        writer.join()
    assert [line.rpartition("=")[2] for line in lines if "tick" in line] == [str(n) for n in range(1500)]


async def happens(event: asyncio.Event, within_s: float) -> bool:
    try:
        await asyncio.wait_for(event.wait(), within_s)
    except TimeoutError:
        return False
    return True


@in_loop
async def test_following_sleeps_until_something_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked, look = asyncio.Event(), Tails.new
    monkeypatch.setattr(Tails, "new", lambda self: (looked.set(), look(self))[1])
    async with following(tmp_path) as lines:
        write(tmp_path / "code.jsonl", entry("before"))
        await until(lines, "before")
        write(tmp_path / "code.jsonl", entry("once"))
        await until(lines, "once")
        for _ in range(3):  # the making of the file and its line may be told apart
            looked.clear()
            if not await happens(looked, 0.3):
                return
    pytest.fail("it goes on looking though nothing is written")


@in_loop
async def test_following_one_process_and_one_level(tmp_path: Path) -> None:
    async with following(tmp_path, names=["qa"], level="warning") as lines:
        write(tmp_path / "code.jsonl", entry("not_mine", level="error"))
        write(
            tmp_path / "qa.jsonl",
            entry("too_low", process="qa"),
            entry("mine", level="warning", process="qa"),
        )
        await until(lines, "mine")
    assert not any("not_mine" in line or "too_low" in line for line in lines)


@in_loop
async def test_following_where_there_is_no_folder_says_so(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="ai-infra up"):
        await follow(tmp_path / "absent", asyncio.Event())


@in_loop
async def test_a_folder_that_is_removed_ends_the_following_by_name(tmp_path: Path) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    write(folder / "code.jsonl", entry("a"))
    lines: list[str] = []
    task = asyncio.create_task(follow(folder, asyncio.Event(), emit=lines.append, colour=False))
    await until(lines, " a")
    shutil.rmtree(folder)
    folder.mkdir()  # another one of that name is not watched
    with pytest.raises(NotFound, match="logs: was removed"):
        await asyncio.wait_for(task, 5)


@in_loop
async def test_a_new_day_is_told(tmp_path: Path) -> None:
    write(tmp_path / "code.jsonl", {**entry("a"), "at": "2026-01-01T12:00:00.000Z"})
    write(tmp_path / "code.jsonl", {**entry("b"), "at": "2026-01-02T12:00:00.000Z"})
    async with following(tmp_path) as lines:
        await until(lines, " b")
    days = [line for line in lines if line.startswith("──")]
    assert days == ["── Thursday 01 January 2026 ──", "── Friday 02 January 2026 ──"]


def test_a_terminal_that_is_not_utf8_gets_escapes_not_a_traceback() -> None:
    code = "from ai_infra.dashboard.logs import print_out; print_out('ok \\u2713 \\u65e5')"
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=20, check=True)
    assert done.stdout == b"ok \\u2713 \\u65e5\n"
