"""What waits, and for what: in one task, in lists, in the tree, in the head of the status; moves as lines."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from dashboard_data import HOSTILE, NOW, ago, assert_fits, snapshot, task, window, workflow

from ai_infra.core.ids import AgentName, TaskId, WorkflowId
from ai_infra.dashboard.agents import agent_table
from ai_infra.dashboard.header import pauses
from ai_infra.dashboard.moves import Wanted, as_it_stands, move_line
from ai_infra.dashboard.statusline import status_text
from ai_infra.dashboard.tables import status_table, task_detail, task_table, workflow_table, workflow_tree
from ai_infra.dashboard.waiting import deadline_words, due, kept_back, waits_for
from ai_infra.supervisor.snapshot import AgentLoad, PausedWorkflow, Snapshot
from ai_infra.tasks.task import State, TaskView
from ai_infra.tasks.views import Event

IN_5_MIN = NOW + timedelta(minutes=5)


def ready(kept_by: str, kept_why: str = "", **fields: Any) -> TaskView:
    return replace(task("r", State.READY, agent="qa"), kept_by=kept_by, kept_why=kept_why, **fields)


LOCK = ready("lock repo", "t-other")
FLOW = ready("flow", "the database is down")
AGENT = ready("agent", "the disk is full")
RATE = ready("rate", due_at=IN_5_MIN)
LATER = replace(task("r", State.PENDING), due_at=IN_5_MIN)
AGAIN = replace(task("r", State.PENDING, attempt=2, error="exit 1"), due_at=IN_5_MIN)


@pytest.mark.parametrize(
    ("one", "short", "long"),
    [
        (LOCK, "lock repo, held by t-other", "waits for lock repo, held by t-other"),
        (ready("lock repo"), "lock repo, just freed", "waits for lock repo, just freed"),
        (FLOW, "workflow paused: the database is down", "workflow paused: the database is down"),
        (AGENT, "qa paused: the disk is full", "qa paused: the disk is full"),
        (RATE, "rate of qa, next in 5m00s, at", "waits for rate of qa, next in 5m00s, at"),
        (ready(""), "", "waits for a free worker of qa"),
        (LATER, "due in 5m00s, at", "waits for its time: due in 5m00s, at"),
        (AGAIN, "due in 5m00s, at", "waits to be tried again (due in 5m00s, at"),
        (task("r", State.IN_PROGRESS), "", ""),
    ],
)
def test_what_a_task_waits_for(one: TaskView, short: str, long: str) -> None:
    assert kept_back(one, NOW).startswith(short)
    assert waits_for(one, NOW).startswith(long)
    assert bool(kept_back(one, NOW)) == bool(short)
    assert long in " ".join(str(task_detail(one, 200, now=NOW)).split())
    assert short in str(task_table([one], 200, now=NOW))
    assert short in str(workflow_tree(workflow(one), 200, now=NOW))


def test_a_time_that_is_near_or_far() -> None:
    assert due(NOW, NOW) == "now"
    assert due(None, NOW) == ""
    assert due(NOW + timedelta(days=40), NOW).startswith("in 40d00h, at 30 Dec ")
    assert " 2028 " in due(NOW + timedelta(days=500), NOW)


def test_a_deadline_is_shown_until_the_task_has_ended() -> None:
    spec = replace(task("r").spec, deadline_at=IN_5_MIN, locks=("repo", "db"), key="nightly")
    one = replace(task("r", State.IN_PROGRESS), spec=spec)
    text = " ".join(str(task_detail(one, 200, now=NOW)).split())
    for words in ("deadline in 5m00s, at ", "locks repo, db", "key nightly"):
        assert words in text
    assert "5m00s" in str(task_table([one], 200, now=NOW))
    assert "deadline in 5m00s" in str(workflow_tree(workflow(one), 200, now=NOW))
    ended = replace(task("r"), spec=spec)
    assert "in 5m" not in deadline_words(ended, NOW)
    assert "deadline" not in str(task_table([ended], 200, now=NOW))


# -- pauses -------------------------------------------------------------------------------------------------


def paused(reason: str = "the disk is full (ada, 20 Nov 12:00)") -> Snapshot:
    found = snapshot()
    held = AgentLoad(ready=3, paused=reason, rate_per_minute=120)
    flows = (PausedWorkflow(id="w-1", name="build", reason="the database is down"),)
    windows = [replace(w, load=held) if w.name in ("code", "data", "qa") else w for w in found.windows]
    return replace(found, windows=tuple(windows), paused_workflows=flows)


def test_the_status_says_what_is_paused_and_how_it_goes_on() -> None:
    assert pauses(paused()) == [
        "paused: code, data, qa: the disk is full (ada, 20 Nov 12:00); `ai-infra agent resume code data qa`",
        "paused: workflow build: the database is down; `ai-infra workflow resume w-1`",
    ]
    text = str(status_table(paused(), 200))
    assert pauses(paused())[0] in text
    assert "paused: the disk is full" in text  # what the idle one does
    assert "then paused" in text  # and the one that works
    assert paused().is_well == snapshot().is_well
    assert "paused" not in str(status_table(snapshot(), 200))
    assert pauses(snapshot()) == []


def test_many_pauses_do_not_fill_the_screen() -> None:
    many = tuple(PausedWorkflow(id=f"w-{i}", name="x", reason="y") for i in range(50))
    told = pauses(replace(snapshot(), paused_workflows=many))
    assert (len(told), told[-1]) == (7, "paused: 44 more workflows")


def test_the_status_line_shouts_it() -> None:
    assert "PAUSED: code, data, qa, 1 workflow" in status_text(paused())
    assert "PAUSED" not in status_text(snapshot())


def test_agents_are_listed_with_pause_and_rate() -> None:
    text = str(agent_table(paused(), {"code": "git, coding"}, 200))
    for words in ("code", "the disk is full (ada", "120/min", "git, coding", "RUNNING", "then paused"):
        assert words in text
    assert "monitor" not in text
    assert "paused" not in str(agent_table(snapshot(), {}, 200))
    assert str(agent_table(replace(snapshot(), windows=(window("monitor", 6),)), {})) == "no agents"


def test_a_paused_workflow_says_so() -> None:
    view = replace(workflow(task("a", State.READY)), paused="the database is down")
    assert "paused: the database is down" in str(workflow_tree(view, 200, now=NOW))
    assert "the database is down" in str(workflow_table([view], 200))
    ended = replace(workflow(task("a")), paused="x-y-z")
    assert "x-y-z" not in str(workflow_tree(ended, 200, now=NOW))


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_hostile_reasons_are_drawn_safely(width: int) -> None:
    found = paused(HOSTILE)
    flow = replace(workflow(ready("flow", HOSTILE), ready("lock x", HOSTILE)), paused=HOSTILE)
    pages = [
        status_table(found, width), agent_table(found, {"code": HOSTILE}, width),
        workflow_table([flow], width),
        workflow_tree(flow, width, now=NOW), task_table(flow.tasks, width, now=NOW),
        task_detail(flow.tasks[0], width, now=NOW),
    ]  # fmt: skip
    for page in pages:
        assert_fits(page.lines, width)


# -- moves --------------------------------------------------------------------------------------------------

MOVE = Event(
    id="1-0",
    task=TaskId("t-lint"),
    workflow=WorkflowId("w-1"),
    name="lint",
    agent=AgentName("code"),
    from_state=State.IN_PROGRESS,
    to_state=State.FAILED,
    attempt=2,
    worker=None,
    reason="exit 1\nmore",
    at=ago(0),
)


def test_a_move_is_one_line() -> None:
    words = move_line(MOVE).plain.split(maxsplit=1)[1]
    assert " ".join(words.split()) == "t-lint in progress → ✗ failed lint code attempt 2 exit 1"
    new = replace(MOVE, from_state=None, to_state=State.PENDING, attempt=0, reason="")
    assert "new → · pending" in move_line(new).plain
    assert "attempt" not in move_line(new).plain
    hostile = move_line(replace(MOVE, name=HOSTILE, reason=HOSTILE)).cut(80)
    assert_fits([hostile], 80)


def test_a_task_as_it_stands_is_no_move() -> None:
    event = as_it_stands(task("lint", State.FAILED, error="exit 1"))
    assert (event.from_state, event.to_state, event.at) == (State.FAILED, State.FAILED, ago(100))
    assert "→" not in move_line(event).plain
    assert as_it_stands(task("a", State.READY)).at == ago(290)


def test_which_moves_are_wanted() -> None:
    assert Wanted().has(MOVE)
    assert Wanted(task=TaskId("t-lint")).has(MOVE)
    assert Wanted(workflow=WorkflowId("w-1"), agent=AgentName("code")).has(MOVE)
    assert not Wanted(workflow=WorkflowId("w-1"), agent=AgentName("qa")).has(MOVE)
    assert not Wanted(task=TaskId("t-other")).has(MOVE)
