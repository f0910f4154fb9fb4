"""Late: what of a task is known only when it is claimed: its upstreams' results, and whether it is to run.

A spec with `values` has its texts as they stand in the workflow file, templates and all; filled() makes the
spec that is run. `inputs` says which of its upstreams has which name there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ai_infra.core.errors import UsageError
from ai_infra.tasks.condition import ConditionError, read_condition
from ai_infra.tasks.names import Entry, Names, entries
from ai_infra.tasks.spec import command_problem, env_problem, expect_problem
from ai_infra.tasks.task import Command, Expect, TaskSpec, TaskView
from ai_infra.tasks.template import TemplateError, fill, fill_bash, fill_pattern, only_hole

Inputs = Mapping[str, Entry | list[Entry]]


class NotFit(UsageError):
    """The task cannot be run with what its upstreams handed in; another attempt would meet the same."""


def inputs_of(spec: TaskSpec, upstreams: Sequence[TaskView | None]) -> Inputs:
    """The upstreams by name; `upstreams` are in the order of `spec.needs`, None: not kept any longer."""

    def named(where: Sequence[int]) -> Entry | list[Entry]:
        if len(where) == 1:
            return entry_of(upstreams[where[0]])
        return [entry_of(view) for view in upstreams[where[0] : where[1]]]

    return {name: named(where) for name, where in spec.inputs.items()}


def entry_of(view: TaskView | None) -> Entry:
    """What a dependant sees of an upstream: `result` only if its commands handed in a value."""
    if view is None:
        return {"state": "GONE", "exit_code": None, "output": "", "skipped": False}
    result = view.result or {}
    codes = result.get("exit_codes") or [None]
    entry = {
        "state": view.state.value,
        "exit_code": codes[-1],
        "output": str(result.get("output_tail", "")),
        "skipped": result.get("skipped") is True,
    }
    return entry | {"result": result["value"]} if "value" in result else entry


def names_for(spec: TaskSpec, inputs: Inputs) -> Names:
    """What the texts and the condition of a claimed task may call by name."""
    return Names(spec.values or {}, entries(inputs))


def skipped(spec: TaskSpec, names: Names) -> str | None:
    """Why the task is not to be run, None if it is. Raises NotFit."""
    if spec.when is None:
        return None
    try:
        condition = read_condition(spec.when)
        condition.check(names)
        if condition.holds(names):
            return None
        told = condition.why(names)
    except ConditionError as exc:
        raise NotFit(f"when: {spec.when}: {exc}") from exc
    return f"when: {spec.when} is false" + (f" ({told})" if told else "")


def filled(spec: TaskSpec, names: Names) -> TaskSpec:
    """The spec to run; itself if it holds no templates. Raises NotFit."""
    if spec.values is None:
        return spec
    try:
        run = tuple(_command(command, names) for command in spec.run)
        env = {name: fill(value, names) for name, value in spec.env.items()}
        cwd = None if spec.cwd is None else fill(spec.cwd, names)
        expect = tuple(_expect(each, names) for each in spec.expect)
    except TemplateError as exc:
        raise NotFit(str(exc)) from exc
    ready = replace(spec, run=run, env=env, cwd=cwd, expect=expect)
    if problem := _problem(ready):
        raise NotFit(f"filled in, {problem}")
    return ready


def _problem(spec: TaskSpec) -> str | None:
    for command in spec.run:
        if problem := command_problem(command):
            return f"run {problem}"
    for name, value in spec.env.items():
        if problem := env_problem(name, value):
            return f"env {problem}"
    for each in spec.expect:
        if problem := expect_problem(each):
            return f"expect {problem}"
    return "cwd is not a path" if spec.cwd is not None and (not spec.cwd or "\0" in spec.cwd) else None


def _command(command: Command, names: Names) -> Command:
    if isinstance(command, str):
        return fill_bash(command, names)
    return tuple(fill(word, names) for word in command)


def _expect(expect: Expect, names: Names) -> Expect:
    if expect.output_matches is not None:
        return replace(expect, output_matches=fill_pattern(expect.output_matches, names))
    if expect.command is not None:
        return replace(expect, command=_command(expect.command, names))
    if expect.file is None:
        return expect
    return replace(expect, file=fill(expect.file, names), equals=fill_value(expect.equals, names))


def fill_value(value: Any, names: Mapping[str, str]) -> Any:
    """A text that is one template of an item or an upstream gives the JSON value itself, any other a text."""
    if not isinstance(value, str):
        return value
    name = only_hole(value)
    if isinstance(names, Names) and name is not None and re.match(r"(item|tasks)\b", name):
        try:
            return names.value(name)
        except KeyError:
            pass  # fill() says it better
    return fill(value, names)
