"""Agents and what tasks do to them: every poison is a failed task with a reason, and its agent lives on."""

from __future__ import annotations

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import SESSION, Installation

TASKS = "tasks: {output_max_bytes: 2000, grace_s: 1}\n"


@pytest.fixture(scope="module")
def session() -> Iterator[Installation]:
    found = Installation(Path(tempfile.mkdtemp(prefix="aih-", dir="/tmp")))
    try:
        found.configure(TASKS)
        found.ok("up")
        yield found
    finally:
        found.close()


@pytest.fixture(autouse=True)
def the_agent_lives_on(session: Installation) -> Iterator[None]:
    """Whatever a test does: the same process works on the next task afterwards."""
    before = session.pid("code")
    yield
    session.ok("task", "submit", "code", "--wait", "--", "true", timeout_s=30)
    assert session.pid("code") == before
    window = next(w for w in session.json("status")["windows"] if w["name"] == "code")
    assert (window["state"], window["restarts"]) == ("RUNNING", 0)


def submitted(session: Installation, *words: str) -> str:
    return session.ok("task", "submit", "code", "--attempts", "1", *words).strip()


def flow(session: Installation, **task: Any) -> str:
    """Submit a workflow of one task; its id. JSON is YAML."""
    path = session.root / "flow.yaml"
    spec = {"agent": "code", "run": ["true"], "max_attempts": 1, **task}
    path.write_text(json.dumps({"name": "one", "tasks": {"only": spec}}, ensure_ascii=False))
    view = session.json("workflow", "run", str(path), "--no-wait")
    return str(session.json("workflow", "show", view["id"])["tasks"][0]["spec"]["id"])


def ended(session: Installation, task_id: str, timeout_s: float = 20) -> Any:
    def over() -> Any:
        view = session.task(task_id)
        return view if view["state"] in ("COMPLETED", "FAILED", "CANCELLED") else None

    return wait_until(over, timeout_s, f"{task_id} ended")


def begun(session: Installation, task_id: str) -> None:
    wait_until(lambda: session.task(task_id)["state"] == "IN_PROGRESS", 15, f"{task_id} runs")


def failed(session: Installation, task_id: str, said: str) -> Any:
    view = ended(session, task_id)
    assert view["state"] == "FAILED"
    assert said in view["error"]
    return view


# -- what the checks find -----------------------------------------------------------------------------------


def test_a_file_whose_name_no_file_can_have(session: Installation) -> None:
    task = submitted(session, "--expect-file", "x" * 300, "--", "true")
    failed(session, task, "File name too long")


def test_json_nested_too_deeply(session: Installation) -> None:
    run = ["head -c 100000 /dev/zero | tr '\\0' '[' > r.json"]
    expect = [{"json": {"file": "r.json", "path": "a", "equals": 1}}]
    failed(session, flow(session, run=run, expect=expect), "RecursionError")


def test_a_pipe_in_the_place_of_json(session: Installation) -> None:
    expect = [{"json": {"file": "r.json", "path": "a", "equals": 1}}]
    failed(session, flow(session, run=["mkfifo r.json"], expect=expect), "not a plain file")


def test_more_evidence_than_a_result_may_hold(session: Installation) -> None:
    expect = [{"output_matches": f"{i} {'😀' * 300}"} for i in range(20)]
    view = failed(session, flow(session, expect=expect), "expected output matches '0 😀")
    assert view["result"]["exit_codes"] == [0]
    assert view["result"]["cut"] is True


def test_a_task_that_removes_or_forges_its_log_changes_nothing(session: Installation) -> None:
    log = f"{session.home.task_logs}/$AI_INFRA_TASK_ID.1.log"
    removed = submitted(session, "--expect-output", "all passed", "--shell", f"echo all passed; rm {log}")
    assert ended(session, removed)["state"] == "COMPLETED"
    forged = submitted(session, "--expect-output", "all passed", "--shell", f"echo all passed > {log}")
    failed(session, forged, "not found in 0 bytes of output")


