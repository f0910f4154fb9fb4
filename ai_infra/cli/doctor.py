"""`ai-infra doctor`."""

from __future__ import annotations

import click

from ai_infra.cli.output import examples, json_option, print_json, run_async
from ai_infra.core.errors import Exit


@examples("ai-infra doctor", "ai-infra doctor --json")
@click.command()
@json_option
def doctor(as_json: bool) -> int:
    """Check this machine and installation: programs, state, session, Redis. Changes nothing.

    Exits with 1 when something will not work.
    """
    from ai_infra.app.doctor import Mark, examine

    rows = run_async(examine())
    if as_json:
        print_json(rows)
    else:
        for row in rows:
            click.echo(f"{row.mark.value:<5} {row.what:<13} {row.found}{f'; {row.do}' if row.do else ''}")
    return Exit.FAILED if any(row.mark is Mark.FAIL for row in rows) else Exit.OK
