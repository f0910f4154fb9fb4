"""Retry rules."""

from __future__ import annotations

import pytest

from ai_infra.tasks.retry import Failure, patterns, refusal, rule_problem

EXIT_75 = Failure(kind="exit", exit_code=75)


@pytest.mark.parametrize("rule", ["exit:0", "exit:1-255", "timeout", "check", "machine", "output:a|b"])
def test_good_rules(rule: str) -> None:
    assert rule_problem(rule) is None


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ("exit", "unknown rule 'exit'; known: exit:N"),
        ("exit:-1", "unknown rule"),
        ("exit:256", "no range"),
        ("exit:9-3", "no range"),
        ("output:", "no pattern"),
        ("output:(", "not a regular expression"),
        ("", "unknown rule"),
    ],
)
def test_bad_rules(rule: str, said: str) -> None:
    assert said in str(rule_problem(rule))


@pytest.mark.parametrize(
    ("failure", "only_for", "not_for", "found", "tried_again"),
    [
        (EXIT_75, (), (), (), True),
        (EXIT_75, ("exit:75",), (), (), True),
        (EXIT_75, ("exit:70-80", "timeout"), (), (), True),
        (EXIT_75, ("timeout", "exit:74"), (), (), False),
        (EXIT_75, ("exit:75",), ("exit:1-100",), (), False),
        (EXIT_75, (), ("check", "timeout", "machine"), (), True),
        (EXIT_75, (), ("output:x",), ("x",), False),
        (EXIT_75, ("output:x",), (), (), False),
        (Failure(kind="exit", exit_code=-9), ("exit:137",), (), (), True),
        (Failure(kind="exit", exit_code=-9), ("exit:9",), (), (), False),
        (Failure(kind="timeout", exit_code=75), ("exit:75",), (), (), False),
        (Failure(kind="machine"), ("machine",), (), (), True),
        (Failure(kind="check"), ("exit:0-255",), (), (), False),
    ],
)
def test_what_is_tried_again(
    failure: Failure,
    only_for: tuple[str, ...],
    not_for: tuple[str, ...],
    found: tuple[str, ...],
    tried_again: bool,
) -> None:
    assert (refusal(failure, only_for, not_for, found) == "") is tried_again


def test_patterns_are_those_of_output_rules() -> None:
    assert patterns(("exit:1", "output:a:b", "output:c")) == ["a:b", "c"]