def test_the_end_of_the_output_is_searched_though_only_its_head_is_on_disk(session: Installation) -> None:
    text = "head -c 3000000 /dev/zero | tr '\\0' .; echo; echo the last word"
    task = submitted(session, "--expect-output", "^the last word$", "--shell", text)
    view = ended(session, task)
    assert view["state"] == "COMPLETED"
    assert Path(view["result"]["log"]).stat().st_size < 3000


def test_a_file_in_the_place_of_the_workflows_folder(session: Installation) -> None:
    folder = session.home.workflows
    aside = folder.with_name("aside")
    go = session.home.scratch("code") / "go"
    submitted(session, "--shell", f"until [ -e {go} ]; do sleep 0.02; done")
    task = flow(session)
    folder.rename(aside)
    try:
        folder.write_text("a task did this")
        go.touch()
        failed(session, task, f"{folder}/")
    finally:
        folder.unlink()
        aside.rename(folder)


# -- what would not end -------------------------------------------------------------------------------------

ENDLESS = ("--expect-output", "(a+)+$", "--shell", f"echo '{'a' * 60}!'")


def test_a_pattern_without_end_meets_the_timeout_of_its_task(session: Installation) -> None:
    task = submitted(session, "--timeout", "1.5", *ENDLESS)
    failed(session, task, "not finished after 1.5 s")


def test_a_pattern_without_end_can_be_cancelled(session: Installation) -> None:
    task = submitted(session, *ENDLESS)
    wait_until(lambda: "!" in session.screen("code").replace("$", ""), 15, "the command ran")
    began_s = time.monotonic()
    session.ok("task", "cancel", task)
    assert ended(session, task)["state"] == "CANCELLED"
    assert time.monotonic() - began_s < 5


def test_a_cancel_ends_the_check_that_runs_and_begins_no_other(session: Installation) -> None:
    root = session.root
    expect = [
        {"command": f"touch {root}/first; exec sleep 600"},
        {"command": f"touch {root}/second; exec sleep 600"},
    ]
    task = flow(session, expect=expect)
    wait_until(lambda: (root / "first").exists(), 15, "the first check runs")
    session.ok("task", "cancel", task)
    assert ended(session, task)["state"] == "CANCELLED"
    assert not (root / "second").exists()


def test_while_the_tmux_server_stalls_the_work_goes_on(session: Installation) -> None:
    server = int(session.tmux("display-message", "-p", "-t", SESSION, "#{pid}"))
    text = "for i in $(seq 1200); do printf '%0480d\\n' $i; sleep 0.005; done"
    os.kill(server, signal.SIGSTOP)
    try:
        task = submitted(session, "--shell", text)
        begun(session, task)
        assert ended(session, task, 40)["state"] == "COMPLETED"
    finally:
        os.kill(server, signal.SIGCONT)


# -- the folder for temporary files -------------------------------------------------------------------------


def test_a_nest_of_folders_in_temp_is_left_alone(machine: Installation) -> None:
    temp = machine.home.scratch("code") / "temp"
    temp.mkdir(parents=True)
    nest(temp / "deep", 2000)
    (temp / "old").write_text("")
    os.utime(temp / "old", (0, 0))
    try:
        machine.configure("tasks: {temp_max_age_s: 0.001}\n")
        machine.ok("up")
        machine.ok("task", "submit", "code", "--wait", "--", "true", timeout_s=30)
        wait_until(lambda: not (temp / "old").exists(), 15, "the temporary files are cleaned")
        window = next(w for w in machine.json("status")["windows"] if w["name"] == "code")
        assert (window["state"], window["restarts"]) == ("RUNNING", 0)
    finally:
        while (temp / "deep" / "d").exists():  # one level a time: Python cannot follow them either
            (temp / "deep" / "d").rename(temp / "next")
            shutil.rmtree(temp / "deep")
            (temp / "next").rename(temp / "deep")


def nest(top: Path, depth: int) -> None:
    """Folders in folders, deeper than a path can be written."""
    top.mkdir()
    here = os.open(top, os.O_RDONLY)
    for _ in range(depth):
        os.mkdir("d", dir_fd=here)
        inner = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
