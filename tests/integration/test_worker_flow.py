"""Workflow files and a real worker: results handed on, conditions, fan-out, timeouts, retry rules."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from test_worker import Life, ended, life

from ai_infra.core.ids import TaskId, WorkflowId
from ai_infra.tasks.task import State, TaskView
from ai_infra.tasks.workflow import load_workflow

__all__ = ["life"]  # the fixture


def work_off(life: Life, tasks: dict[str, Any], **params: str) -> dict[str, TaskView]:
    """Run a workflow of these tasks to its end; every task by its name. JSON is YAML."""
    path = life.home.root / "flow.yaml"
    known = {name: {"agent": "code", "retry_delay_s": 0, **spec} for name, spec in tasks.items()}
    flow_file = {"name": "w", "params": {name: {} for name in params}, "tasks": known}
    path.write_text(json.dumps(flow_file, ensure_ascii=False))
    flow = WorkflowId("w-1")
    folder = life.home.workflows / flow
    header, specs = load_workflow(path, params, agents=("code",), workflow_dir=folder, workflow_id=flow)
    found: dict[str, TaskView] = {}

    async def body(life: Life) -> None:
        timers = asyncio.create_task(life.person.run_timers())
        await life.person.submit(specs, workflow=header)
        for spec in specs:
            found[spec.name] = await ended(life.person, spec.id)
        timers.cancel()

    life.run(body)
    return found


def out(view: TaskView) -> str:
    """What it wrote; it must have succeeded."""
    assert view.state is State.COMPLETED, view.error
    assert view.result is not None
    return str(view.result["output_tail"])


def hand_in(value: Any) -> list[list[str]]:
    """A command that hands in a value."""
    text = "import os, sys; open(os.environ['AI_INFRA_RESULT'], 'wb').write(bytes.fromhex(sys.argv[1]))"
    return [["python3", "-c", text, json.dumps(value).encode().hex()]]


# -- results ------------------------------------------------------------------------------------------------

PLAIN_HOSTILE = 'it\'s "$(touch owned)" `id`; \\ \n -n 😀'
HOSTILE = 'it\'s "$(touch owned)" `id`; {{ tasks.b.result }} {{ params.p }} \\ \n -n 😀'


def test_a_result_reaches_what_needs_it_as_one_word_whatever_it_holds(life: Life) -> None:
    tasks = {
        "a": {"run": hand_in({"text": HOSTILE, "list": [{"n": 3}], "none": None})},
        "b": {"needs": ["a"], "run": ["printf %s {{ tasks.a.result.text }}; ls"]},
        "c": {"needs": ["a"], "run": [["printf", "%s", "<{{ tasks.a.result.text }}>"]]},
        "d": {"needs": ["a"], "env": {"X": "{{ tasks.a.result.text }}"}, "run": ['printf %s "$X"']},
        "e": {
            "needs": ["a"],
            "run": ["echo {{ tasks.a.result.list[0].n }} {{ tasks.a.result.list }} {{ tasks.a.state }} "
                    "{{ tasks.a.exit_code }} {{ tasks.a.result.none }} {{ tasks.a.skipped }} {{ params.p }}"],
        },
    }  # fmt: skip
    found = work_off(life, tasks, p="{{ tasks.a.result.text }} $HOME")
    assert out(found["b"]) == out(found["d"]) == HOSTILE
    assert out(found["c"]) == f"<{HOSTILE}>"
    assert out(found["e"]) == '3 [{"n":3}] COMPLETED 0 null false {{ tasks.a.result.text }} $HOME\n'
    assert found["a"].result is not None
    assert found["a"].result["value"]["list"] == [{"n": 3}]
    assert not (life.scratch.root / "exchange" / "w-1.a").exists()


def test_outputs_patterns_and_paths_are_filled_too(life: Life) -> None:
    tasks = {
        "a": {"run": ["echo; echo 'a.b*'; echo", *hand_in("sub")]},
        "b": {
            "needs": ["a"],
            "cwd": "{{ workflow.dir }}",
            "run": [
                "mkdir {{ tasks.a.result }}; printf '%s\\n' {{ tasks.a.output }}",
                """echo '{"n": ["sub"]}' > j""",
            ],
            "expect": [
                {"output_matches": "^{{ tasks.a.output }}$"},
                {"file": "{{ tasks.a.result }}"},
                {"json": {"file": "j", "path": "n[0]", "equals": "{{ tasks.a.result }}"}},
                {"command": ["test", "-d", "{{ tasks.a.result }}"]},
            ],
        },
    }
    assert out(work_off(life, tasks)["b"]) == "\na.b*\n"


def test_the_inputs_file_tells_of_every_upstream_whatever_became_of_it(life: Life) -> None:
    tasks = {
        "good": {"run": ["echo hello", *hand_in([1, 2])]},
        "bad": {"run": ["echo oh; exit 3"], "max_attempts": 1},
        "each": {"for_each": ["x", {"k": 2}], "run": hand_in("r")},
        "end": {"needs": ["good", "bad", "each"], "needs_rule": "all_done", "run": ["cat $AI_INFRA_INPUTS"]},
    }  # fmt: skip
    said = json.loads(out(work_off(life, tasks)["end"]))
    assert said["good"] == {
        "state": "COMPLETED", "exit_code": 0, "output": "hello\n", "skipped": False, "result": [1, 2],
    }  # fmt: skip
    assert said["bad"] == {
        "state": "FAILED", "exit_code": 3, "output": "oh\n", "skipped": False, "result": None
    }  # fmt: skip
    assert [each["result"] for each in said["each"]] == ["r", "r"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("printf 'not json' > $AI_INFRA_RESULT", "AI_INFRA_RESULT: not JSON: Expecting value"),
        (": > $AI_INFRA_RESULT", "the file is empty"),
        ("printf '\\377' > $AI_INFRA_RESULT", "not UTF-8 text: "),
        ("echo NaN > $AI_INFRA_RESULT", "NaN is not JSON"),
        ("echo 1e999 > $AI_INFRA_RESULT", "not JSON"),
        ("""echo '"\\ud800"' > $AI_INFRA_RESULT""", "surrogates not allowed"),
        ("printf '\"%300000s\"' > $AI_INFRA_RESULT", "300002 bytes as JSON in ASCII, more than 65536"),
        ("head -c 9000000 /dev/zero > $AI_INFRA_RESULT", "larger than 1000000 bytes"),
        ("head -c 50000 /dev/zero | tr '\\0' '[' > $AI_INFRA_RESULT", "nested deeper than 100"),
        ('python3 -c \'print("[" * 150 + "]" * 150)\' > $AI_INFRA_RESULT', "nested deeper than 100"),
        ("mkfifo $AI_INFRA_RESULT", "not a plain file"),
        ("mkdir $AI_INFRA_RESULT", "cannot be read: Is a directory"),
        ("ln -s /etc/passwd $AI_INFRA_RESULT", "Too many levels of symbolic links"),
    ],
)
def test_a_value_that_is_no_good_fails_the_task(life: Life, command: str, said: str) -> None:
    found = work_off(life, {"a": {"run": [command], "max_attempts": 1}})["a"]
    assert found.state is State.FAILED
    assert found.error is not None
    assert found.error.startswith("AI_INFRA_RESULT: ")
    assert said in found.error


@pytest.mark.parametrize(
    "how",
    ["echo > exchange", "ln -s /etc exchange", "mkfifo exchange", "mkdir -p exchange/w-1.b/result.json/x"],
)
def test_what_a_task_does_to_the_folder_harms_no_other(life: Life, how: str) -> None:
    tasks = {
        "a": {"run": [f"cd; rm -r exchange; {how}"]},
        "b": {"needs": ["a"], "needs_rule": "all_done", "run": ["test -s $AI_INFRA_INPUTS", *hand_in(1)]},
    }
    found = work_off(life, tasks)["b"]
    assert (found.state, found.error) == (State.COMPLETED, None)
    assert Path("/etc/passwd").exists()


def test_a_value_of_an_earlier_attempt_does_not_count(life: Life) -> None:
    run = ['[ $AI_INFRA_ATTEMPT = 2 ] || { echo 1 > "$AI_INFRA_RESULT"; exit 1; }']
    found = work_off(life, {"a": {"run": run}})["a"]
    assert found.state is State.COMPLETED
    assert found.result is not None
    assert "value" not in found.result


def test_the_largest_value_and_a_result_of_the_largest_size_fit_together(life: Life) -> None:
    text = "import os; open(os.environ['AI_INFRA_RESULT'], 'w').write('\"' + 'x' * 65534 + '\"')"
    loud = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 400)"
    expect = [{"output_matches": f"{i} {'😀' * 300}"} for i in range(20)]
    run = [["python3", "-c", text], ["python3", "-c", loud]]
    found = work_off(life, {"a": {"run": run, "expect": expect, "max_attempts": 1}})["a"]
    assert found.result is not None
    assert len(found.result["value"]) == 65534
    assert found.error is not None
    assert found.error.startswith("expected output matches")


@pytest.mark.parametrize(
    ("hole", "said"),
    [
        ("tasks.a.result.gone", "tasks.a.result.gone: nothing at 'gone', in {"),
        ("tasks.a.result.list[7]", "nothing at 'list[7]'"),
        ("tasks.b.result", "tasks.b.result: b is COMPLETED and handed in no result"),
        ("tasks.a.result.nul", "holds a NUL byte"),
    ],
)
def test_a_result_that_is_not_there_fails_the_task_at_once(life: Life, hole: str, said: str) -> None:
    tasks = {
        "a": {"run": hand_in({"list": [], "nul": "\0"})},
        "b": {"run": ["true"]},
        "c": {"needs": ["a", "b"], "run": ["touch never; echo {{ %s }}" % hole]},  # noqa: UP031 braces
    }
    found = work_off(life, tasks)["c"]
    assert (found.state, found.attempt) == (State.FAILED, 1)
    assert found.error is not None
    assert said in found.error


def test_an_empty_program_is_told_before_anything_runs(life: Life) -> None:
    tasks = {"a": {"run": hand_in("")}, "b": {"needs": ["a"], "run": [["{{ tasks.a.result }}", "x"]]}}
    found = work_off(life, tasks)["b"]
    assert (found.error, found.attempt) == ("filled in, run holds an empty command", 1)


# -- conditions ---------------------------------------------------------------------------------------------


def test_a_condition_decides_and_what_needs_a_skipped_task_runs(life: Life) -> None:
    tasks = {
        "a": {"run": hand_in({"n": 3, "kinds": ["x"]})},
        "yes": {
            "needs": ["a"],
            "when": "tasks.a.result.n > 2 and params.mode == 'full'",
            "run": ["echo ran"],
        },
        "no": {
            "needs": ["a"],
            "when": "not ('x' in tasks.a.result.kinds)",
            "run": ["touch {{ workflow.dir }}/ran"],
        },
        "after": {"needs": ["no"], "run": ["echo {{ tasks.no.skipped }} {{ tasks.no.state }}"]},
        "void": {"when": "params.mode == '{{ tasks.a.result }}'", "run": ["echo {{ params.mode }}"]},
    }  # fmt: skip
    found = work_off(life, tasks, mode="full")
    assert out(found["yes"]) == "ran\n"
    assert found["no"].skipped
    assert found["no"].result == {
        "skipped": True,
        "why": "when: not ('x' in tasks.a.result.kinds) is false (tasks.a.result.kinds is [\"x\"])",
    }
    assert not (life.home.workflows / "w-1" / "ran").exists()
    assert out(found["after"]) == "true COMPLETED\n"
    assert found["void"].skipped


def test_a_condition_that_cannot_be_decided_fails_the_task_at_once(life: Life) -> None:
    tasks = {
        "a": {"run": hand_in({"n": "3"})},
        "b": {"needs": ["a"], "when": "tasks.a.result.n > 2", "run": ["true"]},
    }
    found = work_off(life, tasks)["b"]
    assert (found.state, found.attempt) == (State.FAILED, 1)
    assert found.error is not None
    assert 'at character 18: > takes two numbers or two texts, not "3" and 2' in found.error


# -- fan-out ------------------------------------------------------------------------------------------------


def test_fan_out_and_fan_in(life: Life) -> None:
    tasks = {
        "part": {
            "for_each": "{{ params.parts }}",
            "run": [["echo", "{{ index }}:{{ item }}"], 'printf %s {{ item }} | wc -c > "$AI_INFRA_RESULT"'],
        },
        "sum": {
            "needs": ["part"],
            "run": ["echo {{ tasks.part.result }} {{ tasks.part.result[1] }} {{ tasks.part.state }}"],
        },
        "some": {
            "for_each": ["{{ params.parts }}", {"k": [PLAIN_HOSTILE]}],
            "run": [["echo", "{{ item }}"]],
            "when": "index == 2",
        },
        "deep": {"for_each": [{"k": [PLAIN_HOSTILE]}], "run": ["printf %s {{ item.k[0] }}"]},
        "none": {"for_each": [], "run": ["true"]},
        "last": {"needs": ["none"], "run": ["echo {{ tasks.none.result }} {{ tasks.none.state }}"]},
    }  # fmt: skip
    found = work_off(life, tasks, parts="ab, c d,e")
    assert [name for name in found if name.startswith("part")] == ["part-1", "part-2", "part-3"]
    assert out(found["part-2"]) == "2:c d\n"
    assert out(found["sum"]) == "[2,3,1] 3 COMPLETED\n"
    assert [found[f"some-{i}"].skipped for i in (1, 2)] == [True, False]
    assert json.loads(out(found["some-2"])) == {"k": [PLAIN_HOSTILE]}
    assert out(found["deep-1"]) == PLAIN_HOSTILE
    assert out(found["last"]) == "[] COMPLETED\n"


# -- timeouts -----------------------------------------------------------------------------------------------


def test_after_the_soft_timeout_a_command_may_still_end_well(life: Life) -> None:
    text = "trap 'echo saved; exit 0' TERM; while :; do sleep 0.02; done"
    tasks = {"a": {"run": [text, "echo next"], "soft_timeout_s": 0.3, "timeout_s": 20}}
    assert out(work_off(life, tasks)["a"]).endswith("saved\nnext\n")


def test_a_command_that_ends_by_the_soft_timeout_says_so(life: Life) -> None:
    spec = {"run": ["exec sleep 60"], "soft_timeout_s": 0.2, "timeout_s": 20, "max_attempts": 1}
    found = work_off(life, {"a": spec})["a"]
    assert found.error == (
        "told to end after 0.2 s (soft_timeout_s): command 1 of 1 was killed by signal 15: exec sleep 60"
    )


def test_only_what_was_told_is_killed_without_a_grace(life: Life) -> None:
    told = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
    untold = "trap 'echo saved; exit 1' TERM; while :; do sleep 0.02; done"
    spec = {"run": [told, untold], "soft_timeout_s": 0.2, "timeout_s": 0.8, "max_attempts": 1}
    found = work_off(life, {"a": spec})["a"]
    assert found.error == "not finished after 0.8 s (timeout_s)"
    assert str((found.result or {})["output_tail"]).endswith("saved\n")


def test_a_command_that_was_not_told_failed_by_itself(life: Life) -> None:
    told = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
    spec = {"run": [told, "exit 3"], "soft_timeout_s": 0.2, "timeout_s": 20, "max_attempts": 1}
    assert work_off(life, {"a": spec})["a"].error == "command 2 of 2 ended with exit code 3: exit 3"


def test_the_hard_timeout_kills_the_whole_group_at_once(life: Life) -> None:
    beat = life.scratch.root / "beat"
    text = (
        f"trap '' TERM; (trap '' TERM; while :; do date +%s%N >> {beat}; sleep 0.02; done) & wait; sleep 60"
    )
    spec = {"run": [text], "soft_timeout_s": 0.2, "timeout_s": 0.6, "max_attempts": 1}
    found = work_off(life, {"a": spec})["a"]
    assert found.error == "not finished after 0.6 s (timeout_s)"
    assert found.finished_at is not None
    assert found.started_at is not None
    took_s = (found.finished_at - found.started_at).total_seconds()
    assert 0.5 < took_s < life.settings.tasks.grace_s  # it was told already: no second grace
    last = int(beat.read_text().split()[-1]) / 1e9
    assert last < found.finished_at.timestamp() + 0.1


# -- retry rules --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("run", "more", "attempts", "said"),
    [
        ("exit 75", {"retry": {"only_for": ["exit:75"], "max_attempts": 3, "delay_s": 0}}, 3, "code 75"),
        ("exit 2", {"retry": {"only_for": ["exit:75"]}}, 1, "(not tried again: only for exit:75)"),
        ("exit 2", {"retry": {"not_for": ["exit:1-10"]}}, 1, "(not tried again: exit:1-10 is in not_for)"),
        ("exit 11", {"retry": {"not_for": ["exit:1-10"], "max_attempts": 2}}, 2, "code 11: exit 11"),
        ("kill -9 $$", {"retry": {"not_for": ["exit:137"]}}, 1, "exit:137 is in not_for"),
        ("sleep 60", {"timeout_s": 0.2, "retry": {"not_for": ["timeout"]}}, 1, "timeout is in not_for"),
        ("sleep 60", {"soft_timeout_s": 0.2, "retry": {"not_for": ["timeout"]}}, 1, "timeout is in"),
        ("true", {"expect": [{"file": "no"}], "retry": {"not_for": ["check"]}}, 1, "check is in not_for"),
        ("echo x > $AI_INFRA_RESULT", {"retry": {"not_for": ["check"]}}, 1, "check is in not_for"),
        ("echo disk full; exit 1", {"retry": {"not_for": ["output:k (full|no)"]}}, 1, "(full|no) is in"),
        ("echo try later; exit 1", {"retry": {"only_for": ["output:r$"], "max_attempts": 2}}, 2, "code 1"),
        ("echo late; sleep 60", {"timeout_s": 0.3, "retry": {"not_for": ["output:^late$"]}}, 1, "is in"),
    ],
)  # fmt: skip
def test_retry_rules(life: Life, run: str, more: dict[str, Any], attempts: int, said: str) -> None:
    found = work_off(life, {"a": {"run": [run], "retry_delay_s": None, **more}})["a"]
    assert (found.state, found.attempt) == (State.FAILED, attempts)
    assert found.error is not None
    assert said in found.error


def test_a_fault_of_the_machine_follows_the_rules_too(life: Life) -> None:
    life.home.workflows.rmdir()
    life.home.workflows.write_text("no folder")
    spec = {"run": ["true"], "retry": {"not_for": ["machine"]}}
    found = work_off(life, {"a": spec})["a"]
    assert (found.state, found.attempt) == (State.FAILED, 1)
    assert found.error is not None
    assert "(not tried again: machine is in not_for)" in found.error


# -- cancelled, or upstreams gone ---------------------------------------------------------------------------


def test_an_upstream_that_is_not_kept_any_longer_is_told(life: Life) -> None:
    gone: list[TaskView] = []

    async def body(life: Life) -> None:
        first, _ = await life.submit("true"), None
        await life.ended(first)
        from engine_kit import task

        spec = task("late", first, run=("echo {{ tasks.up.result }}",), inputs={"up": (0,)}, values={})
        connection = life.person.connection
        go = life.scratch.root / "go"
        await life.submit(f"until [ -e {go} ]; do sleep 0.02; done")
        await life.person.submit([spec])
        await connection.command("DEL", connection.key(f"t:{first}"), connection.key(f"p:{first}"))
        go.touch()
        gone.append(await life.ended(TaskId("late")))

    life.run(body)
    assert gone[0].error == "tasks.up.result: up is GONE and handed in no result"
    assert Path(life.home.root).exists()
