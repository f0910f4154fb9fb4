"""`ai-infra checkup [REPO]`: the team examines a git repository and this machine. No model, no key."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ai_infra.app.command import settings_from_env
from ai_infra.cli.output import examples, in_colour, json_option, print_json, run_async, width
from ai_infra.core.durable import read_json
from ai_infra.core.errors import Exit, Failed, NotFound, UsageError
from ai_infra.core.shipped import shipped


@examples(
    "ai-infra checkup",
    "ai-infra checkup /srv/app --output report.md",
    "ai-infra checkup . --part lint --out /tmp/checkup",
)
@click.command()
@click.argument("repo", default=".")
@click.option("--output", metavar="FILE", help="Also write the report to FILE.")
@click.option("--part", help="Do only this part, here and now, without the session; needs --out.")
@click.option("--out", metavar="DIR", help="With --part: where its JSON goes.")
@json_option
def checkup(repo: str, output: str | None, part: str | None, out: str | None, as_json: bool) -> int:
    """Examine the git repository REPO (default: the one around the current folder) and this machine.

    Inventory, measures, lint, tests, secrets, the state of the machine: each by the agent whose work it is.
    The supervisor joins them into one Markdown report. Exits with 1 when its verdict is `fail`.
    """
    folder = Path(repo).resolve()
    if not os.path.isdir(folder):
        raise NotFound(f"{repo}: no such folder")
    if part is not None or out is not None:
        return _one_part(part, folder, out)
    return _all_parts(folder, output, as_json)


def _one_part(part: str | None, repo: Path, out: str | None) -> int:
    from ai_infra.checkup import PARTS, run_part

    if part is None or out is None:
        raise UsageError("--part and --out go together")
    if part not in PARTS:
        raise UsageError(f"--part {part}: there are {', '.join(PARTS)}")
    run_part(part, repo, Path(out))
    return Exit.OK


def _all_parts(repo: Path, output: str | None, as_json: bool) -> int:
    from ai_infra.checkup.git import open_repo
    from ai_infra.cli.workflow import submit_and_follow

    settings = settings_from_env()
    open_repo(repo)  # says what is wrong with it before anything is submitted
    flow = shipped("config/workflows/checkup.yaml")
    view = run_async(submit_and_follow(settings, flow, {"repo": str(repo)}, quiet=as_json))
    report = Path(view.header.dir) / "report.md"
    if not report.exists():
        raise Failed(f"no report was made; `ai-infra workflow show {view.header.id}` says why")
    text = report.read_text()
    if output is not None:
        try:
            Path(output).write_text(text)
        except OSError as exc:
            raise UsageError(f"--output {output}: {exc.strerror}") from exc
    verdict = read_json(report.with_suffix(".json")) or {}
    if as_json:
        print_json(verdict)
    else:
        from ai_infra.dashboard.report import report_text

        click.echo()
        click.echo(report_text(text, width(), colour=True) if in_colour() else text)
        click.echo(f"report: {report}")
    return Exit.FAILED if verdict.get("verdict") == "fail" else Exit.OK
