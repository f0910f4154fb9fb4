"""Following a workflow: in place on a terminal, a line per move elsewhere, through a Redis that goes away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import pytest
from dashboard_data import HOSTILE, in_loop, task, workflow

from ai_infra.core.errors import ConnectorUnavailable
from ai_infra.dashboard import live
from ai_infra.dashboard.ink import ink
from ai_infra.dashboard.live import MovesView, TreeView, follow_workflow
from ai_infra.dashboard.screen import Block
from ai_infra.tasks.task import State, WorkflowView

STEPS = (
    (State.READY, State.BLOCKED),
    (State.IN_PROGRESS, State.BLOCKED),
    (State.COMPLETED, State.IN_PROGRESS),
    (State.COMPLETED, State.FAILED),
)


def states() -> list[WorkflowView]:
    return [
        workflow(task("a", a), task("b", b, needs=("a",), error="exit 3" if b is State.FAILED else None))
        for a, b in STEPS
    ]


async def reads(found: Iterator[WorkflowView | Exception]) -> WorkflowView:
    view = next(found)
    if isinstance(view, Exception):
        raise view
    return view


async def at_once(_: float) -> None:
    pass


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAUSE_S", 0.0)
    monkeypatch.setattr(live, "_AWAY_RETRY_S", 0.0)


@in_loop
async def test_elsewhere_each_move_is_a_line_and_the_end_is_told() -> None:
    lines: list[str] = []
    found = iter(states())
    view = await follow_workflow(lambda: reads(found), at_once, view=MovesView(lines.append))
    assert view.state is State.FAILED
    said = [line.partition("  ")[2] for line in lines[1:-1]]
    assert said == [
        "● in progress  a  research",
        "✓ completed  a  research  1m40s",
        "● in progress  b  research",
        "✗ failed  b  research  1m40s  exit 3",
    ]
    assert "0/2" in lines[0]
    assert "2/2  1 failed" in lines[-1]


@in_loop
async def test_a_redis_that_comes_back_in_time_only_delays() -> None:
    lines: list[str] = []
    away = ConnectorUnavailable("Redis does not answer")
    found = iter([states()[0], away, away, states()[-1]])
    await follow_workflow(lambda: reads(found), at_once, view=MovesView(lines.append))
    assert sum("Redis does not answer" in line for line in lines) == 1
    assert "failed  b" in "\n".join(lines)


@in_loop
async def test_a_redis_that_stays_away_ends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PATIENCE_S", 0.05)

    async def read() -> WorkflowView:
        raise ConnectorUnavailable("Redis does not answer")

    with pytest.raises(ConnectorUnavailable):
        await follow_workflow(read, at_once, view=MovesView(lambda _: None))


@in_loop
async def test_a_redis_that_leaves_while_we_wait_for_changes_is_no_end() -> None:
    async def changes(_: float) -> None:
        raise ConnectorUnavailable("gone")

    found = iter(states())
    view = await follow_workflow(lambda: reads(found), changes, view=MovesView(lambda _: None))
    assert view.state is State.FAILED


@in_loop
async def test_stop_ends_it_while_nothing_moves() -> None:
    stop = asyncio.Event()

    async def changes(_: float) -> None:
        stop.set()
        await asyncio.Event().wait()

    async def read() -> WorkflowView:
        return states()[0]

    view = await follow_workflow(read, changes, stop, view=MovesView(lambda _: None))
    assert view.state is not State.FAILED


def drawn(*frames: list[str]) -> str:
    """What Block writes for some drawings, one after the other."""
    reader, writer = os.pipe()
    try:
        block = Block(writer, colour=False)
        for frame in frames:
            block.draw([ink(text) for text in frame])
        return os.read(reader, 1 << 16).decode()
    finally:
        os.close(reader)
        os.close(writer)


def test_a_block_is_drawn_over_itself_and_only_when_it_changed() -> None:
    once = drawn(["a", "b"])
    assert once.startswith("\ra")
    assert drawn(["a", "b"], ["a", "b"]) == once
    again = drawn(["a", "b"], ["c"])[len(once) :]
    assert again.startswith("\x1b[2A\rc")
    assert again.endswith("\x1b[J")  # the second line is gone


def test_a_block_never_wraps_nor_scrolls_away() -> None:
    reader, writer = os.pipe()
    try:
        view = TreeView(Block(writer, colour=False))
        view.show(workflow(*(task(f"{HOSTILE}{i}", State.READY) for i in range(100))))
        lines = os.read(reader, 1 << 16).decode().replace("\x1b[0m\x1b[K", "").strip("\r\x1b[J").splitlines()
    finally:
        os.close(reader)
        os.close(writer)
    assert len(lines) == 23
    assert max(map(len, lines)) <= 79
    assert "more tasks" in lines[-1]
