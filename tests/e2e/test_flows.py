"""Workflow files as a person runs them: results, conditions, fan-out, timeouts, retries, bad input."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from ai_infra.testing import wait_until
from tests.e2e.conftest import Installation


def write(session: Installation, tasks: dict[str, Any], **params: Any) -> str:
    """A workflow file with these tasks; its path. JSON is YAML."""
    path = session.root / "flow.yaml"
    known = {name: {"agent": "code", "max_attempts": 1, **spec} for name, spec in tasks.items()}
    path.write_text(json.dumps({"name": "flow", "params": params, "tasks": known}, ensure_ascii=False))
    return str(path)


def run(session: Installation, file: str, *words: str) -> dict[str, Any]:
    """Run a workflow to its end; its tasks by name."""
    view = session.json("workflow", "run", file, *words)
    return {task["spec"]["name"]: task for task in view["tasks"]}


def say(task: dict[str, Any]) -> str:
    assert task["state"] == "COMPLETED", task["error"]
    return str(task["result"]["output_tail"])


# -- the shipped example ------------------------------------------------------------------------------------


def test_the_example_fans_out_joins_and_reports(shared_session: Installation) -> None:
    folders = [shared_session.root / name for name in ("one", "two words")]
    for lines, folder in enumerate(folders, 2):
        folder.mkdir()
        (folder / "text").write_text("x\n" * lines)
    given = ("--param", f"folders={json.dumps([str(folder) for folder in folders])}")
    found = run(shared_session, "fan-out", *given)
    assert list(found) == ["count-1", "count-2", "join", "report"]
    assert found["join"]["result"]["value"] == {"lines": 5, "most": str(folders[1])}
    assert say(found["report"]) == f"5 lines, most of them in {folders[1]}\n"
    shown = shared_session.ok("task", "show", found["join"]["spec"]["id"])
    assert f'result   {{"lines": 5, "most": "{folders[1]}"}}' in " ".join(shown.split("\n"))


def test_what_is_skipped_says_so_everywhere(shared_session: Installation) -> None:
    done = shared_session.ok("workflow", "run", "fan-out", "-p", "folders=/dev", "-p", "least=10000000")
    flow = done.split()[0]
    assert "↷ skipped" in shared_session.ok("workflow", "show", flow)
    shown = shared_session.ok("task", "show", f"{flow}.report")
    assert "↷ skipped" in shown
    assert "when: tasks.join.result.lines >= params.least is false" in shown
    wait_until(lambda: "skipped" in shared_session.screen("supervisor"), 10, "the pane says so")
    assert shared_session.task(f"{flow}.report")["state"] == "COMPLETED"


def test_what_cannot_help_is_not_tried_again_and_stops_what_needs_it(shared_session: Installation) -> None:
    found = run(shared_session, "fan-out", "-p", "folders=/nothing,/dev")
    assert [found[name]["state"] for name in ("count-1", "count-2", "join", "report")] == [
        "FAILED", "COMPLETED", "CANCELLED", "CANCELLED",
    ]  # fmt: skip
    assert found["count-1"]["attempt"] == 1
    assert "(not tried again: exit:3 is in not_for)" in found["count-1"]["error"]


# -- between agents -----------------------------------------------------------------------------------------


def test_a_result_goes_from_agent_to_agent_and_cannot_break_out(shared_session: Installation) -> None:
    evil = '\'; touch owned; echo "$(touch owned)" `touch owned` {{ tasks.a.state }}'
    text = "import os, sys; open(os.environ['AI_INFRA_RESULT'], 'w').write(sys.argv[1])"
    tasks = {
        "a": {"run": [["python3", "-c", text, "{{ params.value }}"]]},
        "b": {
            "agent": "{{ item }}",
            "for_each": ["data", "qa"],
            "needs": ["a"],
            "when": "tasks.a.result != null",
            "run": ["printf %s {{ tasks.a.result }}", "[ ! -e owned ]"],
        },
    }
    value = json.dumps(evil)
    found = run(shared_session, write(shared_session, tasks, value={}), "-p", f"value={value}")
    assert say(found["b-1"]) == say(found["b-2"]) == evil
    assert [found[name]["worker"].split(".")[0] for name in ("b-1", "b-2")] == ["data", "qa"]


def test_a_list_found_at_run_time_fans_out_in_a_workflow_of_its_own(shared_session: Installation) -> None:
    each = shared_session.root / "each.yaml"
    echo = {"agent": "data", "for_each": "{{ params.items }}", "run": [["echo", "{{ item.name }}"]]}
    each.write_text(json.dumps({"name": "each", "params": {"items": {}}, "tasks": {"one": echo}}))
    found = '[{"name": "it\'s"}, {"name": "$HOME"}]'
    start = [
        "ai-infra",
        "workflow",
        "run",
        str(each),
        "--no-wait",
        "--param",
        "items={{ tasks.scan.result }}",
    ]
    tasks = {
        "scan": {"env": {"FOUND": found}, "run": ['printf %s "$FOUND" > "$AI_INFRA_RESULT"']},
        "start": {"needs": ["scan"], "run": [start]},
    }
    flow = say(run(shared_session, write(shared_session, tasks))["start"]).strip()
    shared_session.ok("task", "wait", f"{flow}.one-1", f"{flow}.one-2")
    shown = {task["spec"]["name"]: task for task in shared_session.json("workflow", "show", flow)["tasks"]}
    assert [say(shown["one-1"]), say(shown["one-2"])] == ["it's\n", "$HOME\n"]


def test_a_result_that_is_not_there_is_told_with_its_name(shared_session: Installation) -> None:
    tasks = {"a": {"run": ["true"]}, "b": {"needs": ["a"], "run": [["echo", "{{ tasks.a.result.x }}"]]}}
    file = write(shared_session, tasks)
    done = shared_session.run("workflow", "run", file)
    assert done.returncode == 1
    assert "tasks.a.result.x: a is COMPLETED and handed in no result" in done.stdout


def test_soft_timeout_then_hard(shared_session: Installation) -> None:
    tasks = {
        "told": {
            "run": ["trap 'echo saved; exit 0' TERM; while :; do sleep 0.02; done"],
            "soft_timeout_s": 0.3,
        },
        "deaf": {"run": ["trap '' TERM; sleep 60; sleep 60"], "soft_timeout_s": 0.2, "timeout_s": 0.5},
    }  # fmt: skip
    found = run(shared_session, write(shared_session, tasks))
    assert say(found["told"]).endswith("saved\n")
    assert found["deaf"]["error"] == "not finished after 0.5 s (timeout_s)"


# -- bad input ----------------------------------------------------------------------------------------------

A = {"run": [["true"]]}


@pytest.mark.parametrize(
    ("tasks", "said"),
    [
        ({"a": {**A, "needs": ["b"]}, "b": {**A, "needs": ["a"]}}, "cycle: a → b → a"),
        ({"a": {**A, "agent": "nobody"}}, "tasks.a.agent: unknown agent 'nobody'; known: code"),
        ({"a": {"run": ["echo {{ params.x }}"]}}, "tasks.a.run.0: unknown template {{ params.x }}"),
        ({"a": {"run": ["echo {{ tasks.b.result }}"]}, "b": A}, "does not need 'b'; add it to needs"),
        ({"a": {"run": ["echo \"{{ task.id }}\""]}}, "inside double quotes"),
        ({"a": {**A, "when": "1 = 1"}}, "tasks.a.when: at character 3: unexpected '=', in: 1 = 1"),
        ({"a": {**A, "when": "__import__('os').system('id')"}}, "at character 17: unexpected"),
        ({"a": {**A, "for_each": list(range(1001))}}, "holds 1001 items, more than 1000"),
        ({"a": A, "b": {**A, "needs": ["a"], "for_each": "{{ tasks.a.result }}"}}, "known only when"),
        ({"a": {**A, "retry": {"only_for": ["exit:x"]}}}, "unknown rule 'exit:x'"),
        ({"a": {**A, "soft_timeout_s": 400}}, "soft_timeout_s 400 is not below timeout_s, 300"),
        ({"a": {"run": ["x" * 300_000]}}, "bytes, more than 262144; put the text in a file"),
    ],
)  # fmt: skip
def test_a_bad_file_starts_nothing(shared_session: Installation, tasks: dict[str, Any], said: str) -> None:
    before = shared_session.json("workflow", "list")
    told = shared_session.fails("workflow", "run", write(shared_session, tasks), code=6)
    assert said in told
    assert "flow.yaml:1: " in told
    assert shared_session.json("workflow", "list") == before


def test_a_value_of_300_kb_is_refused_with_advice(shared_session: Installation) -> None:
    tasks = {"a": {"run": ["printf '\"%300000s\"' > $AI_INFRA_RESULT"]}}
    found = run(shared_session, write(shared_session, tasks))["a"]
    assert found["error"] == (
        "AI_INFRA_RESULT: 300002 bytes as JSON in ASCII, more than 65536; "
        "write it to a file in $AI_INFRA_WORKFLOW_DIR and hand in its path"
    )


def test_output_that_is_no_text_goes_through_and_on(shared_session: Installation) -> None:
    tasks = {
        "a": {"run": ["printf 'caf\\351 \\377\\376\\n'"]},
        "b": {"needs": ["a"], "run": [["echo", "{{ tasks.a.output }}"]]},
    }
    found = run(shared_session, write(shared_session, tasks))
    assert say(found["a"]) == "caf� ��\n"
    assert say(found["b"]) == "caf� ��\n"


def test_100_mb_of_output_are_bounded(shared_session: Installation) -> None:
    tasks = {
        "a": {"run": ["head -c 100000000 /dev/zero | tr '\\0' '\\n' ; echo the end"]},
        "b": {"needs": ["a"], "run": [["echo", "{{ tasks.a.output }}"]]},
    }
    began_s = time.monotonic()
    found = run(shared_session, write(shared_session, tasks))
    assert say(found["a"]).endswith("the end\n")
    assert found["a"]["result"]["output_bytes"] == 100_000_008
    assert say(found["b"]).endswith("the end\n")
    assert time.monotonic() - began_s < 60
    log = Path(found["a"]["result"]["log"])
    assert log.stat().st_size < 68_000_000
    pid = shared_session.pid("code")
    rss_kb = subprocess.run(["ps", "-o", "rss=", "-p", str(pid)], capture_output=True, text=True, check=True)
    assert int(rss_kb.stdout) < 100_000
