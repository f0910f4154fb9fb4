"""Workflow files and templates."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.errors import ConfigError
from ai_infra.core.ids import WorkflowId
from ai_infra.tasks.spec import dump_spec, load_spec
from ai_infra.tasks.task import Expect, NeedsRule, TaskSpec, WorkflowHeader
from ai_infra.tasks.template import TemplateError, fill, fill_bash, fill_pattern
from ai_infra.tasks.workflow import check_workflow, load_workflow

AGENTS = ("code", "research", "qa")
GOOD = """\
name: checkup
description: look at it
params:
  repo: {required: true, description: the folder}
  depth: {default: 3}
tasks:
  inventory:
    agent: research
    description: look at {{ params.repo }}
    priority: 6
    timeout_s: 30
    max_attempts: 2
    retry_delay_s: 0.5
    env: {REPO: "{{ params.repo }}", N: 3}
    cwd: "{{ workflow.dir }}"
    run:
      - [git, -C, "{{ params.repo }}", log, -1]
      - ls {{ params.repo }} > {{ task.id }}.txt
    expect:
      - {file: "{{ task.id }}.txt"}
      - {output_matches: "in {{ params.repo }}: \\\\d+"}
      - {exit_code: 0}
      - {json: {file: out.json, path: "a.b[0].c", equals: 3}}
      - {command: [test, -f, out.json]}
  report:
    agent: qa
    needs: [inventory]
    needs_rule: all_done
    run: [[cat, "{{ workflow.id }}", "{{ params.depth }}"]]
