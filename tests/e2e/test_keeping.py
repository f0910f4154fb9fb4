"""Dead letters, statistics, the archive, export and import, as a person uses them."""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import Installation

SETTINGS = """
tasks: {keep_finished: 1000, grace_s: 1}
supervisor: {restart_delay_s: 0.05, restart_delay_max_s: 0.1, restart_limit: 50}
"""
TWO = {
    "name": "two",
    "tasks": {
        "first": {"agent": "data", "run": ["echo the reason; exit 3"], "max_attempts": 1},
        "second": {"agent": "data", "run": ["true"], "needs": ["first"]},
    },
}


@pytest.fixture(scope="module")
def session() -> Iterator[Installation]:
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        found.configure(SETTINGS)
        found.ok("up")
        yield found
    finally:
        found.close()


def failing(session: Installation, text: str, agent: str = "code") -> str:
    """A dead letter; its id."""
    words = ("task", "submit", agent, "--attempts", "1", "--wait", "--json", "--shell", text)
    view = session.json(*words[:-3], *words[-2:])
    assert view["state"] == "FAILED"
    return str(view["spec"]["id"])


def flow(session: Installation) -> tuple[str, dict[str, str]]:
    """A workflow whose first task fails; its id, and its tasks' ids by name."""
    path = session.root / "two.yaml"
    path.write_text(json.dumps(TWO))
    view = session.json("workflow", "run", str(path))
    return view["header"]["id"], {task["spec"]["name"]: task["spec"]["id"] for task in view["tasks"]}


def letters(session: Installation, *words: str) -> list[str]:
    return [view["spec"]["id"] for view in session.json("task", "dead-letters", "list", *words)]


# -- dead letters -------------------------------------------------------------------------------------------


def test_a_dead_letter_says_why_what_it_wrote_and_how_to_run_it_again(session: Installation) -> None:
    task = failing(session, "echo so it ends; exit 4")
    listed = session.ok("task", "dead-letters", "list")
    assert task in listed
    assert "ended with exit code 4" in listed
    assert f"ai-infra task retry {task}" in listed
    letter = session.json("task", "dead-letters", "show", task)
    assert (letter["log_tail"], letter["retry"]) == ("so it ends\n", f"ai-infra task retry {task}")
    shown = session.ok("task", "dead-letters", "show", task)
    assert "│ so it ends" in shown
    assert letter["retry"] in shown
    assert f"{task} will run again" in session.ok(*letter["retry"].split()[1:])
    wait_until(lambda: session.task(task)["state"] == "FAILED", 15, "it failed again")
    assert session.task(task)["attempt"] == 2


def test_a_poison_task_whose_worker_is_killed_each_time_leaves_its_last_words(session: Installation) -> None:
    text = "echo run $AI_INFRA_ATTEMPT poisons; sleep 0.3; kill -9 $PPID; sleep 30"
    task = session.ok("task", "submit", "qa", "--shell", text).strip()
    wait_until(lambda: session.task(task)["state"] == "FAILED", 60, "it is a dead letter")
    letter = session.json("task", "dead-letters", "show", task)
    assert letter["error"].startswith("poison: its worker died 5 times")
    assert letter["log_tail"] == "run 5 poisons\n"
    assert "run 5 poisons" in session.ok("task", "show", task)
    assert "run 5 poisons" in session.ok("task", "dead-letters", "list", "--reason", "poison")
    session.ok("task", "dead-letters", "drop", task)


def test_retry_of_all_that_fit(session: Installation) -> None:
    mark = session.root / "mended"
    fixed = [failing(session, f"test -e {mark} || exit 41", agent) for agent in ("code", "data")]
    other = failing(session, "exit 42")
    assert set(letters(session, "--reason", "exit code 41")) == set(fixed)
    assert letters(session, "--reason", "exit code 41", "--agent", "data") == [fixed[1]]
    mark.touch()
    said = session.ok("task", "dead-letters", "retry", "--all", "--reason", "exit code 41")
    assert said.splitlines() == [f"{task} will run again" for task in fixed]
    session.ok("task", "wait", *fixed, "--timeout", "20")
    assert (
        session.ok("task", "dead-letters", "retry", "--all", "--reason", "exit code 41")
        == "no such dead letters\n"
    )
    assert session.task(other)["state"] == "FAILED"


