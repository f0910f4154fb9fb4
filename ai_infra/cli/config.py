"""`config show|check|path`."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ai_infra.app.command import agents_with_window, settings_from_env
from ai_infra.cli.output import examples, json_option, plain, print_json
from ai_infra.core.home import Home
from ai_infra.core.settings import FILE, Settings, is_secret, known_keys


@examples("ai-infra config show", "ai-infra config check")
@click.group()
def config() -> None:
    """Show and check the settings."""


@examples("ai-infra config show", "ai-infra config show --json")
@config.command("show")
@json_option
def show_(as_json: bool) -> None:
    """Show every setting in force, and where it was set."""
    settings = settings_from_env()
    values = {name: _value(settings, name) for name in known_keys()}
    if as_json:
        print_json({"settings": values, "origins": settings.origins, "agents": plain(settings.agents)})
        return
    for name, value in values.items():
        click.echo(f"{name + ' = ' + str(value):<52}  {settings.origins[name]}")
    for agent in settings.agents.values():
        click.echo(f"agent {agent.name:<10} {agent.description}")


def _value(settings: Settings, name: str) -> object:
    section, key = name.split(".")
    value = getattr(getattr(settings, section), key)
    return "(set, not shown)" if value and is_secret(name) else value


@examples("ai-infra config check", "ai-infra config check --json")
@config.command()
@json_option
def check(as_json: bool) -> None:
    """Read every settings, session and workflow file, and say the first thing that is wrong."""
    from ai_infra.supervisor.spec import load_session, session_file
    from ai_infra.tasks.workflow import check_workflow

    settings = settings_from_env()
    spec = load_session(settings)
    flows = _workflow_files(settings)
    for path in flows:
        check_workflow(path, agents=agents_with_window(settings))
    found = {
        "settings": known_keys(),
        "agents": list(settings.agents),
        "session": str(session_file(settings)),
        "windows": spec.names,
        "workflows": [path.stem for path in flows],
    }
    if as_json:
        print_json(found)
        return
    for what, names in found.items():
        click.echo(f"{what:<10} {names if isinstance(names, str) else ', '.join(names)}")
    click.echo("all of it is right")


def _workflow_files(settings: Settings) -> list[Path]:
    from ai_infra.core.shipped import shipped

    folders = (settings.home.config / "workflows", shipped("config/workflows"))
    return sorted(path for folder in folders for path in folder.glob("*.yaml"))


@examples("ai-infra config path", "ai-infra config path --json")
@config.command()
@json_option
def path(as_json: bool) -> None:
    """Print where settings of yours go, and where state is kept."""
    home = Home.from_env(os.environ)
    places = {
        "settings": home.config / FILE,
        "agents": home.config / "agents.yaml",
        "session": home.config / "tmux" / "session.yaml",
        "workflows": home.config / "workflows",
        "state": home.root,
        "logs": home.logs,
        "work": home.workspace,
    }
    if as_json:
        print_json({what: str(where) for what, where in places.items()})
        return
    for words, where in places.items():
        click.echo(f"{words:<10} {where}")
