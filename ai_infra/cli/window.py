"""`ai-infra run NAME`: the process of one window. Not for typing; tmux runs it.

Whatever started it, its environment is the allow list: if there is more, it begins again without it, so that
no key of a user's shell stands in the environment of a window.
"""

from __future__ import annotations

import os
import sys

from ai_infra.core.errors import AiInfraError

_KEPT = ("TMUX", "TMUX_PANE", "TERM")


def run(name: str) -> int:
    """Be the window's process; its exit code."""
    _scrub()
    from ai_infra.app.window import run_window

    try:
        return int(run_window(name))
    except AiInfraError as exc:
        print(f"ai-infra run {name}: {exc}", file=sys.stderr)
        return int(exc.exit_code)


def _scrub() -> None:
    from ai_infra.supervisor.environment import ENV_ALLOWED

    allowed = {name: value for name, value in os.environ.items() if name in (*ENV_ALLOWED, *_KEPT)}
    if len(allowed) < len(os.environ):
        os.execve(sys.executable, [sys.executable, *sys.argv], allowed)
