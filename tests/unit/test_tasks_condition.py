"""Conditions: what they accept, what they mean, and that they are never more than that."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ai_infra.tasks.condition import ConditionError, read_condition
from ai_infra.tasks.names import Names, entries
from ai_infra.tasks.template import TemplateError

DONE = {"state": "COMPLETED", "exit_code": 0, "output": "a\n", "skipped": False}
NAMES = Names(
    {"params.n": "3", "params.mode": "fast", "params.yes": "true", "item": {"k": ["x"]}, "index": 2},
    entries(
        {
            "a": {**DONE, "result": {"n": 2, "t": "abc", "ok": True, "list": [1, "b", None]}},
            "run-tests": {**DONE, "state": "FAILED"},
            "many": [{**DONE, "result": 1}, {**DONE, "state": "CANCELLED"}],
        }
    ),
)


def holds(text: str) -> bool:
    condition = read_condition(text)
    condition.check(NAMES)
    return condition.holds(NAMES)


@pytest.mark.parametrize(
    "text",
    [
        "true",
        "not false",
        "not not true",
        "not null",
        "1 == 1.0",
        "-1 < 0 and 1e3 >= 1000",
        "'a' == \"a\"",
        """'it\\'s' == "it's" and 'a\\\\' != 'a'""",
        "'a' < 'b'",
        "1 in [1, 2,]",
        "1 not in []",
        "true not in [1]",
        "'b' in 'abc'",
        "null == null",
        "[1, ['a']] == [1, ['a']]",
        "true or 1 == 2 and false",
        "not (true and false)",
        "not 1 == 2",
        "(1 == 1) == true",
        "tasks.a.result.ok",
        "tasks.a.result.list[1] == 'b' and 'b' in tasks.a.result.list",
        "tasks.a.result.list[2] == null and tasks.a.result.gone == null",
        "not tasks.a.result.gone.deeper",
        "tasks.run-tests.state == 'FAILED' and tasks.run-tests.result == null",
        "tasks.many.state == 'CANCELLED' and tasks.many.result == [1, null]",
        "tasks.a.output == 'a' and tasks.a.exit_code == 0 and not tasks.a.skipped",
        "params.n == 3 and params.n == '3' and params.n > 2.5 and 2 < params.n and params.n in [3]",
        "params.yes == true and params.mode != true and params.mode in ['fast', 'slow']",
        "item.k[0] == 'x' and index == 2",
        "false or\n  true",
    ],
)
def test_what_is_true(text: str) -> None:
    assert holds(text) is True
    assert holds(f"not ({text})") is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at character 1: the end where a value should be"),
        ("a ==", "at character 5: the end where a value should be"),
        ("1 = 1", "at character 3: unexpected '='"),
        ("1 == 1 2", "at character 8: 2 where and, or, or the end should be"),
        ("1 < 2 < 3", "at character 3: one comparison at a time"),
        ("(1 == 1", "at character 8: the end where ) should be"),
        ("[1 2] == 3", "at character 4: 2 where ] should be"),
        ("'open", "at character 1: a text that is not closed"),
        ("not", "at character 4: the end where a value should be"),
        ("1 not 2", "at character 7: 2 where in should be"),
        ("1 == and", "at character 6: and where a value should be"),
        ("3", "at character 1: is a value, not a condition"),
        ("true and 'x'", "at character 10: is a value, not a condition"),
        ("[true]", "at character 1: is a value, not a condition"),
        ("not params.yes", "at character 5: params.yes is a text, not a condition"),
        ("007 == 7", "at character 1: 007 is no number"),
        ("1e999 > 0", "at character 1: 1e999 is no number"),
        ("tasks.a.result.list.x.__class__ == 1 or foo == 1", "at character 41: unknown name 'foo'"),
        ("__import__('os')", "at character 11: ( where and, or, or the end should be"),
        ("tasks.z.state == 'x'", "tasks.z.state: the task does not need 'z'"),
        ("tasks.a.sate == 'x'", "where PART is one of state, exit_code, output, skipped, result"),
        ("tasks.a == 'x'", "say tasks.NAME.PART"),
        ("tasks.a.state.x == 'x'", "state has nothing below it"),
        ("tasks.a.result. == 'x'", "say tasks.NAME.PART"),
        ("params.z == 'x'", "unknown name 'params.z'"),
        ("(" * 60 + "true" + ")" * 60, "nested too deeply"),
        ("not " * 60 + "true", "nested too deeply"),
        ("[" * 60 + "]" * 60 + " == 1", "nested too deeply"),
        ("true or " * 300 + "true", "longer than 2000"),
    ],
)
def test_what_is_refused_when_it_is_read(text: str, said: str) -> None:
    def read() -> None:
        read_condition(text).check(NAMES if "tasks.z" not in text else Names({}, _needs_a))

    with pytest.raises(ConditionError) as caught:
        read()
    assert said in str(caught.value)