"""


def load(folder: Path, text: str, **params: str) -> tuple[WorkflowHeader, list[TaskSpec]]:
    path = folder / "w.yaml"
    path.write_text(text)
    return load_workflow(
        path, params, agents=AGENTS, workflow_dir=Path("/wf"), workflow_id=WorkflowId("wf-1")
    )


def test_everything_arrives(tmp_path: Path) -> None:
    header, (first, second) = load(tmp_path, GOOD, repo="/a b.c")
    assert header.name == "checkup"
    assert header.params == {"repo": "/a b.c", "depth": "3"}
    assert (header.id, header.dir) == ("wf-1", "/wf")
    assert (first.id, first.name, first.agent, first.workflow) == (
        "wf-1.inventory",
        "inventory",
        "research",
        "wf-1",
    )
    assert (first.priority, first.timeout_s, first.max_attempts, first.retry_delay_s) == (6, 30.0, 2, 0.5)
    assert first.description == "look at /a b.c"
    assert first.env == {"REPO": "/a b.c", "N": "3"}
    assert first.cwd == "/wf"
    assert first.run == (
        ("git", "-C", "/a b.c", "log", "-1"),
        "ls '/a b.c' > wf-1.inventory.txt",
    )
    assert first.expect == (
        Expect(file="wf-1.inventory.txt"),
        Expect(output_matches=r"in /a\ b\.c: \d+"),
        Expect(exit_code=0),
        Expect(file="out.json", json_path="a.b[0].c", equals=3),
        Expect(command=("test", "-f", "out.json")),
    )
    assert second.needs == ("wf-1.inventory",)
    assert second.needs_rule is NeedsRule.ALL_DONE
    assert second.run == (("cat", "wf-1", "3"),)


def test_locks_and_times(tmp_path: Path) -> None:
    more = "    locks: [repo, '{{ params.db }}']\n    delay_s: 60\n    deadline_s: 3600\n"
    _, (task,) = load(tmp_path, "params: {db: {default: main}}\n" + T + more)
    assert task.locks == ("repo", "main")
    assert task.not_before is not None
    assert task.deadline_at is not None
    assert (task.deadline_at - task.not_before).total_seconds() == 3540
    assert load_spec(dump_spec(task)) == task


def test_undo(tmp_path: Path) -> None:
    text = GOOD.replace("name: checkup", "name: checkup\natomic: true").replace(
        "    needs: [inventory]\n", "    needs: [inventory]\n    undo: ['rm {{ params.repo }}', [x, 1]]\n"
    )
    header, (first, second) = load(tmp_path, text, repo="/a b")
    assert header.atomic
    assert (first.undo, first.undo_on_failure) == ((), False)
    assert second.undo == ("rm '/a b'", ("x", "1"))
    assert not load(tmp_path, GOOD, repo="x")[0].atomic
    half = text.replace("    undo:", "    undo_on_failure: true\n    undo:")
    assert load(tmp_path, half, repo="x")[1][1].undo_on_failure


T = "name: w\ntasks:\n  a:\n    agent: code\n    run: [[x]]\n"  # a good one to which bad lines are added

U = T + "  b:\n    agent: qa\n    needs: [a]\n    run: [[y]]\n"  # and a task that needs it


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (T + "    priorty: 3\n", 6, "tasks.a.priorty: unknown key; did you mean 'priority'"),
        (T + "    locks: [Repo]\n", 3, "locks 'Repo' is not a name"),
        (T + "    locks: repo\n", 6, "must be a list"),
        (T + "    delay_s: -1\n", 6, "must be a number from 0"),
        (T + "    delay_s: 9\n    deadline_s: 5\n", 3, "could never run"),
        (T + "taks: 1\n", 6, "taks: unknown key; did you mean 'tasks'"),
        (T.replace("agent: code", "agent: cod"), 4, "unknown agent 'cod'; known: code, qa, research"),
        (T.replace("    agent: code\n", ""), 3, "tasks.a.agent: is missing"),
        (T + "    needs: [b]\n  b:\n    agent: qa\n    run: [[x]]\n    needs: [a]\n", 6, "cycle: a → b → a"),
        (T + "    needs: [a]\n", 6, "cycle: a → a"),
        (T + "    needs: [z]\n", 6, "no task is named 'z'"),
        (T + "    needs: [b, b]\n  b: {agent: qa, run: [[x]]}\n", 6, "stands twice"),
        (T + "  a:\n    agent: qa\n", 6, "'a' stands twice"),
        (T.replace("[[x]]", "[]"), 5, "tasks.a.run: is missing or empty"),
        (T.replace("[[x]]", "[[]]"), 5, "list of words"),
        (T.replace("[[x]]", "['  ']"), 5, "empty"),
        (T.replace("[[x]]", "[['']]"), 5, "empty"),
        (T.replace("[[x]]", "x"), 5, "must be a list"),
        (T.replace("[[x]]", "[[x, true]]"), 5, "put it in quotes"),
        (T.replace("[[x]]", "[[x, [y]]]"), 5, "must be a text"),
        (T.replace("[[x]]", "[{a: b}]"), 5, "list of words, or a text"),
        (T + "    expect: [{output_matches: '('}]\n", 6, "not a regular expression"),
        (T + "    expect: [{fil: a}]\n", 6, "did you mean 'file'"),
        (T + "    expect: [{file: a, exit_code: 0}]\n", 6, "one check each"),
        (T + "    expect: [{exit_code: x}]\n", 6, "0 to 255"),
        (T + "    expect: [{exit_code: 256}]\n", 6, "0 to 255"),
        (T + "    expect: [{json: {file: a, path: b}}]\n", 6, "equals is missing"),
        (T + "    expect: [{json: {file: a, path: '[', equals: 1}}]\n", 6, "not a path like"),
        (T + "    expect: {file: a}\n", 6, "must be a list"),
        (T + "    expect: [file]\n", 6, "must be a mapping"),
        (T + "    priority: 11\n", 6, "from 1 to 10, not 11"),
        (T + "    priority: 0\n", 6, "from 1 to 10"),
        (T + "    priority: 2.5\n", 6, "whole number"),
        (T + "    priority: true\n", 6, "whole number"),
        (T + "    timeout_s: 0\n", 6, "must be a number"),
        (T + "    timeout_s: .nan\n", 6, "must be a number"),
        (T + "    timeout_s: soon\n", 6, "must be a number"),
        (T + "    max_attempts: 0\n", 6, "from 1 to 100"),
        (T + "    needs_rule: any\n", 6, "unknown rule 'any'"),
        (T + "    needs: b\n", 6, "must be a list"),
        (T + "    env: [A]\n", 6, "must be a mapping"),
        (T + "    env: {A: [1]}\n", 6, "must be a text"),
        (T + "    env: {1A: x}\n", 3, "not a variable name"),
        # results of upstreams
        (T + "    cwd: '{{ tasks.b.result }}'\n", 6, "does not need 'b'; add it to needs (it has: none)"),
        (
            U + "    cwd: '{{ tasks.a.result }}'\n  c:\n    agent: qa\n    needs: [b]\n"
            "    run: ['{{ tasks.a.result }}']\n",
            14,
            "tasks.c.run.0: tasks.a.result: the task does not need 'a'",
        ),
        (U + "    cwd: '{{ tasks.a }}'\n", 10, "say tasks.NAME.PART"),
        (U + "    cwd: '{{ tasks.a.results }}'\n", 10, "PART is one of state, exit_code, output"),
        (U + "    cwd: '{{ tasks.a.output.x }}'\n", 10, "output has nothing below it"),
        (U + "    description: '{{ tasks.a.state }}'\n", 10, "known only when the task is claimed"),
        (U.replace("agent: qa", "agent: '{{ tasks.a.state }}'"), 7, "known only when the task is claimed"),
        (U + "    env: {X: '{{ task.a.result }}'}\n", 10, "unknown template {{ task.a.result }}"),
        (U.replace("[[y]]", "['echo \"{{ tasks.a.result }}\"']"), 9, "inside double quotes"),
        (U.replace("[[y]]", "['echo $(({{ tasks.a.result }}))']"), 9, "in arithmetic"),
        # conditions
        (T + "    when: 3\n", 6, "must be a condition, not 3"),
        (T + "    when: ''\n", 6, "must be a condition"),
        (T + "    when: 1 = 1\n", 6, "tasks.a.when: at character 3: unexpected '=', in: 1 = 1"),
        (T + "    when: x == 1\n", 6, "unknown name 'x'; texts stand in quotes"),
        (T + "    when: tasks.b.state == 'FAILED'\n", 6, "does not need 'b'"),
        (T + "    when: item == 1\n", 6, "unknown name 'item'"),
        # for_each
        (T + "    for_each:\n", 6, "must be a list, or one template that gives one, not null"),
        (T + "    for_each: 3\n", 6, "must be a list, or one template"),
        (T + "    for_each: a, b\n", 6, "must be a list, or one template"),
        (T + "    for_each: '{{ params.z }}'\n", 6, "unknown template"),
        (T + "    for_each: []\n", 2, "for_each without items; nothing would run"),
        (T + "    for_each: [2020-01-01]\n", 6, "an item holds datetime.date(2020, 1, 1)"),
        (T + "    for_each: [.nan]\n", 6, "an item holds nan"),
        (T + "    for_each: [{1: a}]\n", 6, "a key of an item must be a text"),
        (T + f"    for_each: {list(range(1001))}\n", 6, "holds 1001 items, more than 1000"),
        (T + "    for_each: [x]\n  a-1: {agent: qa, run: [[x]]}\n", 6, "name of another task, a-1"),
        (T + "    for_each: [x]\n    cwd: '{{ item.k }}'\n", 7, "item.k: nothing at 'k', in x"),
        (T + "    cwd: '{{ item }}'\n", 6, "unknown template {{ item }}"),
        (U + "    for_each: '{{ tasks.a.result }}'\n", 10, "tasks.a.result is known only when a task"),
        (
            U.replace("run: [[x]]", "run: [[x]]\n    for_each: [x]") + "    cwd: '{{ tasks.a.output }}'\n",
            11,
            "a has for_each, so there are many; known: state, result",
        ),
        (
            "params: {p: {default: '[1'}}\n" + T + "    for_each: '{{ params.p }}'\n",
            7,
            "begins like a JSON list",
        ),
        (
            "params: {p: {default: 'a,,b'}}\n" + T + "    for_each: '{{ params.p }}'\n",
            7,
            "holds an empty item",
        ),
        # timeouts and retry rules
        (T + "    timeout_s: 5\n    soft_timeout_s: 5\n", 3, "soft_timeout_s 5 is not below timeout_s, 5"),
        (T + "    retry: 3\n", 6, "must be a mapping"),
        (T + "    retry: {max_attempt: 3}\n", 6, "did you mean 'max_attempts'"),
        (T + "    retry: {max_attempts: 0}\n", 6, "from 1 to 100"),
        (T + "    max_attempts: 2\n    retry: {max_attempts: 3}\n", 7, "is the same as max_attempts"),
        (T + "    retry: {only_for: timeout}\n", 6, "must be a list"),
        (T + "    retry: {only_for: [75]}\n", 6, "must be a text, not 75"),
        (
            T + "    retry:\n      not_for:\n        - exit:1\n        - output:(\n",
            9,
            "not a regular expression",
        ),
        (
            T.replace("[[x]]", "['" + "x" * 300_000 + "']"),
            3,
            "300070 bytes, more than 262144; put the text in a file",
        ),
        (T + "    undo: []\n", 6, "tasks.a.undo: is missing or empty"),
        (T + "    undo: [['{{ params.z }}']]\n", 6, "unknown template {{ params.z }}"),
        (T + "    undo_on_failure: 3\n", 6, "must be true or false"),
        (T + "    undo_on_failure: true\n", 3, "says when to run undo, and there is none"),
        (T + "atomic: perhaps\n", 6, "atomic: must be true or false"),
        (T + "    cwd: 3\n    description: [a]\n", 7, "must be a text"),
        (T + "    cwd: '{{ params.z }}'\n", 6, "unknown template {{ params.z }}"),
        (T + "    cwd: '{{ workflow.dirr }}'\n", 6, "did you mean workflow.dir?"),
        (T + "    cwd: '{{ workflow.dir '\n", 6, "not closed"),
        (T + "params: {q: {required: true}}\n", 6, "must be given"),
        (T + "params: {q: {requird: true}}\n", 6, "did you mean 'required'"),
        (T + "params: {q: {required: 3}}\n", 6, "true or false"),
        (T + "params: {q: {default: [a]}}\n", 6, "must be a text"),
        (T + "params: {Q!: {}}\n", 6, "not a name"),
        (T.replace("  a:", "  A b:"), 3, "not a name for a task"),
        (T.replace("name: w", "name: W!"), 1, "must be a name"),
        (T.replace("name: w", "nam: w"), 1, "did you mean 'name'"),
        ("name: w\n", 1, "at least one task"),
        ("name: w\ntasks: [a]\n", 2, "must be a mapping"),
        ("name: w\ntasks: {a: 3}\n", 2, "must be a mapping"),
        ("[a]\n", 1, "is a mapping"),
        ("name: [w\n", 2, "not valid YAML"),
    ],
)
def test_mistakes_name_the_line(tmp_path: Path, text: str, line: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert words in str(caught.value)
    assert f"w.yaml:{line}: " in str(caught.value)


def test_a_task_without_upstreams_is_filled_when_it_is_read(tmp_path: Path) -> None:
    text = "params: {p: {default: '{{ tasks.a.result }}'}}\n" + U.replace("[[y]]", "[[y, '{{ params.p }}']]")
    _, (first, second) = load(tmp_path, text)
    assert second.run == (("y", "{{ tasks.a.result }}"),)
    assert (first.values, second.values, first.inputs, second.inputs) == (None, None, {}, {"a": (0,)})


def test_texts_that_wait_for_an_upstream_stay_as_they_are(tmp_path: Path) -> None:
    b = "[[y, '{{ params.p }}', '{{ tasks.a.result.x }}', '{{ workflow.id }}']]"
    text = "params: {p: {default: '{{ tasks.a.result }}'}, q: {}}\n" + U.replace("[[y]]", b)
    _, (_, second) = load(tmp_path, text)
    assert second.run == (("y", "{{ params.p }}", "{{ tasks.a.result.x }}", "{{ workflow.id }}"),)
    assert second.values == {"params.p": "{{ tasks.a.result }}", "workflow.id": "wf-1"}
    assert load_spec(dump_spec(second)) == second


def test_each_item_is_a_task_and_what_needs_it_needs_all(tmp_path: Path) -> None:
    text = (
        U.replace("agent: code", "for_each: [code, {agent: qa, n: 1}, 3]\n    agent: '{{ params.a }}'")
        + "  c:\n    agent: qa\n    needs: [b, a]\n    run: ['{{ tasks.a.result[0].x }}']\n"
    )
    _, specs = load(tmp_path, "params: {a: {default: code}}\n" + text)
    assert [spec.name for spec in specs] == ["a-1", "a-2", "a-3", "b", "c"]
    assert specs[3].needs == ("wf-1.a-1", "wf-1.a-2", "wf-1.a-3")
    assert specs[3].inputs == {"a": (0, 3)}
    assert specs[4].inputs == {"b": (0,), "a": (1, 4)}


def test_the_agent_may_come_from_the_item(tmp_path: Path) -> None:
    each = "agent: '{{ item }}'\n    for_each: [code, qa]"
    _, specs = load(tmp_path, T.replace("agent: code", each))
    assert [spec.agent for spec in specs] == ["code", "qa"]
    with pytest.raises(ConfigError, match="unknown agent 'nobody'"):
        load(tmp_path, T.replace("agent: code", each.replace("qa", "nobody")))


@pytest.mark.parametrize(
    ("given", "items"),
    [
        ("a, b,c ", ["a", "b", "c"]),
        ('["a", {"b": 1}]', ["a", '{"b":1}']),
        (" ", []),
        ("[]", []),
        ("a", ["a"]),
    ],
)
def test_a_parameter_may_be_a_list(tmp_path: Path, given: str, items: list[str]) -> None:
    each = "for_each: '{{ params.p }}'\n    run: [['{{ item }}', '{{ index }}']]"
    text = "params: {p: {}}\n" + T.replace("run: [[x]]", each) + "  z: {agent: qa, run: [[z]]}\n"
    _, specs = load(tmp_path, text, p=given)
    assert [spec.run for spec in specs[:-1]] == [((item, str(i)),) for i, item in enumerate(items, 1)]


def test_retry_and_timeouts_arrive(tmp_path: Path) -> None:
    retry = (
        "{max_attempts: 3, delay_s: 0.5, max_delay_s: 9, only_for: ['exit:75', timeout], not_for: [check]}"
    )
    _, (spec,) = load(tmp_path, T + f"    retry: {retry}\n    soft_timeout_s: 5\n    timeout_s: 7\n")
    assert (spec.max_attempts, spec.retry_delay_s, spec.retry_max_delay_s) == (3, 0.5, 9.0)
    assert (spec.retry_only_for, spec.retry_not_for) == (("exit:75", "timeout"), ("check",))
    assert (spec.soft_timeout_s, spec.timeout_s) == (5.0, 7.0)
    assert load_spec(dump_spec(spec)) == spec


def test_an_alias_bomb_is_refused(tmp_path: Path) -> None:
    bomb = "a0: &a0 [x, x]\n" + "".join(
        f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)
    )
    with pytest.raises(ConfigError, match="grows past"):
        load(tmp_path, bomb + T)


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    def read(path: Path) -> None:
        load_workflow(path, {}, agents=AGENTS, workflow_dir=tmp_path, workflow_id=WorkflowId("w"))

    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "none.yaml")
    (tmp_path / "big.yaml").write_text("#" * 1_100_000)
    with pytest.raises(ConfigError, match="larger than"):
        read(tmp_path / "big.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\n")
    with pytest.raises(ConfigError, match="UTF-8"):
        read(tmp_path / "bytes.yaml")


def test_an_unknown_parameter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no parameter 'rep'; known parameters: repo, depth"):
        load(tmp_path, GOOD, rep="x")


def test_a_file_can_be_checked_without_its_parameters(tmp_path: Path) -> None:
    path = tmp_path / "w.yaml"
    path.write_text(GOOD)
    check_workflow(path, agents=AGENTS)
    path.write_text(GOOD.replace("agent: qa", "agent: nobody"))
    with pytest.raises(ConfigError, match="unknown agent"):
        check_workflow(path, agents=AGENTS)
    path.write_text("params: [a]\n" + T)
    with pytest.raises(ConfigError, match="must be a mapping"):
        check_workflow(path, agents=AGENTS)


class TestTemplates:
    VALUES: ClassVar = {"x": "a b", "params.name": "$(touch /tmp/never)"}

    def test_plain(self) -> None:
        assert fill("<{{ x }}> {{x}} {}", self.VALUES) == "<a b> a b {}"

    def test_values_are_not_filled_again(self) -> None:
        assert fill("{{ x }}", {"x": "{{ y }}"}) == "{{ y }}"

    def test_pattern(self) -> None:
        assert fill_pattern("{{ x }}+", {"x": "a.b"}) == r"a\.b+"

    @pytest.mark.parametrize(
        "text",
        [
            'echo "{{ x }}"',
            "echo '{{ x }}'",
            "echo $'it\\'s {{ x }}'",
            "echo `ls {{ x }}`",
            'echo "$(ls {{ x }})"',
            "echo a # {{ x }}",
            "cat <<EOF\n{{ x }}\nEOF",
            "echo \\{{ x }}",
            "echo $(( {{ x }} + 1 ))",
            "(( n = {{ x }} ))",
            "for (( i = 0; i < {{ x }}; i++ )); do :; done",
            "echo $[ {{ x }} ]",
            "let {{ x }}",
            "true; let n={{ x }}",
            "declare -i n={{ x }}",
            "a[{{ x }}]=1",
            "a=([{{ x }}]=1)",
            "a=(x [{{ x }}]=1)",
            "echo ${V:{{ x }}}",
            "[[ {{ x }} -eq 1 ]]",
            "[[ 1 -lt {{ x }} ]]",
            "[[ -v {{ x }} ]]",
            "test -v {{ x }}",
            "printf -v {{ x }} 1",
            "if read {{ x }}; then :; fi",
        ],
    )
    def test_bash_refuses_where_quoting_would_not_hold(self, text: str) -> None:
        with pytest.raises(TemplateError, match="quoted"):
            fill_bash(text, self.VALUES)

    @pytest.mark.parametrize(
        "text",
        [
            "echo {{ x }}",
            "a='b' # don't\necho {{ x }}",
            'echo "a\\"b"{{ x }}',
            "cat <<< {{ x }}",
            "a#{{ x }}",
            "echo $((1 + 2)) {{ x }}",
            "export X={{ x }}; local Y={{ x }}",
            "[[ {{ x }} == a ]] && [ {{ x }} -eq 1 ]",
            "grep -v {{ x }} ${V:-file}; read line; ls [ab]* {{ x }}",
            "echo '((' {{ x }} \"[[ -eq\" \\[ {{ x }} # ${",
            "f() { echo {{ x }}; }",
        ],
    )
    def test_bash_quotes_elsewhere(self, text: str) -> None:
        assert fill_bash(text, self.VALUES) == text.replace("{{ x }}", "'a b'")

    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30))
    @settings(max_examples=25, deadline=None)
    def test_bash_sees_one_word(self, value: str) -> None:
        text = fill_bash("printf %s {{ v }}", {"v": value})
        assert shlex.split(text) == ["printf", "%s", value]
        done = subprocess.run(["bash", "-c", text], capture_output=True, check=True)
        assert done.stdout == value.encode()
