"""`ai-infra version`."""

from __future__ import annotations

import sys

import click

from ai_infra import __version__
from ai_infra.cli.output import examples, json_option, print_json


@examples("ai-infra version", "ai-infra version --json")
@click.command()
@json_option
def version(as_json: bool) -> None:
    """Print the version of ai-infra and of Python."""
    python = ".".join(str(part) for part in sys.version_info[:3])
    if as_json:
        print_json({"version": __version__, "python": python})
    else:
        click.echo(f"ai-infra {__version__} (Python {python})")
