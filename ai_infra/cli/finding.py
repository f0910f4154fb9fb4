"""Ids and names that a person types: an id may be cut short, a name must be known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from ai_infra.app.command import agents_with_window
from ai_infra.core import ids
from ai_infra.core.errors import NotFound, UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.tasks.engine import Engine

WORKFLOWS_SEARCHED = 1000  #: the newest; an older one is found by its whole id


async def find_task(engine: Engine, text: str) -> ids.TaskId:
    """The task whose id begins with `text`. Raises NotFound, UsageError when there are several."""
    if not ids.is_id(text):
        raise UsageError(f"{text!r} is no task id")
    found = await engine.find_by_prefix(text)
    return ids.TaskId(_the_one("task", text, found))


async def find_workflow(engine: Engine, text: str) -> ids.WorkflowId:
    """The workflow whose id begins with `text`. Raises NotFound, UsageError when there are several."""
    if not ids.is_id(text):
        raise UsageError(f"{text!r} is no workflow id")
    known = [flow.header.id for flow in await engine.list_workflows(WORKFLOWS_SEARCHED)]
    found = [name for name in known if name.startswith(text)]
    if not found:
        try:
            return (await engine.workflow(ids.WorkflowId(text))).header.id
        except NotFound:
            pass
    return ids.WorkflowId(_the_one("workflow", text, found))


def known_agent(settings: Settings, name: str) -> ids.AgentName:
    """An agent that has a window, so that its tasks are worked on. Raises NotFound."""
    agents = agents_with_window(settings)
    if name not in agents:
        raise NotFound(f"no agent {name!r}; there are {', '.join(agents)}")
    return ids.AgentName(name)


def _the_one(kind: str, text: str, found: Sequence[str]) -> str:
    if not found:
        raise NotFound(f"no {kind} {text!r}; `ai-infra {kind} list` shows them")
    if len(found) > 1 and text not in found:
        raise UsageError(f"{text!r} may mean {', '.join(found[:5])}; give more of the id")
    return text if text in found else found[0]
