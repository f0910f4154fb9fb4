"""`tasks:` of a workflow file: each task, or each item of one with for_each, as a checked spec."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from graphlib import CycleError, TopologicalSorter
from typing import Any

from ai_infra.core.ids import AgentName, TaskId, WorkflowId, is_name
from ai_infra.core.yamlfile import Located
from ai_infra.tasks.condition import ConditionError, read_condition
from ai_infra.tasks.foreach import items_of
from ai_infra.tasks.names import Look, Names, only_names
from ai_infra.tasks.retry import rule_problem
from ai_infra.tasks.spec import SpecError, check_spec, dump_spec
from ai_infra.tasks.submit import find_cycle
from ai_infra.tasks.task import MAX_PRIORITY, MIN_PRIORITY, Command, NeedsRule, TaskSpec
from ai_infra.tasks.template import TemplateError, fill
from ai_infra.tasks.workflow_expect import read_expects
from ai_infra.tasks.workflow_reader import Key, Reader

MAX_TASKS = 10_000
_KEYS = (
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
    "for_each",
    "when",
    "soft_timeout_s",
    "retry",
    "locks",
    "delay_s",
    "deadline_s",
    "undo",
    "undo_on_failure",
)
_DAY_S = 86400
# key: kind, least, most
_NUMBERS: Mapping[str, tuple[type, float, float]] = {
    "priority": (int, MIN_PRIORITY, MAX_PRIORITY),
    "max_attempts": (int, 1, 100),
    "timeout_s": (float, 0.001, 30 * _DAY_S),
    "soft_timeout_s": (float, 0.001, 30 * _DAY_S),
    "retry_delay_s": (float, 0, _DAY_S),
}
# key of `retry:`: field of the spec, kind, least, most
_RETRY: Mapping[str, tuple[str, type, float, float]] = {
    "max_attempts": ("max_attempts", int, 1, 100),
    "delay_s": ("retry_delay_s", float, 0, _DAY_S),
    "max_delay_s": ("retry_max_delay_s", float, 0, _DAY_S),
}
# key: field of the spec; seconds from the submission on
_INSTANTS = {"delay_s": "not_before", "deadline_s": "deadline_at"}
_LONGEST_S = 366 * _DAY_S
_RULES = {"only_for": "retry_only_for", "not_for": "retry_not_for"}


def read_tasks(
    file: Located, values: Mapping[str, str], agents: Collection[str], workflow: WorkflowId
) -> list[TaskSpec]:
    """The specs, in the order of the file. Raises ConfigError."""
    return _Tasks(file, values, agents, workflow).read()


class _Tasks:
    """All tasks of a file: their names, who needs whom, and what has how many items."""

    def __init__(
        self, file: Located, values: Mapping[str, str], agents: Collection[str], workflow: WorkflowId
    ) -> None:
        self.file, self.values, self.agents, self.workflow = file, values, agents, workflow
        self.look = Reader(file, {})
        self.now = datetime.now(UTC)  #: what delays and deadlines count from, one instant for all
        self.names: Mapping[str, Any] = self.look.mapping("tasks")
        self.items: dict[str, list[Any]] = {}  #: of the tasks with for_each

    def read(self) -> list[TaskSpec]:
        for name in self.names:
            self._check(name)
        self._check_counts()
        self._check_cycle()
        return [spec for name in self.names for spec in self._specs(name)]

    def _check(self, name: str) -> None:
        key = ("tasks", name)
        if not isinstance(name, str) or not is_name(name):
            raise self.file.error("is not a name for a task: small letters, digits, - and _", *key)
        self.look.mapping(*key)
        self.file.check_keys(_KEYS, *key)
        self._check_needs(*key, "needs")
        each = self.file.at(*key, "for_each")
        if "for_each" in self.look.mapping(*key):
            try:
                self.items[name] = items_of(each, self.values)
            except TemplateError as exc:
                raise self.file.error(str(exc), *key, "for_each") from exc

    def _check_needs(self, *key: Key) -> None:
        names = self.look.list(*key)
        for i, name in enumerate(names):
            if name not in self.names:
                known = ", ".join(map(str, self.names))
                raise self.file.error(f"no task is named {name!r}; there are {known}", *key, i)
            if name in names[:i]:
                raise self.file.error(f"{name!r} stands twice", *key, i)

    def _check_counts(self) -> None:
        total = sum(len(self.items[name]) if name in self.items else 1 for name in self.names)
        if total > MAX_TASKS:
            raise self.file.error(f"holds {total} tasks, more than {MAX_TASKS}", "tasks")
        if not total:
            raise self.file.error("is nothing but for_each without items; nothing would run", "tasks")
        for name, items in self.items.items():
            for i in range(1, len(items) + 1):
                if f"{name}-{i}" in self.names:
                    message = f"its item {i} would have the name of another task, {name}-{i}"
                    raise self.file.error(message, "tasks", name, "for_each")

    def _check_cycle(self) -> None:
        needs = {name: self.look.list("tasks", name, "needs") for name in self.names}
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as exc:
            cycle = find_cycle({name: needs[name] for name in exc.args[1]})
            message = f"tasks need each other in a cycle: {' → '.join(cycle)}"
            raise self.file.error(message, "tasks", cycle[0], "needs") from exc

    def _specs(self, name: str) -> Iterator[TaskSpec]:
        if name not in self.items:
            yield _Task(self, name, self._id(name), name, {}).spec()
            return
        for i, item in enumerate(self.items[name], 1):
            of_item = {"item": item, "index": i}
            yield _Task(self, name, self._id(f"{name}-{i}"), f"{name}-{i}", of_item).spec()

    def _id(self, name: str) -> TaskId:
        return TaskId(f"{self.workflow}.{name}")

    def upstreams(self, name: str) -> tuple[tuple[TaskId, ...], dict[str, tuple[int, ...]]]:
        """The ids that a task needs, and which of its upstreams has which of them."""
        ids: list[TaskId] = []
        places: dict[str, tuple[int, ...]] = {}
        for up in self.look.list("tasks", name, "needs"):
            if up in self.items:
                places[up] = (len(ids), len(ids) + len(self.items[up]))
                ids += [self._id(f"{up}-{i}") for i in range(1, len(self.items[up]) + 1)]
            else:
                places[up] = (len(ids),)
                ids.append(self._id(up))
        return tuple(ids), places

    def references(self, name: str) -> Look:
        """What a task may say of its upstreams."""
        return only_names({up: up in self.items for up in self.look.list("tasks", name, "needs")})


class _Task(Reader):
    """One task, or one item of it."""

    def __init__(
        self, tasks: _Tasks, key: str, task_id: TaskId, name: str, of_item: Mapping[str, Any]
    ) -> None:
        self._tasks, self._id, self._name = tasks, task_id, name
        values = {**tasks.values, "task.id": task_id, **of_item}
        self._late = Names(values, tasks.references(key))
        self._values = values
        super().__init__(tasks.file, self._late)
        self._key = ("tasks", key)

    def spec(self) -> TaskSpec:
        """Read twice where a template waits for an upstream: then all texts stay as they are."""
        when = self._when(*self._key, "when")
        spec = self._spec(when)
        if self._late.late or when is not None:
            self.keeps = True
            used = {name: self._values[name] for name in sorted(self._late.used)}
            spec = self._spec(when, values=used)
        try:
            check_spec(spec)
            dump_spec(spec)
        except SpecError as exc:
            raise self.file.error(str(exc), *self._key) from exc
        return spec

    def _spec(self, when: str | None, values: Mapping[str, Any] | None = None) -> TaskSpec:
        key = self._key
        needs, inputs = self._tasks.upstreams(key[1])
        return TaskSpec(
            id=self._id,
            name=self._name,
            agent=self._agent(*key, "agent"),
            run=self._run(*key, "run"),
            undo=self._run(*key, "undo") if self.file.at(*key, "undo") is not None else (),
            undo_on_failure=self.flag(*key, "undo_on_failure"),
            expect=read_expects(self, *key, "expect"),
            env=self._env(*key, "env"),
            needs=needs,
            needs_rule=self._needs_rule(*key, "needs_rule"),
            workflow=self._tasks.workflow,
            description=self._now(self.text(*key, "description"), *key, "description"),
            cwd=self.path(*key, "cwd") if self.file.at(*key, "cwd") is not None else None,
            inputs=inputs,
            values=values,
            when=when,
            **self._numbers(*key),
            locks=self._locks(*key, "locks"),
            **self._instants(*key),
            **self._retry(*key, "retry"),
        )

    def _now(self, text: str, *key: Key) -> str:
        """Filled when the file is read, so without upstreams."""
        late, self._late.late = self._late.late, False
        full = self.fill(fill, text, *key)
        if self._late.late:
            raise self.file.error("tasks.… is known only when the task is claimed; leave it out here", *key)
        self._late.late = late
        return full

    def _agent(self, *key: Key) -> AgentName:
        given, agents = self.file.at(*key), self._tasks.agents
        if given is None:
            raise self.file.error("is missing; say which agent does it", *key)
        agent = self._now(given, *key) if isinstance(given, str) else given
        if agent not in agents:
            raise self.file.error(f"unknown agent {agent!r}; known: {', '.join(sorted(agents))}", *key)
        return AgentName(agent)

    def _run(self, *key: Key) -> tuple[Command, ...]:
        if not self.list(*key):
            raise self.file.error("is missing or empty; give at least one command", *key)
        return tuple(self.command(*key, i) for i in range(self.length(*key)))

    def _env(self, *key: Key) -> dict[str, str]:
        return {name: self.filled(fill, self.scalar(*key, name), *key, name) for name in self.mapping(*key)}

    def _needs_rule(self, *key: Key) -> NeedsRule:
        text = self.file.at(*key)
        if text is None:
            return NeedsRule.ALL_SUCCEEDED
        if text not in list(NeedsRule):
            raise self.file.error(f"unknown rule {text!r}; known: {', '.join(NeedsRule)}", *key)
        return NeedsRule(text)

    def _when(self, *key: Key) -> str | None:
        given = self.file.at(*key)
        if given is None:
            return None
        text = str(given).lower() if isinstance(given, bool) else given
        if not isinstance(text, str) or not text.strip():
            raise self.file.error(f"must be a condition, not {given!r}", *key)
        try:
            read_condition(text).check(self._late)
        except ConditionError as exc:
            raise self.file.error(f"{exc}, in: {text}", *key) from exc
        return text

    def _numbers(self, *key: Key) -> dict[str, Any]:
        """The numeric keys that are given."""
        found = {name: self.number(*limits, *key, name) for name, limits in _NUMBERS.items()}
        return {name: value for name, value in found.items() if value is not None}

    def _locks(self, *key: Key) -> tuple[str, ...]:
        texts = (self.scalar(*key, i) for i in range(self.length(*key)))
        return tuple(self._now(text, *key, i) for i, text in enumerate(texts))

    def _instants(self, *key: Key) -> dict[str, Any]:
        """`delay_s` and `deadline_s`, as fields of the spec."""
        found = {field: self.number(float, 0, _LONGEST_S, *key, name) for name, field in _INSTANTS.items()}
        return {field: self._tasks.now + timedelta(seconds=s) for field, s in found.items() if s is not None}

    def _retry(self, *key: Key) -> dict[str, Any]:
        """`retry:`, as fields of the spec."""
        given = self.mapping(*key)
        self.file.check_keys((*_RETRY, *_RULES), *key)
        found: dict[str, Any] = {}
        for name, (field, kind, low, high) in _RETRY.items():
            value = self.number(kind, low, high, *key, name)
            if value is None:
                continue
            if self.file.at(*key[:-1], field) is not None:
                raise self.file.error(f"is the same as {field}, which stands there, too", *key, name)
            found[field] = value
        return found | {_RULES[name]: self._rules(*key, name) for name in _RULES if name in given}

    def _rules(self, *key: Key) -> tuple[str, ...]:
        rules = self.list(*key)
        for i, rule in enumerate(rules):
            problem = rule_problem(rule) if isinstance(rule, str) else f"must be a text, not {rule!r}"
            if problem:
                raise self.file.error(problem, *key, i)
        return tuple(rules)
