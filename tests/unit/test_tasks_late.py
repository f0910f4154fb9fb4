"""What is known only when a task is claimed: names of upstreams, filled texts, skipping."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_infra.core.ids import AgentName, TaskId
from ai_infra.tasks.late import NotFit, filled, inputs_of, names_for, skipped
from ai_infra.tasks.task import Expect, State, TaskSpec, TaskView

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def spec(**changes: Any) -> TaskSpec:
    values: dict[str, Any] = {
        "id": TaskId("b"), "name": "b", "agent": AgentName("code"), "run": (("true",),),
        "needs": (TaskId("a"),), "inputs": {"a": (0,)}, "values": {},
    }  # fmt: skip
    return TaskSpec(**(values | changes))


def view(state: State = State.COMPLETED, **result: Any) -> TaskView:
    of = TaskSpec(id=TaskId("a"), name="a", agent=AgentName("code"), run=(("true",),))
    return TaskView(
        spec=of, state=state, attempt=1, worker=None, created_at=NOW, ready_at=None, started_at=None,
        finished_at=None, error=None, result=result or None, open_needs=0, waits=(),
    )  # fmt: skip


def fill(task: TaskSpec, *upstreams: TaskView | None) -> TaskSpec:
    return filled(task, names_for(task, inputs_of(task, upstreams)))


TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)


@given(TEXTS, TEXTS)
@example("{{ tasks.a.result }}", "{{ params.p }}")
@example("{", "{ params.p }}")
@example("\\", "'")
@settings(max_examples=40, deadline=None)
def test_any_value_arrives_as_it_is_and_is_never_a_template(param: str, value: str) -> None:
    both = "{{ params.p }}{{ tasks.a.result.v }}"
    ready = fill(
        spec(
            run=(("x", both), f"printf %s {both}"),
            env={"E": both},
            cwd=f"/{both}",
            expect=(Expect(output_matches=f"^{both}$"), Expect(file=f"/{both}"), Expect(command=("y", both))),
            values={"params.p": param},
        ),
        view(value={"v": value}),
    )
    whole = param + value
    assert ready.run[0] == ("x", whole)
    assert (ready.env["E"], ready.cwd) == (whole, f"/{whole}")
    assert [ready.expect[1].file, ready.expect[2].command] == [f"/{whole}", ("y", whole)]
    done = subprocess.run(["bash", "-c", str(ready.run[1])], capture_output=True, check=True)
    assert done.stdout == whole.encode()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


@given(_JSON)
@settings(max_examples=60, deadline=None)
def test_a_value_keeps_its_kind_where_json_is_compared(value: Any) -> None:
    equal = Expect(file="f", json_path="a", equals="{{ tasks.a.result.v }}")
    ready = fill(spec(run=(("x", "{{ tasks.a.result.v }}"),), expect=(equal,)), view(value={"v": value}))
    assert ready.expect[0].equals == value
    text = ready.run[0][1]
    assert text == value if isinstance(value, str) else json.loads(text) == value


def test_a_spec_without_values_is_left_alone_whatever_it_holds() -> None:
    task = spec(run=(("x", "{{ tasks.a.result }}"),), values=None)
    assert fill(task, view()) is task


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ tasks.a.result }}", "tasks.a.result: a is FAILED and handed in no result"),
        ("{{ tasks.z.state }}", "tasks.z.state: the task does not need 'z'"),
        ("{{ item }}", "unknown template {{ item }}"),
    ],
)
def test_what_is_not_there_is_named(text: str, said: str) -> None:
    with pytest.raises(NotFit) as caught:
        fill(spec(run=(("x", text),)), view(State.FAILED, exit_codes=[1]))
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"run": (("{{ tasks.a.result }}",),)}, "filled in, run holds an empty command"),
        ({"cwd": "{{ tasks.a.result }}"}, "filled in, cwd is not a path"),
        ({"expect": (Expect(file="{{ tasks.a.result }}"),)}, "filled in, expect file is not a path"),
    ],
)
def test_what_a_value_makes_unusable_is_said(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(NotFit, match=said):
        fill(spec(**changes), view(value=""))


def test_many_upstreams_of_one_name_are_a_list() -> None:
    task = spec(needs=(TaskId("a"), TaskId("b"), TaskId("c")), inputs={"m": (0, 2), "one": (2,)})
    found = inputs_of(task, [view(value=1), None, view(State.CANCELLED, skipped=True)])
    assert [each["state"] for each in found["m"]] == ["COMPLETED", "GONE"]
    assert found["one"]["state"] == "CANCELLED"
    names = names_for(task, found)
    assert names.value("tasks.m.result") == [1, None]
    assert names["tasks.m.result[0]"] == "1"


@pytest.mark.parametrize(
    ("when", "said"),
    [("1 ==", "when: 1 ==: at character 5"), ("item == 1", "at character 1: unknown name 'item'")],
)
def test_a_condition_that_does_not_read_fails_the_task(when: str, said: str) -> None:
    task = spec(when=when)
    with pytest.raises(NotFit, match=said):
        skipped(task, names_for(task, inputs_of(task, [view()])))
