"""What an agent and the supervisor print in their windows."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import pytest
from dashboard_data import BIDI, HOSTILE, entry, task
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.dashboard.pane import LAST_LINES, AgentPane, OutputView, SupervisorPane
from ai_infra.dashboard.words import PHRASES
from ai_infra.tasks.task import State


class Window:
    """An agent's pane, its clock, and what it printed."""

    def __init__(self, lines_per_s: int = 50) -> None:
        self.lines: list[str] = []
        self.now_s = 0.0
        self.pane = AgentPane(
            self.lines.append,
            colour=False,
            lines_per_s=lines_per_s,
            task_logs=Path("/logs"),
            now=lambda: self.now_s,
        )

    @property
    def output(self) -> list[str]:
        return [line.removeprefix("  │ ") for line in self.lines if line.startswith("  │")]


def test_a_task_from_start_to_end() -> None:
    window = Window()
    window.pane.idle({"ready": 0, "blocked": 2})
    window.pane.idle()
    window.pane.task_started(task("lint").spec, 2)
    window.pane.command_started("cd /srv\nruff check .\n")
    window.pane.output(b"all good\nunfinished")
    window.pane.command_ended(1, 3.2)
    window.pane.check_result("exit code 0", False, "exit code 1")
    window.pane.task_ended(task("lint").spec, "FAILED", "exit 1", 3.4)
    said = [line.split("  ", 1)[1] if line[2:3] == ":" else line for line in window.lines]
    assert said == [
        "waiting for work  2 blocked",
        "▶ lint  t-lint  attempt 2 of 4",
        "  counts what there is",
        "  $ cd /srv",
        "    ruff check .",
        "  │ all good",
        "  │ unfinished",
        "  ✗ exit 1  3.2s",
        "  ✗ exit code 0: exit code 1",
        "lint  ✗ failed  3.4s  exit 1",
    ]


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_output_is_the_same_however_it_is_split(data: bytes, cuts: list[int]) -> None:
    def shown(*chunks: bytes) -> list[str]:
        lines: list[str] = []
        view = OutputView(lines.append, 10_000, lambda: 0.0)
        for chunk in chunks:
            view.feed(chunk)
        view.end()
        return lines

    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    parts = [data[a:b] for a, b in itertools.pairwise(edges)]
    whole = shown(data)
    assert shown(*parts) == whole
    assert all(line.isprintable() for line in whole)
    assert len(whole) == data.count(b"\n") + bool(data.rpartition(b"\n")[2])


def test_a_command_cannot_touch_the_terminal() -> None:
    window = Window()
    window.pane.output(HOSTILE.encode() + b"\n\xff\xfe raw \x9b31m\n\x1b]52;c;" + b"A" * 9000 + b"\n")
    window.pane.output("".join(BIDI).encode())
    window.pane.command_ended(0, 0.1)
    assert all(line.isprintable() for line in window.lines)
    assert any(r"\u202egnp.exe" in line for line in window.output)
    assert any(r"\xff\xfe raw \x9b31m" in line for line in window.output)


def test_a_flood_is_counted_and_its_end_is_shown() -> None:
    window = Window(lines_per_s=10)
    window.pane.task_started(task("lint").spec, 1)
    numbers = iter(range(1, 100_001))
    for _ in range(100):
        window.pane.output(b"".join(b"line %d\n" % next(numbers) for _ in range(1000)))
    assert window.output == [f"line {i}" for i in range(1, 11)]
    window.pane.command_ended(0, 1.0)
    last = [f"line {i}" for i in range(100_001 - LAST_LINES, 100_001)]
    assert window.output[10:] == ["… 99985 lines not shown (whole log: /logs/t-lint.1.log)", *last]


def test_after_a_flood_the_next_second_shows_lines_again() -> None:
    window = Window(lines_per_s=2)
    window.pane.output(b"1\n2\n3\n4\n5\nsix")
    window.now_s = 1.0
    window.pane.output(b"th\n7\n8\n")
    window.pane.command_ended(0, 1.0)
    assert window.output == ["1", "2", "… 3 lines not shown", "sixth", "7", "8"]


