"""Tasks: the words. States and their moves; what is submitted, seen, held by a worker, handed in.

Values only; nothing here touches Redis. The engine that moves tasks is engine.py, their stored form spec.py,
the server side of it connectors/engine/ (a test holds its table of moves equal to MOVES).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Literal, Self

from ai_infra.core.errors import UsageError
from ai_infra.core.ids import AgentName, TaskId, WorkerId, WorkflowId

MIN_PRIORITY, MAX_PRIORITY = 1, 10
MAX_RESULT_BYTES = 64 * 1024  #: of the JSON text of a result without its value; longer output goes to a file
MAX_VALUE_BYTES = 64 * 1024  #: of the JSON text of the value that the commands handed in
MAX_SPEC_BYTES = 256 * 1024  #: of the JSON text of a spec


class State(StrEnum):
    """Where a task is on its way."""

    PENDING = "PENDING"  #: accepted but held: its submit is not complete yet, or it waits for its time
    READY = "READY"  #: may be claimed
    ASSIGNED = "ASSIGNED"  #: handed to a sleeping worker that has not said yet that it began
    IN_PROGRESS = "IN_PROGRESS"
    BLOCKED = "BLOCKED"  #: waits for upstreams
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"  #: out of attempts, or not worth another: a dead letter
    CANCELLED = "CANCELLED"


TERMINAL = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})
ACTIVE = frozenset({State.ASSIGNED, State.IN_PROGRESS})
OPEN = frozenset(State) - TERMINAL

MOVES: dict[State, frozenset[State]] = {
    State.PENDING: frozenset({State.READY, State.BLOCKED, State.FAILED, State.CANCELLED}),
    State.BLOCKED: frozenset({State.READY, State.FAILED, State.CANCELLED}),
    State.READY: frozenset({State.ASSIGNED, State.IN_PROGRESS, State.FAILED, State.CANCELLED}),
    State.ASSIGNED: frozenset({State.IN_PROGRESS, State.READY, State.FAILED, State.CANCELLED}),
    State.IN_PROGRESS: frozenset(
        {State.COMPLETED, State.FAILED, State.CANCELLED, State.READY, State.PENDING}
    ),
    State.COMPLETED: frozenset(),
    State.FAILED: frozenset({State.READY, State.BLOCKED, State.PENDING}),
    State.CANCELLED: frozenset({State.READY, State.BLOCKED, State.PENDING}),
}


class NeedsRule(StrEnum):
    """When a task's upstreams count as done."""

    ALL_SUCCEEDED = "all_succeeded"  #: a failed or cancelled upstream cancels the task
    ALL_DONE = "all_done"  #: whatever their end was
    ANY_DONE = "any_done"  #: as soon as one has ended, whatever its end was


Command = tuple[str, ...] | str  #: an argv, or a text for bash
Check = Literal["exit_code", "output_matches", "json", "file", "command"]


@dataclass(frozen=True, kw_only=True)
class Expect:
    """One thing that must hold for the task's result to count; exactly one check each (see `check`)."""

    exit_code: int | None = None  #: of the last command; without such a check every command must exit 0
    output_matches: str | None = None  #: a regular expression found somewhere in the output
    file: str | None = None  #: a path that exists, relative to the task's folder
    json_path: str | None = None  #: with `file`: where in that JSON document, `a.b[0].c`
    equals: Any = None  #: with `json_path`: the JSON value that must stand there
    command: Command | None = None  #: a command that must exit 0

    def __post_init__(self) -> None:
        given = [
            n for n in ("exit_code", "output_matches", "file", "command") if getattr(self, n) is not None
        ]
        if len(given) != 1 or (self.json_path is not None and given != ["file"]):
            raise UsageError(f"an expectation must hold exactly one check, this one holds {given or 'none'}")

    @property
    def check(self) -> Check:
        """Which check this is."""
        if self.exit_code is not None:
            return "exit_code"
        if self.output_matches is not None:
            return "output_matches"
        if self.command is not None:
            return "command"
        return "file" if self.json_path is None else "json"


