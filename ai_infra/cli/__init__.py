"""The `ai-infra` command: parse, one call, print, exit code.

`main()` is what a person runs. A window's process (`ai-infra run NAME`) begins here without the parser, since
a dozen of them start at once.
"""

from __future__ import annotations

import sys


def main() -> None:
    """Run one command and exit by its code."""
    words = sys.argv[1:]
    if len(words) == 2 and words[0] == "run" and not words[1].startswith("-"):
        from ai_infra.cli.window import run

        sys.exit(run(words[1]))
    from ai_infra.cli.main import run_cli

    sys.exit(run_cli())