def _needs_a(found: Any) -> Any:
    raise TemplateError(f"{found}: the task does not need {found.task!r}; add it to needs")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tasks.a.result.n", "at character 1: 2 is neither true nor false"),
        ("true and tasks.a.result.t", "at character 10: abc is neither"),
        ("tasks.a.result.n < 'x'", 'at character 18: < takes two numbers or two texts, not 2 and "x"'),
        ("tasks.a.result.gone < 3", "not null and 3"),
        ("tasks.a.result.ok > 0", "not true and 0"),
        ("params.mode > 3", 'not "fast" and 3'),
        ("1 in 'abc'", "in looks into a list"),
        ("1 in tasks.a.result.gone", "in looks into a list"),
    ],
)
def test_what_cannot_be_decided_says_so(text: str, said: str) -> None:
    condition = read_condition(text)
    with pytest.raises(ConditionError) as caught:
        condition.holds(NAMES)
    assert said in str(caught.value)


def test_why_tells_the_values() -> None:
    condition = read_condition("tasks.a.result.n > 3 or params.mode == 'x' or tasks.a.result.gone")
    assert condition.why(NAMES) == ("tasks.a.result.n is 2; params.mode is fast; tasks.a.result.gone is null")


@given(st.text())
@example("\u0663 == 3")
@example("'\\")
@settings(max_examples=300, deadline=None)
def test_any_text_is_a_condition_or_an_error(text: str) -> None:
    try:
        condition = read_condition(text)
        condition.check(NAMES)
        assert condition.holds(NAMES) in (True, False)
    except ConditionError:
        pass


_VALUES = st.none() | st.booleans() | st.integers(-50, 50) | st.text("ab'\"\\", max_size=3)


def _trees() -> st.SearchStrategy[tuple[str, str]]:
    """Conditions, and the same in Python."""
    literal = _VALUES.map(lambda value: (json.dumps(value, ensure_ascii=False), repr(value)))

    def compared(pair: tuple[tuple[str, str], tuple[str, str]]) -> tuple[str, str]:
        (left, python_left), (right, python_right) = pair
        same_kind = f"(type({python_left}) is type({python_right}) and {python_left} == {python_right})"
        return f"{left} == {right}", same_kind

    def grown(inner: st.SearchStrategy[tuple[str, str]]) -> st.SearchStrategy[tuple[str, str]]:
        joined = st.tuples(inner, st.sampled_from(["and", "or"]), inner)
        return joined.map(
            lambda t: (f"{t[0][0]} {t[1]} {t[2][0]}", f"{t[0][1]} {t[1]} {t[2][1]}")
        ) | inner.map(lambda t: (f"not ({t[0]})", f"not ({t[1]})"))

    return st.recursive(st.tuples(literal, literal).map(compared), grown, max_leaves=8)


@given(_trees())
@settings(max_examples=150, deadline=None)
def test_and_or_not_bind_as_in_python(tree: tuple[str, str]) -> None:
    text, python = tree
    assert holds(text) == eval(python)
