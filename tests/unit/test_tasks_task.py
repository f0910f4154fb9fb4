"""States, specs and their stored form."""

from __future__ import annotations

import json
import string
from dataclasses import fields, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ai_infra.core.errors import UsageError
from ai_infra.core.ids import AgentName, TaskId, WorkflowId
from ai_infra.tasks.spec import (
    SpecError,
    _problems,
    check_spec,
    dump_header,
    dump_json,
    dump_spec,
    load_header,
    load_spec,
)
from ai_infra.tasks.submit import batches, ordered
from ai_infra.tasks.task import (
    ACTIVE,
    MOVES,
    OPEN,
    TERMINAL,
    Command,
    Expect,
    NeedsRule,
    State,
    TaskSpec,
    WorkflowHeader,
    workflow_state,
)
from ai_infra.tasks.undo import undo_payload, undo_spec


def spec(task: str = "t1", **changes: Any) -> TaskSpec:
    values: dict[str, Any] = {"id": task, "name": task, "agent": "code", "run": (("true",),)}
    return TaskSpec(**(values | changes))


ids = st.text(string.ascii_letters + string.digits, min_size=1, max_size=12).map(TaskId)
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20)
instants = st.datetimes(datetime(2026, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
words = texts.filter(lambda t: bool(t.strip()))
commands = words | st.tuples(words, texts)
expects = st.one_of(
    st.builds(Expect, exit_code=st.integers(0, 255)),
    st.builds(Expect, output_matches=st.sampled_from(["ok", "a+b", r"\d"])),
    st.builds(Expect, file=words),
    st.builds(Expect, command=commands),
    st.builds(
        Expect,
        file=words,
        json_path=st.just("a.b[0]"),
        equals=st.none() | st.integers() | texts | st.lists(st.booleans()),
    ),
)
specs = st.builds(
    TaskSpec,
    id=ids,
    name=st.just("name"),
    agent=st.just(AgentName("code")),
    run=st.lists(commands, min_size=1, max_size=3).map(tuple),
    expect=st.lists(expects, max_size=3).map(tuple),
    env=st.dictionaries(st.sampled_from(["A", "B_1"]), texts),
    priority=st.integers(1, 10),
    timeout_s=st.floats(0.1, 1e6),
    max_attempts=st.integers(1, 100),
    needs=st.lists(ids, max_size=3, unique=True).map(tuple),
    needs_rule=st.sampled_from(NeedsRule),
    workflow=st.none() | ids.map(WorkflowId),
    description=texts,
    cwd=st.none() | words,
    retry_delay_s=st.floats(0, 1e5),
    retry_max_delay_s=st.floats(0, 1e5),
    not_before=st.none() | instants,
    deadline_at=st.none() | instants,
    key=st.none() | ids,
    locks=st.lists(st.sampled_from(["repo", "db", "net"]), unique=True).map(tuple),
    retry_only_for=st.lists(st.sampled_from(["exit:1-9", "timeout", "output:a+"]), max_size=2).map(tuple),
    retry_not_for=st.lists(st.sampled_from(["check", "machine"]), max_size=2).map(tuple),
    soft_timeout_s=st.none() | st.floats(0.01, 0.09),
    inputs=st.dictionaries(texts, st.just((0, 0)), max_size=2),
    values=st.none() | st.dictionaries(texts, texts | st.integers() | st.lists(texts), max_size=2),
).filter(lambda t: not _problems(t))


def fitting(task: TaskSpec) -> TaskSpec:
    """With undo only where there is a workflow, and a key only where there is none."""
    if task.workflow is None:
        return replace(task, undo=(), undo_on_failure=False)
    return replace(task, key=None, undo_on_failure=task.undo_on_failure and bool(task.undo))


specs = (
    st.builds(
        TaskSpec,
        id=ids,
        name=st.just("name"),
        agent=st.just(AgentName("code")),
        run=st.lists(commands, min_size=1, max_size=3).map(tuple),
        expect=st.lists(expects, max_size=3).map(tuple),
        env=st.dictionaries(st.sampled_from(["A", "B_1"]), texts),
        priority=st.integers(1, 10),
        timeout_s=st.floats(0.1, 1e6),
        max_attempts=st.integers(1, 100),
        needs=st.lists(ids, max_size=3, unique=True).map(tuple),
        needs_rule=st.sampled_from(NeedsRule),
        workflow=st.none() | ids.map(WorkflowId),
        description=texts,
        cwd=st.none() | words,
        retry_delay_s=st.floats(0, 1e5),
        retry_max_delay_s=st.floats(0, 1e5),
        not_before=st.none() | instants,
        deadline_at=st.none() | instants,
        key=st.none() | ids,
        locks=st.lists(st.sampled_from(["repo", "db", "net"]), unique=True).map(tuple),
        undo=st.lists(commands, max_size=2).map(tuple),
        undo_on_failure=st.booleans(),
    )
    .map(fitting)
    .filter(lambda t: not _problems(t))
)


class TestMoves:
    def test_terminal_and_open_share_nothing_and_are_everything(self) -> None:
        assert set(State) == TERMINAL | OPEN
        assert not TERMINAL & OPEN
        assert ACTIVE < OPEN

    def test_every_state_has_a_row_and_can_be_reached(self) -> None:
        assert MOVES.keys() == set(State)
        reached, front = {State.PENDING}, {State.PENDING}
        while front:
            front = set().union(*(MOVES[s] for s in front)) - reached
            reached |= front
        assert reached == set(State)

    def test_completed_is_for_ever(self) -> None:
        assert not MOVES[State.COMPLETED]

    def test_every_open_state_can_end(self) -> None:
        for state in OPEN:
            assert State.CANCELLED in MOVES[state]


class TestStoredForm:
    @given(specs)
    @settings(max_examples=150)
    def test_round_trip(self, task: TaskSpec) -> None:
        check_spec(task)
        assert load_spec(dump_spec(task)) == task
        assert dump_spec(load_spec(dump_spec(task))) == dump_spec(task)

    def test_a_json_check_for_null_survives(self) -> None:
        task = spec(expect=(Expect(file="f", json_path="a", equals=None),))
        assert load_spec(dump_spec(task)) == task

    @pytest.mark.parametrize(
        "change",
        [
            {"surprise": 1},
            {"priority": "5"},
            {"priority": True},
            {"run": "x"},
            {"run": [[1]]},
            {"needs_rule": "any"},
            {"needs": [3]},
            {"env": {"A": 1}},
            {"expect": [{"what": 1}]},
            {"expect": [{}]},
            {"expect": [{"exit_code": "0"}]},
            {"agent": None},
            {"timeout_s": None},
            {"retry_only_for": [1]},
            {"inputs": {"a": ["x"]}},
            {"values": []},
            {"when": 3},
        ],
    )
    def test_anything_else_is_refused(self, change: dict[str, Any]) -> None:
        data = json.loads(dump_spec(spec())) | change
        with pytest.raises(UsageError):
            load_spec(json.dumps(data))

    @pytest.mark.parametrize("text", ["", "[]", "{", "null"])
    def test_not_an_object(self, text: str) -> None:
        with pytest.raises(SpecError):
            load_spec(text)

    def test_too_big(self) -> None:
        with pytest.raises(SpecError, match="more than 262144"):
            dump_spec(spec(description="x" * 300_000))

    def test_not_json(self) -> None:
        with pytest.raises(SpecError):
            dump_json({"a": {1, 2}})
        with pytest.raises(SpecError):
            dump_json({"a": float("nan")})

    def test_header_round_trip(self) -> None:
        for atomic in (False, True):
            header = WorkflowHeader(id=WorkflowId("w"), name="n", params={"a": "b"}, dir="/x", atomic=atomic)
            assert load_header(dump_header(header)) == header
            assert ("atomic" in dump_header(header)) is atomic  # else as it was before there was such a thing

    @given(specs, st.lists(commands, min_size=1, max_size=2).map(tuple))
    @settings(max_examples=50)
    def test_the_task_that_undoes_one(self, task: TaskSpec, undo_commands: tuple[Command, ...]) -> None:
        task = replace(task, workflow=WorkflowId("w"), undo=undo_commands, key=None)
        undo = undo_spec(task)
        assert load_spec(undo_payload(task)) == undo
        assert not _problems(replace(undo, needs=()))
        assert undo.needs[-2:] == (task.id, undo.id)
        assert not undo.undo_on_failure

    def test_of_every_field_it_is_decided_what_the_undo_task_has(self) -> None:
        own = {
            "id", "name", "description", "run", "expect", "needs", "needs_rule", "priority", "not_before",
            "deadline_at", "when", "undo", "undo_on_failure", "undo_of",
        }  # fmt: skip
        its_steps = {
            "agent", "kind", "env", "timeout_s", "max_attempts", "workflow", "cwd", "retry_delay_s",
            "retry_max_delay_s", "retry_only_for", "retry_not_for", "soft_timeout_s", "inputs", "values",
            "key", "locks",
        }  # fmt: skip
        assert {f.name for f in fields(TaskSpec)} == own | its_steps


class TestChecks:
    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"id": "a b"}, "id"),
            ({"id": ""}, "id"),
            ({"agent": "Code!"}, "agent"),
            ({"name": ""}, "name"),
            ({"run": ()}, "run"),
            ({"run": ((),)}, "run"),
            ({"run": ("  ",)}, "run"),
            ({"run": (("a\0",),)}, "run"),
            ({"priority": 0}, "priority"),
            ({"priority": 11}, "priority"),
            ({"timeout_s": 0.0}, "timeout_s"),
            ({"timeout_s": float("nan")}, "timeout_s"),
            ({"timeout_s": float("inf")}, "timeout_s"),
            ({"max_attempts": 0}, "max_attempts"),
            ({"retry_delay_s": -1.0}, "retry_delay_s"),
            ({"retry_max_delay_s": float("nan")}, "retry_max_delay_s"),
            ({"not_before": datetime(2027, 1, 1)}, "time zone"),  # noqa: DTZ001
            ({"deadline_at": datetime(2027, 1, 1)}, "time zone"),  # noqa: DTZ001
            (
                {
                    "not_before": datetime(2027, 1, 2, tzinfo=UTC),
                    "deadline_at": datetime(2027, 1, 1, tzinfo=UTC),
                },
                "never run",
            ),
            ({"key": "a b"}, "key"),
            ({"key": "k", "workflow": WorkflowId("w")}, "single tasks"),
            ({"locks": ("Repo",)}, "locks"),
            ({"undo": ("true",)}, "tasks of a workflow"),
            ({"undo": ("",), "workflow": WorkflowId("w")}, "undo holds an empty command"),
            ({"undo_on_failure": True}, "there is none"),
            ({"undo_of": TaskId("t0")}, "leave it out"),
            ({"id": "t0.undo"}, "kept for"),
            ({"id": "t" * 76, "undo": ("true",), "workflow": WorkflowId("w")}, "too long"),
            ({"name": "n" * 116, "undo": ("true",), "workflow": WorkflowId("w")}, "115"),
            ({"locks": ("repo", "repo")}, "different"),
            ({"needs": (TaskId("a"), TaskId("a"))}, "needs"),
            ({"needs": (TaskId("a b"),)}, "needs"),
            ({"env": {"1A": "x"}}, "env"),
            ({"env": {"A": "x\0"}}, "env"),
            ({"kind": "prompt"}, "kind"),
            ({"workflow": WorkflowId("a b")}, "workflow"),
            ({"expect": (Expect(output_matches="("),)}, "expect"),
        ],
    )
    def test_refused_with_the_field_named(self, change: dict[str, Any], word: str) -> None:
        with pytest.raises(SpecError, match=word):
            check_spec(spec(**change))

    @pytest.mark.parametrize(
        "fields", [{}, {"exit_code": 0, "file": "f"}, {"json_path": "a", "exit_code": 0}]
    )
    def test_an_expectation_is_one_check(self, fields: dict[str, Any]) -> None:
        with pytest.raises(UsageError):
            Expect(**fields)


