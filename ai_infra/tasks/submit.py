"""Submitting: the order in which tasks are written, and the packed form of a batch.

Upstreams come before what needs them, so that the server can check each batch against what is there; apart
from that the given order is kept, for it is the order of age.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ai_infra.connectors.wire import Word
from ai_infra.core.ids import TaskId
from ai_infra.tasks.spec import SpecError, check_spec, dump_spec
from ai_infra.tasks.task import TaskSpec
from ai_infra.tasks.undo import HALF_UNDOABLE, UNDOABLE, undo_payload

BATCH_TASKS = 1000
BATCH_BYTES = 4 * 1024 * 1024


def ordered(specs: Sequence[TaskSpec]) -> list[TaskSpec]:
    """`specs`, checked, upstreams first. Raises SpecError: a task is malformed, an id comes twice, a cycle
    (named).
    """
    by_id: dict[TaskId, int] = {}
    for index, spec in enumerate(specs):
        check_spec(spec)
        if spec.id in by_id:
            raise SpecError(f"task {spec.id} is submitted twice in one call")
        by_id[spec.id] = index
    _check_keys(specs)
    needs = {spec.id: [n for n in spec.needs if n in by_id] for spec in specs}
    order = _topological(needs, by_id)
    if len(order) < len(specs):
        rest = {t: n for t, n in needs.items() if t not in set(order)}
        raise SpecError(f"tasks need each other in a cycle: {' → '.join(find_cycle(rest))}")
    return [specs[by_id[task]] for task in order]


def _check_keys(specs: Sequence[TaskSpec]) -> None:
    """A task with a key may turn out to be another one, so nothing of the same submit may depend on it."""
    keyed = {spec.id: spec.key for spec in specs if spec.key is not None}
    if len(set(keyed.values())) != len(keyed):
        raise SpecError("two tasks of one submit have the same key")
    for spec in specs:
        for need in spec.needs:
            if need in keyed:
                raise SpecError(
                    f"task {spec.id} needs {need}, which has a key; a task with a key stands alone"
                )


def _topological(needs: Mapping[TaskId, Sequence[TaskId]], rank: Mapping[TaskId, int]) -> list[TaskId]:
    open_needs = {task: len(ups) for task, ups in needs.items()}
    downs: dict[TaskId, list[TaskId]] = {task: [] for task in needs}
    for task, ups in needs.items():
        for up in ups:
            downs[up].append(task)
    heap = [(rank[task], task) for task, count in open_needs.items() if count == 0]
    heapq.heapify(heap)
    order = []
    while heap:
        _, task = heapq.heappop(heap)
        order.append(task)
        for down in downs[task]:
            open_needs[down] -= 1
            if open_needs[down] == 0:
                heapq.heappush(heap, (rank[down], down))
    return order


def find_cycle(needs: Mapping[Any, Sequence[Any]]) -> list[Any]:
    """One cycle, its first name repeated at the end; from every key of `needs` a cycle must be reached."""
    task = min(needs)
    path: list[Any] = []
    while task not in path:
        path.append(task)
        task = next(up for up in needs[task] if up in needs)
    return [*path[path.index(task) :], task]


def batches(specs: Sequence[TaskSpec]) -> Iterator[tuple[int, list[Word]]]:
    """How many tasks each batch holds, and its words: what `submit` of the library takes after its header."""
    words: list[Word] = []
    tasks = size = 0
    for spec in specs:
        payload = dump_spec(spec)
        if tasks == BATCH_TASKS or (tasks and size + len(payload) > BATCH_BYTES):
            yield tasks, words
            words, tasks, size = [], 0, 0
        words += _pack(spec, payload)
        tasks, size = tasks + 1, size + len(payload)
    if words:
        yield tasks, words


def _pack(spec: TaskSpec, payload: str) -> list[Word]:
    more = further_fields(spec)
    return [
        spec.id,
        spec.name,
        spec.agent,
        spec.priority,
        spec.max_attempts,
        spec.needs_rule.value,
        spec.workflow or "",
        payload,
        len(spec.needs),
        *spec.needs,
        len(more) // 2,
        *more,
    ]


def further_fields(spec: TaskSpec) -> list[Word]:
    """Fields of the task's hash that few tasks have, and their values; see connectors/redis.py."""
    more: list[Word] = []
    if spec.retry_delay_s != 1.0:
        more += ["dl", round(spec.retry_delay_s * 1000)]
    if spec.retry_max_delay_s != 60.0:
        more += ["md", round(spec.retry_max_delay_s * 1000)]
    if spec.not_before is not None:
        more += ["x", 1, "nb", round(spec.not_before.timestamp() * 1000)]
    if spec.deadline_at is not None:
        more += ["x", 1, "dd", round(spec.deadline_at.timestamp() * 1000)]
    if spec.key is not None:
        more += ["x", 1, "ky", spec.key]
    if spec.locks:
        more += ["x", 1, "lk", " ".join(spec.locks)]
    if spec.undo:
        marks = HALF_UNDOABLE if spec.undo_on_failure else UNDOABLE
        more += ["x", 1, "un", undo_payload(spec), "ua", marks]
    return more