def test_a_line_without_end_is_bounded() -> None:
    window = Window()
    for _ in range(200):
        window.pane.output(b"x" * 65536)
    assert len(window.pane._output._part) < 10_000
    window.pane.output(b"\nnext\n")
    assert len(window.output[0]) < 600
    assert window.output[0].endswith("…")
    assert window.output[1] == "next"


def test_a_progress_bar_shows_its_last_state() -> None:
    window = Window()
    for percent in range(101):
        window.pane.output(b"\r%3d%% " % percent + b"#" * 60)
    window.pane.output(b"\n")
    assert window.output == ["100% " + "#" * 60]


def test_every_known_event_has_words() -> None:
    import string

    fields = {
        name: "7" for text in PHRASES.values() for _, name, _, _ in string.Formatter().parse(text) if name
    }
    lines: list[str] = []
    pane = SupervisorPane(lines.append, colour=False)
    for event in PHRASES:
        pane.event(entry(event, **fields))
    assert len(lines) == len(PHRASES)
    assert not [line for line in lines if "=" in line]


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            entry("window_died", window="qa", how="killed by signal 9", restart_in_s=1.0),
            "qa died (killed by signal 9); starts again in 1 s",
        ),
        (
            entry("window_fatal", window="qa", how="exit 1", restarts=5, clear="ai-infra restart qa"),
            "qa is FATAL after 5 restarts (exit 1); `ai-infra restart qa` starts it again",
        ),
        (entry("window_died", window="qa"), "window_died window=qa"),
        (
            entry(
                "task_ended",
                task="t-1",
                name="lint",
                attempt=1,
                state="PENDING",
                reason="exit 1",
                duration_s=0.5,
            ),
            "lint will be tried again, attempt 1, 0.5 s, exit 1 (t-1)",
        ),
        (
            entry("something_new", count=3, names=["a", "b"], none=None),
            "something_new count=3 names=a, b",
        ),
        (
            entry("tasks_released", agent="qa", tasks=[f"t-{i}" for i in range(9)]),
            "qa died: its tasks are ready again: t-0, t-1, t-2, t-3, t-4 and 4 more",
        ),
    ],
)
def test_decisions_are_one_readable_line(found: dict[str, object], words: str) -> None:
    lines: list[str] = []
    SupervisorPane(lines.append, colour=False).event(found)
    assert [line.split("  ", 1)[1] for line in lines] == [words]


@given(
    st.dictionaries(st.text(), st.recursive(st.none() | st.integers() | st.text(), st.lists, max_leaves=4))
)
def test_any_entry_at_all_is_one_clean_line(found: dict[str, object]) -> None:
    lines: list[str] = []
    SupervisorPane(lines.append, colour=False).event({"event": "ready", **found})
    assert len(lines) <= 1
    assert all(line.isprintable() for line in lines)


def test_an_agents_window_says_a_thing_once() -> None:
    window = Window()
    window.pane.event(entry("task_started", task="t-1", name="lint", attempt=1))
    window.pane.event(entry("noise", level="debug"))
    assert window.lines == []
    window.pane.event(entry("redis_away", level="warning", reason="timeout"))
    assert "Redis does not answer, waiting for it: timeout" in window.lines[0]


def test_a_closed_window_stops_nobody() -> None:
    code = "import os; from ai_infra.dashboard.pane import AgentPane; p = AgentPane(); os.close(1); p.idle()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, b"")


def test_agents_load_no_drawing_library() -> None:
    code = (
        "import sys; before = set(sys.modules); import ai_infra.dashboard.pane; "
        "print(*sorted({m.split('.')[0] for m in set(sys.modules) - before} - set(sys.stdlib_module_names)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True
    )
    assert done.stdout.split() == ["ai_infra"]
    assert State.FAILED == "FAILED"
