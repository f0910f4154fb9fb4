"""Workflow files: YAML in, checked specs out. Every mistake is a ConfigError that names file, line and key.

    name: checkup                       # [a-z][a-z0-9_-]*
    description: what it is for
    params:
      repo: {required: true, description: the folder to look at}      # or default: …
    tasks:
      inventory:
        agent: research
        run:                            # argv lists, or texts for bash
          - [git, -C, "{{ params.repo }}", log, -1]
          - wc -l {{ params.repo }}/*.md > {{ workflow.dir }}/lines.txt
        expect: [{file: lines.txt}, {output_matches: "total"}]
      report:
        agent: infra
        needs: [inventory]
        needs_rule: all_done            # or all_succeeded, which is the default
        run: [[cat, lines.txt]]

Further keys of a task: undo (like run), undo_on_failure, description, priority, timeout_s, max_attempts,
retry_delay_s, env, cwd; `atomic: true` at the top: see undo.py. Checks of `expect`: exit_code, file,
output_matches, json ({file, path, equals}), command. Templates: params.NAME, workflow.*, task.id.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from ai_infra.core.ids import AgentName, TaskId, WorkflowId, is_name
from ai_infra.core.yamlfile import Located, load_yaml
from ai_infra.tasks.spec import SpecError, check_spec, dump_spec
from ai_infra.tasks.submit import find_cycle
from ai_infra.tasks.task import (
    MAX_PRIORITY,
    MIN_PRIORITY,
    Command,
    Expect,
    NeedsRule,
    TaskSpec,
    WorkflowHeader,
)
from ai_infra.tasks.template import TemplateError, fill, fill_bash, fill_pattern

_TOP = ("name", "description", "atomic", "params", "tasks")
_PARAM = ("required", "default", "description")
_TASK = (
    "agent",
    "description",
    "priority",
    "timeout_s",
    "max_attempts",
    "retry_delay_s",
    "needs",
    "needs_rule",
    "env",
    "cwd",
    "run",
    "expect",
    "undo",
    "undo_on_failure",
)
_CHECKS = ("exit_code", "output_matches", "file", "json", "command")
_JSON = ("file", "path", "equals")
_MAX_TASKS = 10_000
_JSON_STEP = re.compile(r"(?:\.?[^.\[\]]+|\[\d+\])+")

Key = str | int
Fill = Callable[[str, Mapping[str, str]], str]


def load_workflow(
    path: Path,
    params: Mapping[str, str],
    *,
    agents: Collection[str],
    workflow_dir: Path,
    workflow_id: WorkflowId,
) -> tuple[WorkflowHeader, list[TaskSpec]]:
    """Read the workflow in `path`, with `params` filled in; its tasks get the ids `<workflow_id>.<name>`.

    Raises ConfigError.
    """
    file = load_yaml(path)
    reader = _Reader(file, agents, workflow_id)
    reader.check_top()
    values = reader.params(params)
    header = WorkflowHeader(
        id=workflow_id,
        name=file.value["name"],
        description=reader.text("description"),
        params=values,
        dir=str(workflow_dir),
        atomic=reader.flag("atomic"),
    )
    reader.values = {f"params.{name}": value for name, value in values.items()}
    reader.values |= {"workflow.id": workflow_id, "workflow.dir": str(workflow_dir)}
    return header, reader.tasks()


def check_workflow(path: Path, *, agents: Collection[str]) -> None:
    """Raise ConfigError unless `path` could be run, given its parameters."""
    required = {name: "x" for name, about in _params_of(load_yaml(path)).items() if not about}
    load_workflow(
        path, required, agents=agents, workflow_dir=Path("/workflow"), workflow_id=WorkflowId("check")
    )


def _params_of(file: Located) -> dict[str, bool]:
    """Each parameter, and whether it has a default; empty where the file is not well formed."""
    params = file.at("params")
    names = params if isinstance(params, dict) else {}
    return {name: file.at("params", name, "default") is not None for name in names}


class _Reader:
    """Walks one file; every method takes the key path it reads."""

    def __init__(self, file: Located, agents: Collection[str], workflow_id: WorkflowId) -> None:
        self._file = file
        self._agents = agents
        self._workflow = workflow_id
        self.values: dict[str, str] = {}

    # ------------------------------------------------------------ the top

    def check_top(self) -> None:
        if not isinstance(self._file.value, dict):
            raise self._file.error("a workflow file is a mapping with the keys name and tasks")
        self._file.check_keys(_TOP)
        name = self._file.value.get("name")
        if not isinstance(name, str) or not is_name(name):
            raise self._file.error(
                "must be a name: a small letter, then small letters, digits, - or _", "name"
            )
        tasks = self._mapping("tasks")
        if not tasks:
            raise self._file.error("is missing or empty; a workflow has at least one task", "tasks")
        if len(tasks) > _MAX_TASKS:
            raise self._file.error(f"holds {len(tasks)} tasks, more than {_MAX_TASKS}", "tasks")

    def params(self, given: Mapping[str, str]) -> dict[str, str]:
        """The value of every parameter: as given, else its default."""
        known = self._mapping("params")
        for name in given:
            if name not in known:
                names = f"known parameters: {', '.join(known)}" if known else "it has none"
                raise self._file.error(f"the workflow has no parameter {name!r}; {names}", "params")
        return {name: self._param(name, given) for name in known}

    def _param(self, name: str, given: Mapping[str, str]) -> str:
        if not isinstance(name, str) or not is_name(name):
            raise self._file.error("is not a name for a parameter", "params", name)
        self._mapping("params", name)
        self._file.check_keys(_PARAM, "params", name)
        required = self.flag("params", name, "required")
        value = given.get(name)
        if value is None and self._file.at("params", name, "default") is not None:
            value = self._scalar("params", name, "default")
        if value is None and required:
            about = self.text("params", name, "description")
            raise self._file.error(
                f"this parameter must be given{f' ({about})' if about else ''}", "params", name
            )
        if value is not None and "\0" in value:
            raise self._file.error("holds a NUL byte", "params", name)
        return value or ""

    # ------------------------------------------------------------ tasks

    def tasks(self) -> list[TaskSpec]:
        names = list(self._mapping("tasks"))
        specs = [self._task(name) for name in names]
        self._check_cycle(names)
        return specs

    def _task(self, name: str) -> TaskSpec:
        key = ("tasks", name)
        if not isinstance(name, str) or not is_name(name):
            raise self._file.error("is not a name for a task: small letters, digits, - and _", *key)
        self._mapping(*key)
        self._file.check_keys(_TASK, *key)
        task_id = self._id(name)
        self.values["task.id"] = task_id
        spec = TaskSpec(
            id=task_id,
            name=name,
            agent=self._agent(*key, "agent"),
            run=self._run(*key, "run"),
            undo=self._run(*key, "undo") if self._file.at(*key, "undo") is not None else (),
            undo_on_failure=self.flag(*key, "undo_on_failure"),
            expect=tuple(self._expect(*key, "expect", i) for i in range(self._length(*key, "expect"))),
            env=self._env(*key, "env"),
            needs=self._needs(*key, "needs"),
            needs_rule=self._needs_rule(*key, "needs_rule"),
            workflow=self._workflow,
            description=self._fill(fill, self.text(*key, "description"), *key, "description"),
            cwd=self._optional_text(*key, "cwd"),
            **self._numbers(*key),
        )
        try:
            check_spec(spec)
            dump_spec(spec)
        except SpecError as exc:
            raise self._file.error(str(exc), *key) from exc
        return spec

    def _id(self, name: str) -> TaskId:
        return TaskId(f"{self._workflow}.{name}")

    def _agent(self, *key: Key) -> AgentName:
        agent = self._file.at(*key)
        if agent is None:
            raise self._file.error("is missing; say which agent does it", *key)
        if agent not in self._agents:
            raise self._file.error(f"unknown agent {agent!r}; known: {', '.join(sorted(self._agents))}", *key)
        return AgentName(agent)

    def _numbers(self, *key: Key) -> dict[str, Any]:
        """The numeric keys that are given."""
        limits = {
            "priority": (int, MIN_PRIORITY, MAX_PRIORITY),
            "max_attempts": (int, 1, 100),
            "timeout_s": (float, 0.001, 30 * 86400),
            "retry_delay_s": (float, 0, 86400),
        }
        found: dict[str, Any] = {}
        for name, (kind, low, high) in limits.items():
            value = self._file.at(*key, name)
            if value is None:
                continue
            fits = isinstance(value, int) or (kind is float and isinstance(value, float))
            if isinstance(value, bool) or not fits or not low <= value <= high:
                what = "a whole number" if kind is int else "a number"
                raise self._file.error(f"must be {what} from {low} to {high}, not {value!r}", *key, name)
            found[name] = kind(value)
        return found

    def _needs(self, *key: Key) -> tuple[TaskId, ...]:
        names = self._list(*key)
        known = self._mapping("tasks")
        for i, name in enumerate(names):
            if name not in known:
                raise self._file.error(f"no task is named {name!r}; there are {', '.join(known)}", *key, i)
            if name in names[:i]:
                raise self._file.error(f"{name!r} stands twice", *key, i)
        return tuple(self._id(name) for name in names)

    def _needs_rule(self, *key: Key) -> NeedsRule:
        text = self._file.at(*key)
        if text is None:
            return NeedsRule.ALL_SUCCEEDED
        if text not in list(NeedsRule):
            raise self._file.error(f"unknown rule {text!r}; known: {', '.join(NeedsRule)}", *key)
        return NeedsRule(text)

    def _check_cycle(self, names: Collection[str]) -> None:
        needs = {name: self._list("tasks", name, "needs") for name in names}
        while free := [name for name, ups in needs.items() if not any(up in needs for up in ups)]:
            for name in free:
                del needs[name]
        if needs:
            cycle = find_cycle(needs)
            raise self._file.error(
                f"tasks need each other in a cycle: {' → '.join(cycle)}", "tasks", cycle[0], "needs"
            )

    # ------------------------------------------------------------ commands and checks

    def _run(self, *key: Key) -> tuple[Command, ...]:
        if not self._list(*key):
            raise self._file.error("is missing or empty; give at least one command", *key)
        return tuple(self._command(*key, i) for i in range(self._length(*key)))

    def _command(self, *key: Key) -> Command:
        command = self._file.at(*key)
        if isinstance(command, str):
            return self._fill(fill_bash, self._filled(command, *key), *key)
        if not isinstance(command, list) or not command:
            raise self._file.error("a command is a list of words, or a text for bash", *key)
        words = [self._scalar(*key, i) for i in range(len(command))]
        self._filled(words[0], *key)
        return tuple(self._fill(fill, word, *key, i) for i, word in enumerate(words))

    def _filled(self, text: str, *key: Key) -> str:
        if not text.strip():
            raise self._file.error("the command is empty", *key)
        return text

    def _env(self, *key: Key) -> dict[str, str]:
        return {name: self._fill(fill, self._scalar(*key, name), *key, name) for name in self._mapping(*key)}

    def _expect(self, *key: Key) -> Expect:
        entry = self._mapping(*key)
        self._file.check_keys(_CHECKS, *key)
        if len(entry) != 1:
            raise self._file.error(f"one check each: {', '.join(_CHECKS)}", *key)
        check = next(iter(entry))
        return _EXPECT[check](self, *key, check)

    def _expect_exit_code(self, *key: Key) -> Expect:
        code = self._file.at(*key)
        if isinstance(code, bool) or not isinstance(code, int) or not 0 <= code <= 255:
            raise self._file.error(f"must be a whole number from 0 to 255, not {code!r}", *key)
        return Expect(exit_code=code)

    def _expect_output(self, *key: Key) -> Expect:
        pattern = self._fill(fill_pattern, self._scalar(*key), *key)
        try:
            re.compile(pattern)
        except re.error as exc:
            raise self._file.error(f"not a regular expression: {exc}", *key) from exc
        return Expect(output_matches=pattern)

    def _expect_file(self, *key: Key) -> Expect:
        return Expect(file=self._path(*key))

    def _expect_json(self, *key: Key) -> Expect:
        entry = self._mapping(*key)
        self._file.check_keys(_JSON, *key)
        if missing := [name for name in _JSON if name not in entry]:
            raise self._file.error(f"needs the keys file, path and equals; {missing[0]} is missing", *key)
        where = self._scalar(*key, "path")
        if not _JSON_STEP.fullmatch(where):
            raise self._file.error(f"{where!r} is not a path like a.b[0].c", *key, "path")
        equals = entry["equals"]
        if isinstance(equals, str):
            equals = self._fill(fill, equals, *key, "equals")
        return Expect(file=self._path(*key, "file"), json_path=where, equals=equals)

    def _expect_command(self, *key: Key) -> Expect:
        return Expect(command=self._command(*key))

    def _path(self, *key: Key) -> str:
        path = self._fill(fill, self._scalar(*key), *key)
        if not path or "\0" in path:
            raise self._file.error("is not a path", *key)
        return path

    # ------------------------------------------------------------ kinds of values

    def _fill(self, how: Fill, text: str, *key: Key) -> str:
        try:
            return how(text, self.values)
        except TemplateError as exc:
            raise self._file.error(str(exc), *key) from exc

    def _scalar(self, *key: Key) -> str:
        """A text or number, as text."""
        value = self._file.at(*key)
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise self._file.error(f"must be a text, not {value!r}; put it in quotes", *key)
        return str(value)

    def text(self, *key: Key) -> str:
        """A text, '' where there is none."""
        value = self._file.at(*key)
        if value is not None and not isinstance(value, str):
            raise self._file.error(f"must be a text, not {value!r}", *key)
        return value or ""

    def flag(self, *key: Key) -> bool:
        value = self._file.at(*key)
        if value is not None and not isinstance(value, bool):
            raise self._file.error("must be true or false", *key)
        return value is True

    def _optional_text(self, *key: Key) -> str | None:
        return self._path(*key) if self._file.at(*key) is not None else None

    def _mapping(self, *key: Key) -> dict[str, Any]:
        value = self._file.at(*key)
        if value is not None and not isinstance(value, dict):
            raise self._file.error(f"must be a mapping (key: value), not {_short(value)}", *key)
        return value or {}

    def _list(self, *key: Key) -> list[Any]:
        value = self._file.at(*key)
        if value is not None and not isinstance(value, list):
            raise self._file.error(f"must be a list, not {_short(value)}", *key)
        return value or []

    def _length(self, *key: Key) -> int:
        return len(self._list(*key))


_EXPECT: dict[str, Callable[..., Expect]] = {
    "exit_code": _Reader._expect_exit_code,
    "output_matches": _Reader._expect_output,
    "file": _Reader._expect_file,
    "json": _Reader._expect_json,
    "command": _Reader._expect_command,
}


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
