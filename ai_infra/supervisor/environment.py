"""What a window's process, and a tmux client of ours, may know of the environment: an allow list."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ai_infra.core.errors import SystemProblem

MOST_BYTES = 15_000  #: tmux takes 16 kB for a whole command; the rest of it is ours

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


def check_size(env: Mapping[str, str]) -> None:
    """Raise SystemProblem for an environment that tmux would not take, naming its longest variable."""
    sizes = {name: len(os.fsencode(f"{name}={value}")) + 1 for name, value in env.items()}
    if sum(sizes.values()) > MOST_BYTES:
        longest = max(sizes, key=lambda name: sizes[name])
        raise SystemProblem(
            f"{longest}: its {sizes[longest]} bytes are more than tmux can hand to a window "
            f"({MOST_BYTES} for all variables); make it shorter and try again"
        )


def client_env(env: Mapping[str, str]) -> dict[str, str]:
    """What a tmux client of ours brings along; a server it starts keeps this for ever."""
    kept = {name: env[name] for name in (*ENV_ALLOWED, "TMUX_TMPDIR") if name in env}
    return {"LANG": "C.UTF-8", **kept}
