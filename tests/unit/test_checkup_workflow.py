"""The shipped workflow runs every part once, by its agent, and the report after all of them."""

from __future__ import annotations

import yaml

from ai_infra.checkup import PARTS
from ai_infra.core.shipped import shipped
from ai_infra.tasks.workflow import check_workflow

WORKFLOW = yaml.safe_load(shipped("config/workflows/checkup.yaml").read_text())


def test_every_part_is_a_task_of_its_agent() -> None:
    assert set(WORKFLOW["tasks"]) == set(PARTS)
    for name, task in WORKFLOW["tasks"].items():
        assert task["agent"] == PARTS[name].agent, name


def test_every_task_is_one_command_for_its_own_part() -> None:
    for name, task in WORKFLOW["tasks"].items():
        (command,) = task["run"]
        assert command == [
            "ai-infra", "checkup", "--part", name, "{{ params.repo }}", "--out", "{{ workflow.dir }}",
        ]  # fmt: skip


def test_the_report_waits_for_all_whatever_became_of_them() -> None:
    report = WORKFLOW["tasks"]["report"]
    assert set(report["needs"]) == set(PARTS) - {"report"}
    assert report["needs_rule"] == "all_done"
    assert all("needs" not in task for name, task in WORKFLOW["tasks"].items() if name != "report")


def test_every_task_has_a_bound_and_something_to_show() -> None:
    for name, task in WORKFLOW["tasks"].items():
        assert 60 <= task["timeout_s"] <= 1800, name
        assert any(expected["file"].startswith("{{ workflow.dir }}/") for expected in task["expect"]), name


def test_the_tests_may_take_as_long_as_their_suites() -> None:
    from ai_infra.checkup.suites import MAX_SUITES, SUITE_S

    assert WORKFLOW["tasks"]["tests"]["timeout_s"] >= MAX_SUITES * SUITE_S + 60


def test_the_engine_accepts_it() -> None:
    check_workflow(shipped("config/workflows/checkup.yaml"), agents={part.agent for part in PARTS.values()})