@dataclass(frozen=True, kw_only=True)
class TaskSpec:
    """What is submitted; never changes afterwards."""

    id: TaskId
    name: str
    agent: AgentName  #: the kind of worker that may claim it
    run: tuple[Command, ...]
    kind: str = "run"
    expect: tuple[Expect, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    priority: int = 5  #: 1-10, 10 is claimed first
    timeout_s: float = 300.0  #: of one attempt
    max_attempts: int = 4  #: the first run and three retries; runs cut short by a death do not count
    needs: tuple[TaskId, ...] = ()
    needs_rule: NeedsRule = NeedsRule.ALL_SUCCEEDED
    workflow: WorkflowId | None = None
    description: str = ""
    cwd: str | None = None
    retry_delay_s: float = 1.0  #: doubles per attempt; up to a quarter is taken off by chance
    retry_max_delay_s: float = 60.0  #: the doubling stops here
    not_before: datetime | None = None  #: it is PENDING until then
    deadline_at: datetime | None = None  #: what has not ended by then is FAILED; what runs is stopped
    key: str | None = None  #: while a task with this key is open, another submit of it is that task
    locks: tuple[str, ...] = ()  #: names of resources; at most one task that names one runs at a time
    retry_only_for: tuple[str, ...] = ()  #: rules of retry.py; empty: every failure is tried again
    retry_not_for: tuple[str, ...] = ()
    soft_timeout_s: float | None = None  #: of one attempt: its command is told (SIGTERM); below timeout_s
    #: an upstream's name, and where it is: (i,) is needs[i], (i, j) are needs[i:j]
    inputs: Mapping[str, Sequence[int]] = field(default_factory=dict)
    values: Mapping[str, Any] | None = None  #: not None: the texts hold templates still; see late.py
    when: str | None = None  #: a condition: false when it is claimed, and the task is skipped
    undo: tuple[Command, ...] = ()  #: what takes back its effect, once it is COMPLETED; see undo.py
    undo_on_failure: bool = False  #: also when it began and did not succeed: undo copes with half an effect
    undo_of: TaskId | None = None  #: made by the engine: the task that this one undoes


@dataclass(frozen=True, kw_only=True)
class WorkflowHeader:
    """What a workflow is, beside its tasks."""

    id: WorkflowId
    name: str
    description: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    submitted_by: str = ""
    dir: str = ""  #: the folder the workflow's tasks share
    atomic: bool = False  #: when a task fails or is cancelled, what the others did is undone


@dataclass(frozen=True, kw_only=True)
class TaskView:
    """A task as it stood at one instant."""

    spec: TaskSpec
    state: State
    attempt: int  #: runs begun, this one included; 0 before the first; see `last_attempt`
    worker: WorkerId | None  #: who holds it, or held it last
    created_at: datetime
    ready_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    error: str | None  #: why the last attempt did not succeed
    result: dict[str, Any] | None  #: what the last attempt handed in
    open_needs: int  #: upstreams that have not ended
    waits: tuple[TaskId, ...]  #: their ids
    excused: int = 0  #: runs that count against no limit: cut short, or before a person said retry
    deaths: int = 0  #: runs that ended with their worker
    #: why a READY task does not run: "lock NAME" is taken; its "flow" (workflow) or its "agent" is paused;
    #: the "rate" of its agent lets it begin only at `due_at`
    kept_by: str = ""
    kept_why: str = ""  #: the task that holds the lock, or the reason of the pause
    due_at: datetime | None = None  #: when a PENDING task's delay ends; see also `kept_by`
    archive: str | None = None  #: the file it was moved to; it is not in Redis any more

    @property
    def last_attempt(self) -> int:
        """The number of the last run, should all that come fail."""
        return self.excused + self.spec.max_attempts

    @property
    def skipped(self) -> bool:
        """Whether it is COMPLETED because its condition was false."""
        return self.state is State.COMPLETED and (self.result or {}).get("skipped") is True

    @property
    def id(self) -> TaskId:
        return self.spec.id

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def agent(self) -> AgentName:
        return self.spec.agent


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A worker's hold on a task: this attempt is its own, as long as the fence is the newest."""

    spec: TaskSpec
    attempt: int  #: 1 for the first run
    fence: int  #: grows with every hand-over of this task
    worker: WorkerId
    state: State  #: IN_PROGRESS, or ASSIGNED: then say start() first


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a worker hands in."""

    ok: bool
    result: Mapping[str, Any] = field(
        default_factory=dict
    )  #: a JSON object, bounded; `value`: what was handed in
    error: str | None = None
    retry: bool = True  #: False: another attempt would end the same way
    reason: str = ""  #: for the event: "exit 1", "timeout", "cancelled"


CANCELLED_REASON = "cancelled"  #: the `reason` of an outcome that ends a task as CANCELLED


@dataclass(frozen=True, kw_only=True)
class Undoing:
    """How far a workflow is undone; tasks by name. Without its tasks, as in listings, only why and begun."""

    why: str  #: "deploy failed", or what a person said
    begun: bool  #: False: tasks that run were told to end, and are waited for
    undone: tuple[str, ...] = ()  #: in that order
    waiting: tuple[str, ...] = ()  #: their undo has not ended
    not_undone: Mapping[str, str] = field(default_factory=dict)  #: completed, and why it stays
    half_done: tuple[str, ...] = ()  #: began and did not succeed; what they did until then is theirs to clean

    @property
    def complete(self) -> bool:
        """Whether all that was completed is taken back; only the tasks tell."""
        return self.begun and not self.waiting and not self.not_undone


@dataclass(frozen=True, kw_only=True)
class WorkflowView:
    """A workflow as it stood at one instant."""

    header: WorkflowHeader
    tasks: tuple[TaskView, ...]  #: in the order of submission; empty in listings
    state: State  #: of one that is undone: how its own tasks ended
    counts: Mapping[State, int]
    paused: str = ""  #: why nothing more of it starts; "" while it goes on
    undo: Undoing | None = None  #: None: nobody undoes it

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen by itself."""
        return not any(self.counts.get(state) for state in OPEN)

    @classmethod
    def of(cls, header: WorkflowHeader, tasks: Sequence[TaskView]) -> Self:
        """One whose tasks are all at hand."""
        counts = Counter(view.state for view in tasks)
        return cls(header=header, tasks=tuple(tasks), state=workflow_state(counts), counts=counts)


def workflow_state(counts: Mapping[State, int]) -> State:
    """One word for a workflow: open while any task is, else the worst end of its tasks."""
    present = {state for state, count in counts.items() if count > 0}
    if present & OPEN:
        return _open_state(present)
    for state in (State.FAILED, State.CANCELLED):
        if state in present:
            return state
    return State.COMPLETED


def _open_state(present: set[State]) -> State:
    if present & (ACTIVE | TERMINAL):
        return State.IN_PROGRESS
    return State.READY if State.READY in present else State.PENDING
