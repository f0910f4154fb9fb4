"""The end of a task's log where no result holds it, and the list of dead letters."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId
from ai_infra.dashboard.dead import dead_table
from ai_infra.dashboard.tasklog import TAIL_BYTES, with_output
from ai_infra.tasks.task import State, TaskSpec, TaskView

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SPEC = TaskSpec(id=TaskId("t-1"), name="one", agent=AgentName("code"), run=("true",))


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path)
    found.ensure()
    return found


def view(attempt: int = 3, state: State = State.FAILED, result: dict[str, Any] | None = None) -> TaskView:
    return TaskView(
        spec=SPEC,
        state=state,
        attempt=attempt,
        worker=None,
        created_at=NOW,
        ready_at=None,
        started_at=None,
        finished_at=NOW,
        error="it broke",
        result=result,
        open_needs=0,
        waits=(),
    )


def write(home: Home, attempt: int, text: str) -> Path:
    path = home.task_logs / f"t-1.{attempt}.log"
    path.write_text(text)
    return path


def tail(home: Home, task: TaskView) -> Any:
    return (with_output(home, task).result or {}).get("output_tail")


def test_the_last_run_that_wrote_something(home: Home) -> None:
    assert tail(home, view()) is None
    write(home, 1, "first")
    path = write(home, 2, "second")
    write(home, 3, "")
    earlier = {"log": f"{home.task_logs}/t-1.1.log", "output_tail": "first", "exit_codes": [1]}
    assert with_output(home, view(result=earlier)).result == {
        "output_tail": "second", "output_bytes": 6, "log": str(path)
    }  # fmt: skip


def test_a_result_of_the_last_run_stays(home: Home) -> None:
    write(home, 3, "forged")
    handed_in = view(result={"log": f"{home.task_logs}/t-1.3.log", "output_tail": "true"})
    assert with_output(home, handed_in) is handed_in
    done = view(state=State.COMPLETED)
    assert with_output(home, done) is done


def test_only_the_end_is_read(home: Home) -> None:
    write(home, 3, "x" * 1_000_000 + "the end")
    found = with_output(home, view()).result
    assert found is not None
    assert (len(found["output_tail"]), found["output_bytes"]) == (TAIL_BYTES, 1_000_007)
    assert found["output_tail"].endswith("the end")


def test_what_a_task_put_in_its_place_is_not_followed(home: Home, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    (home.task_logs / "t-1.3.log").symlink_to(secret)
    os.mkfifo(home.task_logs / "t-1.2.log")
    (home.task_logs / "t-1.1.log").mkdir()
    assert tail(home, view()) is None


def test_the_list(home: Home) -> None:
    letter = view(result={"output_tail": "one\nthe \x1b]0;last\x07\n\n"})
    page = dead_table([letter, replace(letter, spec=replace(SPEC, id=TaskId("t-2")))], 120, now=NOW)
    text = str(page)
    assert "it broke" in text
    assert "the " in text
    assert "\x1b" not in text
    assert text.splitlines()[-1] == "run one again: ai-infra task retry t-1"
    for width in (20, 40, 80):
        assert all(line.width <= width for line in dead_table([letter], width, now=NOW))
    assert str(dead_table([])) == "no dead letters"