def test_drop_takes_what_was_cancelled_because_of_it_along(session: Installation) -> None:
    name, tasks = flow(session)
    before = session.json("workflow", "show", name)
    dropped = session.ok("task", "dead-letters", "drop", tasks["first"][:-1])
    assert set(dropped.splitlines()) == {f"{task} is dropped" for task in tasks.values()}
    assert tasks["first"] not in letters(session)
    shown = session.ok("task", "show", tasks["first"])
    assert "Redis has it no more" in shown
    assert "│ the reason" in shown
    assert "task retry" not in shown
    after = session.json("workflow", "show", name)
    assert after["counts"] == before["counts"]
    assert [t["spec"] for t in after["tasks"]] == [t["spec"] for t in before["tasks"]]
    assert "two" in session.ok("workflow", "show", name, "--follow")
    said = session.fails("task", "retry", tasks["first"], code=5)
    assert (
        said
        == f"ai-infra: task {tasks['first']} is FAILED and archived; it is only shown, submit its work anew\n"
    )
    assert session.run("task", "wait", tasks["first"]).returncode == 1


def test_what_dead_letters_refuse(session: Installation) -> None:
    good = session.ok("task", "submit", "code", "--wait", "--json", "--", "true")
    task = json.loads(good)["spec"]["id"]
    assert "is COMPLETED, no dead letter" in session.fails("task", "dead-letters", "show", task, code=5)
    assert "is COMPLETED, no dead letter" in session.fails("task", "dead-letters", "drop", task, code=5)
    assert "only a FAILED or CANCELLED task" in session.fails("task", "dead-letters", "retry", task, code=1)
    assert "no task 'nope'" in session.fails("task", "dead-letters", "drop", "nope", code=4)
    assert "say which" in session.fails("task", "dead-letters", "drop", code=2)
    assert "say which" in session.fails("task", "dead-letters", "drop", task, "--all", code=2)
    assert "leave them out" in session.fails("task", "dead-letters", "retry", task, "--agent", "code", code=2)
    assert "no agent 'zed'" in session.fails("task", "dead-letters", "list", "--agent", "zed", code=4)


# -- statistics ---------------------------------------------------------------------------------------------


def test_statistics(session: Installation) -> None:
    before = session.json("task", "stats", "--agent", "research")
    for _ in range(3):
        session.ok("task", "submit", "research", "--wait", "--", "sleep", "0.2")
    failing(session, "exit 9", "research")
    failing(session, "exit 9", "research")
    late = session.run(
        "task", "submit", "research", "--attempts", "1", "--timeout", "0.3", "--wait", "--", "sleep", "9"
    )
    assert late.returncode == 1
    assert before["agents"] == {}
    told = session.json("task", "stats", "--agent", "research", "--since", "1h")
    assert told["agents"]["research"] == told["all"]
    row = told["all"]
    assert (row["completed"], row["failed"], row["cancelled"], row["runs"], row["retries"]) == (3, 3, 0, 6, 0)
    assert [(c["reason"], c["tasks"]) for c in row["causes"]] == [
        ("ended with exit code 9", 2), ("not finished in its time", 1)
    ]  # fmt: skip
    assert 0.2 <= row["duration"]["p50_s"] <= row["duration"]["p95_s"] == row["duration"]["max_s"] < 5
    assert row["per_hour"] == 6
    page = session.ok("task", "stats")
    assert "research" in page
    assert "not finished in its time" in page
    assert "'soon' is not a duration" in session.fails("task", "stats", "--since", "soon", code=2)


# -- the archive --------------------------------------------------------------------------------------------


