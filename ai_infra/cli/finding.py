"""Names that a person types."""

from __future__ import annotations

from ai_infra.app.command import agents_with_window
from ai_infra.core import ids
from ai_infra.core.errors import NotFound
from ai_infra.core.settings import Settings


def known_agent(settings: Settings, name: str) -> ids.AgentName:
    """An agent that has a window, so that its tasks are worked on. Raises NotFound."""
    agents = agents_with_window(settings)
    if name not in agents:
        raise NotFound(f"no agent {name!r}; there are {', '.join(agents)}")
    return ids.AgentName(name)


def agent_of_tasks(settings: Settings, name: str | None) -> ids.AgentName | None:
    """An agent whose tasks are looked for, with a window or not; None for all. Raises NotFound."""
    if name is not None and name not in settings.agents:
        raise NotFound(f"no agent {name!r}; there are {', '.join(settings.agents)}")
    return ids.AgentName(name) if name is not None else None
