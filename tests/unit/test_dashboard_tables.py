"""Tables, trees and details fit any width, say what matters in words, and take hostile names."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest
from dashboard_data import HOSTILE, NOW, assert_fits, checkup, snapshot, task, window, workflow

from ai_infra.core.ids import TaskId
from ai_infra.core.process import ProcessState
from ai_infra.dashboard.header import problems
from ai_infra.dashboard.source import shown_workflows
from ai_infra.dashboard.tables import status_table, task_detail, task_table, workflow_table, workflow_tree
from ai_infra.dashboard.tree import workflow_head
from ai_infra.dashboard.words import bar, command_lines, duration, size
from ai_infra.supervisor.snapshot import Health
from ai_infra.tasks.task import Expect, State, TaskView, Undoing, WorkflowView

WIDTHS = (20, 40, 60, 80, 120, 200)


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("hostile", [False, True])
def test_every_view_fits_every_width(width: int, hostile: bool) -> None:
    name = HOSTILE if hostile else "lint"
    tasks = [*checkup().tasks, task(name, State.FAILED, error=HOSTILE, result={"output_tail": HOSTILE * 9})]
    flow = workflow(*tasks, name=name)
    assert_fits(status_table(snapshot(hostile=hostile), width).lines, width)
    assert_fits(task_table(tasks, width, now=NOW).lines, width)
    assert_fits(workflow_table([flow], width).lines, width)
    assert_fits(workflow_tree(flow, width, now=NOW).lines, width)
    for one in tasks:
        assert_fits(task_detail(one, width, now=NOW).lines, width)


def test_status_shows_every_window_its_state_and_its_work() -> None:
    text = str(status_table(snapshot(), 120))
    assert all(one.name in text for one in snapshot().windows)
    assert "BACKOFF 3s" in text
    assert "killed by signal 9" in text
    data = next(line for line in text.splitlines() if "data" in line)
    assert "measures attempt 2 1m15s" in data


def test_narrow_status_keeps_window_and_state() -> None:
    text = str(status_table(snapshot(), 30))
    assert "research" in text
    assert "BACKOFF 3s" in text
    assert "failed/h" not in text


def test_a_problem_says_what_to_do() -> None:
    fatal = window("qa", 5, state=ProcessState.FATAL, health=Health.OFFLINE, last_exit="exit 1: bug")
    found = problems(snapshot(windows=(fatal,), durable=False, problems=("tmux is unclear: timeout",)))
    assert "ai-infra restart qa" in found[0]
    assert "exit 1: bug" in found[0]
    assert found[1] == "tmux is unclear: timeout"
    assert "appendfsync always" in found[2]
    assert not problems(snapshot())
    assert "ai-infra doctor" in problems(snapshot(redis_ok=False, durable=False))[0]


@pytest.mark.parametrize("up", [True, False])
def test_a_session_without_any_process_can_be_drawn(up: bool) -> None:
    empty = snapshot(up=up, windows=(), redis_ok=False, durable=False)
    assert ("starting" if up else "down") in str(status_table(empty, 80))


def test_task_table_says_how_it_went() -> None:
    rows = str(task_table(checkup().tasks, 160, now=NOW)).splitlines()
    assert rows[0].split()[:3] == ["id", "state", "name"]
    failed = next(row for row in rows if "t-lint" in row)
    assert "✗ failed" in failed
    assert "command 1 of 2 exit 1: ruff check" in failed
    assert "2/4" in next(row for row in rows if "t-measures" in row)
    assert str(task_table([], 80)) == "no tasks"
    assert str(workflow_table([], 80)) == "no workflows"


def test_a_task_that_succeeded_in_the_end_shows_no_old_error() -> None:
    assert "exit 1" not in str(task_table([task(error="exit 1", attempt=2)], 160, now=NOW))


def test_detail_tells_why_what_and_how_again() -> None:
    result = {
        "exit_codes": [0, 1],
        "durations_s": [0.2, 3.0],
        "checks": [{"what": "file out.json", "ok": False, "evidence": "it is not there"}],
        "output_tail": "first\n\x1b[31mred\x1b[0m\n",
        "output_bytes": 12_000,
        "log": "/x/t-lint.1.log",
    }
    text = str(
        task_detail(task("lint", State.FAILED, error="command 2 of 2 exit 1: wc", result=result), now=NOW)
    )
    for words in ("command 2 of 2 exit 1: wc", "exit 1 3.0s", "git log --oneline",
                  "✗ file out.json: it is not there", "│ first", "│ red", "/x/t-lint.1.log",
                  "attempt  1 of 4", "ran 1m40s",
                  "ai-infra task retry t-lint"):  # fmt: skip
        assert words in text
    assert "retry" not in str(task_detail(task(), now=NOW))


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (
            task("r", State.BLOCKED, needs=("a", "b", "c"), waits=("a", "b")),
            "waits for 2 of 3 upstreams: t-a, t-b",
        ),
        (task("r", State.READY, agent="qa"), "waits for a free worker of qa"),
        (task("r", State.PENDING, attempt=2, error="exit 1"), "waits to be tried again after: exit 1"),
        (task("r", State.PENDING), "held until its submit is complete"),
        (task("r", State.IN_PROGRESS, attempt=2, error="lease ended"), "runs it; before: lease ended"),
        (task("r", State.ASSIGNED), "which has not begun"),
        (task("r", State.CANCELLED, error="upstream t-a FAILED"), "upstream t-a FAILED"),
    ],
)
def test_every_state_says_why(one: TaskView, words: str) -> None:
    assert words in " ".join(str(task_detail(one, 200, now=NOW)).split())


@pytest.mark.parametrize(
    "rubbish",
    [
        {"exit_codes": "no"},
        {"checks": [1, {"what": None}]},
        {"exit_codes": [None], "durations_s": ["x"]},
        {"output_tail": 7, "output_bytes": "many"},
        {},
    ],
)
def test_a_result_of_any_shape_can_be_drawn(rubbish: dict[str, object]) -> None:
    assert "lint" in str(task_detail(task("lint", State.FAILED, result=rubbish), now=NOW))


def test_the_tree_shows_each_task_once_below_what_it_waits_for() -> None:
    lines = str(workflow_tree(checkup(), 120, now=NOW)).splitlines()
    names = [line.strip("├─└│ ").split()[0] for line in lines[1:] if "command 1" not in line]
    assert names == ["inventory", "measures", "report", "lint", "tests", "machine"]
    assert lines[3].startswith("│  └─ report")
    assert "and needs inventory, lint, tests, machine" in lines[3]
    assert lines[5] == "│    command 1 of 2 exit 1: ruff check"
    assert "3/6" in lines[0]
    assert "1 failed" in lines[0]


def test_in_few_lines_the_tree_shows_what_runs_and_what_failed() -> None:
    lines = str(workflow_tree(checkup(), 80, height=5, now=NOW)).splitlines()
    assert len(lines) == 5
    assert "measures" in lines[1]
    assert "lint" in lines[2]
    assert lines[4] == "… 4 more tasks"


def test_a_chain_of_thousands_and_a_cycle_can_be_drawn() -> None:
    chain = [task(f"n{i}", State.BLOCKED, needs=(f"n{i - 1}",) if i else ()) for i in range(5000)]
    began = time.process_time()
    page = workflow_tree(workflow(*chain), 100, height=30, now=NOW)
    assert time.process_time() - began < 5
    assert len(page.lines) == 30
    assert len(workflow_tree(workflow(*chain), 100, now=NOW).lines) == 5001
    cycle = workflow(task("a", needs=("b",)), task("b", needs=("a",)), task("c", needs=("elsewhere",)))
    assert len(workflow_tree(cycle, 80, now=NOW).lines) == 4
    twice = task("a")
    assert len(workflow_tree(workflow(replace(twice, waits=(TaskId("t-a"),))), 80, now=NOW).lines) == 2


def test_numbers_as_people_read_them() -> None:
    seconds = (None, -1, 0.42, 12.7, 200, 7500, 273_600)
    assert [duration(s) for s in seconds] == ["", "0.0s", "0.4s", "12s", "3m20s", "2h05m", "3d04h"]
    assert [size(b) for b in (None, 512, 1536, 42 * 2**20, 2**40)] == ["", "512", "1.5K", "42M", "1.0T"]
    assert bar(0, 3, 6) + bar(2, 3, 6) + bar(3, 3, 6) == "░░░░░░████░░██████"
    assert bar(999, 1000, 10).endswith("░")


def test_an_argv_is_shown_as_a_shell_would_take_it() -> None:
    one = task("lint", run=(("grep", "a b", "x"), "echo $HOME | wc"))
    text = str(task_detail(one, 100, now=NOW))
    assert "grep 'a b' x" in text
    assert "echo $HOME | wc" in text
    assert Expect(file="x").check == "file"


def undone(**changes: Any) -> WorkflowView:
    steps = [task("one"), task("two", State.FAILED), task("undo-one", State.READY)]
    fields: dict[str, Any] = {"why": "two failed", "begun": True}
    return replace(workflow(*steps), undo=Undoing(**(fields | changes)))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"begun": False}, ["will be undone when what runs has ended, because two failed"]),
        ({"waiting": ("one",)}, ["is being undone, because two failed", "to be undone: one"]),
        ({"undone": ("b", "a")}, ["was undone, because two failed", "undone: b, a"]),
        ({}, ["nothing had to be undone"]),
        (
            {"not_undone": {"c": "its undo failed: exit\x1b 3", "d": "has no undo"}},
            ["could not be undone: c (its undo failed: exit\\x1b 3), d (has no undo)"],
        ),
        ({"half_done": ("two",)}, ["may have left something when it ended: two"]),
        ({"undone": (HOSTILE,)}, ["was undone"]),
        ({"undone": tuple(f"s{i}" for i in range(60))}, ["s49 and 10 more"]),
    ],
)
def test_what_is_undone_stands_below_the_head(changes: dict[str, Any], words: list[str]) -> None:
    view = undone(**changes)
    shown = str(workflow_tree(view, 400, now=NOW))
    for text in words:
        assert text in shown
    assert len(workflow_tree(view, 40, height=4, now=NOW).lines) <= 4
    assert_fits(workflow_tree(view, 40, now=NOW).lines, 40)


@pytest.mark.parametrize(
    ("changes", "counts", "words"),
    [
        ({"begun": False}, {State.IN_PROGRESS: 1}, "will be undone"),
        ({}, {State.READY: 1}, "is being undone"),
        ({}, {State.COMPLETED: 1}, "was undone"),
    ],
)
def test_a_listed_workflow_says_that_it_is_undone(
    changes: dict[str, Any], counts: dict[State, int], words: str
) -> None:
    listed = replace(undone(**changes), tasks=(), counts=counts)
    assert words in str(workflow_head(listed, 120, NOW))
    assert words in str(workflow_table([listed], 120))
    assert words not in str(workflow_head(undone(**changes), 120, NOW))  # the tree says more below


def test_the_monitor_shows_what_failed_or_was_undone_below_what_is_open() -> None:
    ended = {State.COMPLETED: 1}
    good, failed = (
        replace(workflow(task("x")), counts=ended, state=state) for state in (State.COMPLETED, State.FAILED)
    )
    taken_back, open_ = replace(undone(), counts=ended), workflow(task("y", State.READY))
    assert shown_workflows([good, failed, taken_back, open_]) == (open_, failed, taken_back)


def test_a_script_is_shown_with_its_lines() -> None:
    script = "cd /srv\nif true; then\n  echo \x1b[2J\nfi\n"
    one = task("a", State.READY)
    one = replace(one, spec=replace(one.spec, run=(script, "echo next"), undo=("rm x\nrm y",)))
    lines = [line.strip() for line in str(task_detail(one, 100, now=NOW)).splitlines()]
    at = lines.index("run      cd /srv")
    assert lines[at : at + 7] == [
        "run      cd /srv", "if true; then", r"echo \x1b[2J", "fi", "echo next", "undo     rm x", "rm y",
    ]  # fmt: skip
    long = "\n".join(f"echo {i}" for i in range(40))
    assert command_lines(long)[-2:] == ["echo 11", "… 28 more lines"]