def test_old_tasks_move_into_a_file_and_are_shown_still(machine: Installation) -> None:
    machine.configure("tasks: {keep_finished: 0}\n")
    machine.ok("up")
    name, tasks = flow(machine)
    before = machine.json("workflow", "show", name)
    stats = machine.json("task", "stats")
    machine.ok("restart", "supervisor")  # a pass at its start, then once a minute
    files = machine.home.root / "archive"
    wait_until(lambda: machine.json("task", "list") == [], 20, "they are archived")
    (path,) = files.glob("tasks-*.jsonl.gz")
    assert len(gzip.decompress(path.read_bytes()).splitlines()) == 3
    after = machine.json("workflow", "show", name)
    assert after == {**before, "tasks": [{**task, "archive": path.name} for task in before["tasks"]]}
    assert machine.json("workflow", "show", name[:-2])["header"]["id"] == name
    assert "archived" not in machine.ok("task", "list")
    shown = machine.ok("task", "show", tasks["second"][:-1])
    assert f"{path.name}: Redis has it no more" in shown
    assert machine.json("task", "stats")["agents"]["data"]["causes"] == stats["agents"]["data"]["causes"]
    assert "moved 2 finished tasks into the archive" in machine.ok("logs", "supervisor")
    exported = machine.root / "all.jsonl.gz"
    machine.ok("task", "export", "--all", str(exported))
    assert machine.ok("task", "import", str(exported)) == "2 tasks are imported\n"
    assert machine.task(tasks["first"])["archive"] is None
    assert machine.json("workflow", "show", name)["tasks"] == before["tasks"]


# -- export and import --------------------------------------------------------------------------------------


def test_tasks_go_from_one_installation_to_another(session: Installation, machine: Installation) -> None:
    name, tasks = flow(session)
    file = session.root / "tasks.jsonl"
    said = session.ok("task", "export", str(file))
    assert said.endswith(f"tasks are in {file}\n")
    assert os.stat(file).st_mode & 0o777 == 0o600
    machine.ok("up")
    count = int(said.split()[0])
    assert machine.ok("task", "import", str(file)) == f"{count} tasks are imported\n"
    assert machine.ok("task", "import", str(file)) == f"0 tasks are imported, {count} were here already\n"
    assert machine.json("workflow", "show", name) == session.json("workflow", "show", name)
    assert machine.ok("task", "retry", tasks["first"]).count("will run again") == 2
    assert machine.run("task", "wait", tasks["first"], "--timeout", "20").returncode == 1


def test_what_ran_runs_anew_elsewhere(session: Installation, machine: Installation) -> None:
    go = session.root / "go"
    slow = session.ok("task", "submit", "infra", "--shell", f"until [ -e {go} ]; do sleep 0.02; done").strip()
    wait_until(lambda: session.task(slow)["state"] == "IN_PROGRESS", 15, "it runs")
    text = session.ok("task", "export", "--state", "in_progress", "-")
    assert [json.loads(line)["task"]["id"] for line in text.splitlines()[1:-1]] == [slow]
    go.touch()
    machine.ok("up")
    file = machine.root / "tasks.jsonl"
    file.write_text(text)
    assert machine.json("task", "import", str(file)) == {"imported": 1, "there": 0}
    machine.ok("task", "wait", slow, "--timeout", "20")
    assert machine.task(slow)["attempt"] == 2


def test_what_an_import_refuses(session: Installation) -> None:
    file = session.root / "bad.jsonl"
    file.write_text('{"ai-infra":"tasks","version":1}\n{"task":\n{"end":true}\n')
    assert session.fails("task", "import", str(file), code=2).startswith(f"ai-infra: {file}:2: Expecting")
    assert "no such file" in session.fails("task", "import", str(session.root / "none"), code=4)
    assert "No such file" in session.fails("task", "export", str(session.root / "none" / "x"), code=7)
    assert "--all means every state" in session.fails(
        "task", "export", "--all", "--state", "READY", "-", code=2
    )


def test_the_archive_of_a_killed_supervisor_goes_on(session: Installation) -> None:
    """Its lock is the kernel's: a drop after the death of who wrote is not refused."""
    old = session.kill("supervisor")
    session.wait_healed("supervisor", old)
    task = failing(session, "exit 1")
    assert session.ok("task", "dead-letters", "drop", task) == f"{task} is dropped\n"
