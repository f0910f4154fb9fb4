"""Undoing: the commands of an undo task find what their step handed in, at AI_INFRA_UNDO_RESULT.

A JSON file: task, state, and result as `ai-infra task show --json` has it (null where there is none).
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ai_infra.core.durable import system_problem
from ai_infra.core.errors import NotFound
from ai_infra.core.ids import TaskId
from ai_infra.tasks.task import Claim, TaskView

RESULT = "AI_INFRA_UNDO_RESULT"


async def with_result(claim: Claim, look: Callable[[TaskId], Awaitable[TaskView]], folder: Path) -> Claim:
    """The claim of an undo task with the file made, in `folder`, and named in its environment; others as is.

    Without it when the step is not kept any longer. Raises SystemProblem, and what `look` raises.
    """
    of = claim.spec.undo_of
    if of is None:
        return claim
    with suppress(NotFound):
        view = await look(of)
        path = result_file(claim, folder)
        told = {"task": view.id, "state": view.state.value, "result": view.result}
        try:
            path.write_text(json.dumps(told) + "\n", encoding="utf-8")
        except OSError as exc:
            raise system_problem(path, exc) from exc
        return replace(claim, spec=replace(claim.spec, env={**claim.spec.env, RESULT: str(path)}))
    return claim


def result_file(claim: Claim, folder: Path) -> Path:
    """Where it lies while the attempt runs."""
    return folder / f"{claim.spec.id}.json"
