"""Looking up one task or workflow by its id, or the beginning of it: in Redis, then in the archive."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from ai_infra.core import ids
from ai_infra.core.errors import Conflict, NotFound, UsageError
from ai_infra.core.settings import Settings
from ai_infra.tasks.archive import Archive

if TYPE_CHECKING:
    from ai_infra.tasks.engine import Engine
    from ai_infra.tasks.task import TaskView, WorkflowView

WORKFLOWS_LOOKED_AT = 1000

Id = TypeVar("Id", bound=str)


async def find_task(settings: Settings, engine: Engine, text: str) -> TaskView:
    """The task whose id begins with `text`. Raises NotFound, UsageError when there are several."""
    from ai_infra.dashboard.tasklog import with_output

    found = await _in_redis(engine, text)
    if found is not None:
        return with_output(settings.home, await engine.get(found))
    archived = {ids.TaskId(view.id): view for view in Archive(settings.home.archive).find(text)}
    name = _only(text, list(archived), f"no task {text!r}; `ai-infra task list` shows them")
    return with_output(settings.home, archived[name])


async def find_id(settings: Settings, engine: Engine, text: str) -> ids.TaskId:
    """The id of a task that is in Redis: one that can be acted on. Conflict for an archived one."""
    found = await _in_redis(engine, text)
    if found is not None:
        return found
    view = await find_task(settings, engine, text)
    raise Conflict(f"task {view.id} is {view.state} and archived; it is only shown, submit its work anew")


async def find_workflow(settings: Settings, engine: Engine, text: str) -> WorkflowView:
    """The workflow whose id begins with `text`, with all its tasks. Raises NotFound, UsageError."""
    archive = Archive(settings.home.archive)
    found = await _workflow_in_redis(engine, text)
    if found is not None:
        view = await engine.workflow(found)
        if sum(view.counts.values()) > len(view.tasks):  # a part of it is archived
            view = _whole(view, archive.find_workflows(view.header.id).get(view.header.id))
        return view
    archived = archive.find_workflows(text)
    return archived[_only(text, list(archived), f"no workflow {text!r}; `ai-infra workflow list` shows them")]


async def find_workflow_id(settings: Settings, engine: Engine, text: str) -> ids.WorkflowId:
    """The id of a workflow that is in Redis: one that can be acted on. Conflict for an archived one."""
    found = await _workflow_in_redis(engine, text)
    if found is not None:
        return found
    view = await find_workflow(settings, engine, text)
    raise Conflict(f"workflow {view.header.id} is {view.state} and archived; it is only shown")


async def _workflow_in_redis(engine: Engine, text: str) -> ids.WorkflowId | None:
    if not ids.is_id(text):
        raise UsageError(f"{text!r} is no workflow id")
    known = [flow.header.id for flow in await engine.list_workflows(WORKFLOWS_LOOKED_AT)]
    if found := [name for name in known if name.startswith(text)]:
        return _only(text, found, "")
    try:
        return (await engine.workflow(ids.WorkflowId(text))).header.id  # an older one, by its whole id
    except NotFound:
        return None


def _whole(view: WorkflowView, archived: WorkflowView | None) -> WorkflowView:
    here = {task.id for task in view.tasks}
    gone = [task for task in (archived.tasks if archived else ()) if task.id not in here]
    return replace(view, tasks=(*gone, *view.tasks))


async def _in_redis(engine: Engine, text: str) -> ids.TaskId | None:
    if not ids.is_id(text):
        raise UsageError(f"{text!r} is no task id")
    found = await engine.find_by_prefix(text)
    return _only(text, found, "") if found else None


def _only(text: str, found: Sequence[Id], missing: str) -> Id:
    """The one that is `text`, or the only one that begins so."""
    if not found:
        raise NotFound(missing)
    for name in found:
        if name == text:
            return name
    if len(found) > 1:
        raise UsageError(f"{text!r} may mean {', '.join(found[:5])}; give more of the id")
    return found[0]