class TestOrder:
    def test_upstreams_first_else_as_given(self) -> None:
        given_order = [spec("c", needs=("a",)), spec("b"), spec("a"), spec("d")]
        assert [s.id for s in ordered(given_order)] == ["b", "a", "c", "d"]

    def test_cycle_is_named(self) -> None:
        ring = [
            spec("a", needs=("c",)),
            spec("b", needs=("a",)),
            spec("c", needs=("b",)),
            spec("d", needs=("a",)),
        ]
        with pytest.raises(SpecError, match="a → c → b → a"):
            ordered(ring)

    def test_itself(self) -> None:
        with pytest.raises(SpecError, match="a → a"):
            ordered([spec("a", needs=("a",))])

    def test_twice(self) -> None:
        with pytest.raises(SpecError, match="twice"):
            ordered([spec("a"), spec("a")])

    def test_a_long_chain_needs_no_stack(self) -> None:
        chain = [spec(f"t{i}", needs=(TaskId(f"t{i - 1}"),) if i else ()) for i in range(5000)]
        assert [s.id for s in ordered(chain[::-1])] == [s.id for s in chain]

    def test_batches_hold_at_most_a_thousand_tasks_and_some_megabytes(self) -> None:
        assert len(list(batches([spec(f"t{i}") for i in range(2001)]))) == 3
        assert len(list(batches([spec(f"t{i}", description="x" * 200_000) for i in range(40)]))) == 2


@pytest.mark.parametrize(
    ("counts", "state"),
    [
        ({State.PENDING: 2}, State.PENDING),
        ({State.READY: 1, State.BLOCKED: 2}, State.READY),
        ({State.COMPLETED: 1, State.BLOCKED: 2}, State.IN_PROGRESS),
        ({State.ASSIGNED: 1}, State.IN_PROGRESS),
        ({State.COMPLETED: 3}, State.COMPLETED),
        ({State.COMPLETED: 3, State.CANCELLED: 1}, State.CANCELLED),
        ({State.FAILED: 1, State.CANCELLED: 1, State.COMPLETED: 1, State.READY: 0}, State.FAILED),
    ],
)
def test_a_workflow_has_one_state(counts: dict[State, int], state: State) -> None:
    assert workflow_state(counts) is state
