"""What a window's process, and a tmux client of ours, may know of the environment: an allow list."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

#: variables a window may have, beside the few we set; everything else stays outside
ENV_ALLOWED = (
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "PATH",
    "LANG",
    "LC_ALL",
    "LC_CTYPE",
    "TZ",
    "TERM",
    "AI_INFRA_HOME",
)


def window_env(env: Mapping[str, str], home: Path) -> dict[str, str]:
    """The environment of a window's process: an allow list."""
    kept = {name: env[name] for name in ENV_ALLOWED if name in env}
    return {"LANG": "C.UTF-8", **kept, "AI_INFRA_HOME": str(home)}


def client_env(env: Mapping[str, str]) -> dict[str, str]:
    """What a tmux client of ours brings along; a server it starts keeps this for ever."""
    kept = {name: env[name] for name in (*ENV_ALLOWED, "TMUX_TMPDIR") if name in env}
    return {"LANG": "C.UTF-8", **kept}
