"""Files that come with the package: defaults in `config/`, units and templates in `infrastructure/`.

An installed package carries them inside itself; a checkout has them beside the package.
"""

from __future__ import annotations

import importlib.resources
from pathlib import Path

from ai_infra.core.errors import SystemProblem


def shipped(name: str) -> Path:
    """The path of a shipped file or folder, e.g. `config/agents.yaml`. Raises SystemProblem."""
    package = Path(str(importlib.resources.files("ai_infra")))
    for base in (package / "_shipped", package.parent):
        if (base / name).exists():
            return base / name
    raise SystemProblem(f"{name}: missing from this installation; run install.sh again")
