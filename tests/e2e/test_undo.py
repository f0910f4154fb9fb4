"""Atomic workflows as a person meets them: what failed is taken back, said, and not tried again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import Installation

TASKS = """\
name: move
atomic: true
params: {place: {required: true}}
tasks:
  one:
    agent: code
    run: [[touch, "{{ params.place }}/one"], 'echo mine > here']
    undo:
      - [rm, "{{ params.place }}/one"]
      - 'cat here && rm here && echo "$AI_INFRA_UNDO_OF" >> {{ params.place }}/order'
  two:
    agent: data
    needs: [one]
    run: [[touch, "{{ params.place }}/two"]]
    undo: [[rm, -f, "{{ params.place }}/two"], 'echo two >> {{ params.place }}/order']
  three:
    agent: qa
    needs: [two]
    max_attempts: 1
    run: ['exit 7']
    undo: [[touch, "{{ params.place }}/never"]]
  four:
    agent: qa
    needs: [three]
    run: [[touch, "{{ params.place }}/never"]]
"""


@pytest.fixture
def place(shared_session: Installation, tmp_path: Path) -> Path:
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "move.yaml"
    path.write_text(text)
    return str(path)


def test_the_third_step_fails_and_all_is_as_before(
    shared_session: Installation, place: Path, tmp_path: Path
) -> None:
    run = shared_session.run("workflow", "run", written(tmp_path, TASKS), "-p", f"place={place}")
    assert run.returncode == 1
    flow, text = run.stdout.split("\n", 1)
    assert "was undone, because three failed" in text
    assert "undone: two, one" in text
    assert "may have left something when it ended: three" in text
    assert "could not" not in text
    assert sorted(path.name for path in place.iterdir()) == ["order"]
    assert (place / "order").read_text() == f"two\n{flow}.one\n"
    shown = shared_session.ok("workflow", "show", flow)
    assert "✗ FAILED" in shown.splitlines()[0] or "failed" in shown.splitlines()[0]
    assert "undone: two, one" in shown
    view = shared_session.json("workflow", "show", flow)
    assert (view["state"], view["undo"]["undone"]) == ("FAILED", ["two", "one"])
    assert "undo-one" in shown
    said = shared_session.fails("task", "retry", f"{flow}.three", code=5)
    assert f"its workflow {flow} was undone; run the workflow again" in said
    assert "was undone already" in shared_session.fails("workflow", "undo", flow, code=5)


def test_as_json_it_waits_for_the_undo_too(shared_session: Installation, place: Path, tmp_path: Path) -> None:
    view = shared_session.json("workflow", "run", written(tmp_path, TASKS), "-p", f"place={place}")
    assert view["undo"]["undone"] == ["two", "one"]
    assert not (place / "one").exists()


def test_an_undo_that_fails_is_said_and_can_be_tried_again(
    shared_session: Installation, place: Path, tmp_path: Path
) -> None:
    text = TASKS.replace("data\n", "data\n    max_attempts: 1\n").replace(
        '[[rm, -f, "{{ params.place }}/two"], ', '["test -e {{ params.place }}/go || exit 3", '
    )
    run = shared_session.run("workflow", "run", written(tmp_path, text), "-p", f"place={place}")
    assert run.returncode == 1
    flow = run.stdout.split("\n", 1)[0]
    assert "undone: one" in run.stdout
    assert "could not be undone: two (its undo failed: command 1 of 2 ended with exit code 3" in run.stdout
    (place / "go").touch()
    shared_session.ok("task", "retry", f"{flow}.two.undo")
    shared_session.ok("task", "wait", f"{flow}.two.undo", "--timeout", "30")
    shown = shared_session.ok("workflow", "show", flow)
    assert "undone: two, one" in shown
    assert "could not" not in shown


def test_cancelled_by_a_person(shared_session: Installation, place: Path, tmp_path: Path) -> None:
    text = TASKS.replace("'exit 7'", "'sleep 60'")
    ran = shared_session.ok(
        "workflow", "run", written(tmp_path, text), "-p", f"place={place}", "--no-wait"
    ).strip()
    wait_until(lambda: shared_session.task(f"{ran}.three")["state"] == "IN_PROGRESS", 20, "three runs")
    assert "was told to stop" in shared_session.ok("task", "cancel", f"{ran}.three")
    wait_until(
        lambda: (flow_of(shared_session, ran)["undo"] or {}).get("undone") == ["two", "one"], 20, "undone"
    )
    assert sorted(path.name for path in place.iterdir()) == ["order"]
    assert flow_of(shared_session, ran)["state"] == "CANCELLED"


def test_on_demand(shared_session: Installation, place: Path, tmp_path: Path) -> None:
    text = (
        TASKS.replace("atomic: true\n", "")
        .replace("'exit 7'", "'true'")
        .replace('    run: [[touch, "{{ params.place }}/never"]]\n', '    run: ["true"]\n')
    )
    run = shared_session.run("workflow", "run", written(tmp_path, text), "-p", f"place={place}")
    assert run.returncode == 0, run.stdout
    flow = run.stdout.split("\n", 1)[0]
    undone = shared_session.run("workflow", "undo", flow)
    assert undone.returncode == 1  # four has no undo
    assert "undone: three, two, one" in undone.stdout
    assert "could not be undone: four (has no undo)" in undone.stdout
    assert sorted(path.name for path in place.iterdir()) == ["never", "order"]


def test_an_agent_and_redis_die_on_the_way(shared_session: Installation, place: Path, tmp_path: Path) -> None:
    """The worker of the failing step, one that undoes, and Redis are killed; all is undone all the same."""
    text = TASKS.replace("'exit 7'", "'touch {{ params.place }}/at; sleep 2; exit 7'").replace(
        "'echo two >>", "'touch {{ params.place }}/undoing; sleep 2; echo two >>"
    )
    ran = shared_session.ok(
        "workflow", "run", written(tmp_path, text), "-p", f"place={place}", "--no-wait"
    ).strip()
    wait_until((place / "at").exists, 30, "three runs")
    shared_session.kill("qa")
    wait_until((place / "undoing").exists, 30, "two is undone")
    shared_session.kill("redis")
    shared_session.kill("data")
    wait_until(lambda: shared_session.run("workflow", "show", ran).returncode == 0, 60, "Redis is back")
    assert "undone: two, one" in shared_session.ok("workflow", "show", ran, "--follow")
    assert not (place / "one").exists()
    assert (place / "order").read_text() == f"two\n{ran}.one\n"


def flow_of(session: Installation, flow: str) -> Any:
    return json.loads(session.ok("workflow", "show", flow, "--json"))


def test_the_shipped_example(shared_session: Installation, place: Path) -> None:
    def deploy(version: str, *more: str) -> Any:
        words = (
            "workflow",
            "run",
            "atomic-deploy",
            "-p",
            f"target={place}",
            "-p",
            f"version={version}",
            *more,
        )
        return shared_session.json(*words)

    assert deploy("1")["state"] == "COMPLETED"
    assert (place / "current/version.txt").read_text() == "version 1\n"
    bad = deploy("2", "-p", "check=false")
    assert (bad["state"], bad["undo"]["undone"]) == ("FAILED", ["switch", "unpack"])
    assert (place / "current/version.txt").read_text() == "version 1\n"
    assert [path.name for path in (place / "releases").iterdir()] == ["1"]
    assert deploy("2")["state"] == "COMPLETED"
    assert (place / "current/version.txt").read_text() == "version 2\n"
