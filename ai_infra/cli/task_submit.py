"""`ai-infra task submit`."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.cli.finding import known_agent
from ai_infra.cli.options import Duration, Instant
from ai_infra.cli.output import examples, exit_of, json_option, print_json, run_async, show_task
from ai_infra.core import ids
from ai_infra.core.errors import Exit, UsageError
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.tasks.task import Command, TaskSpec, TaskView


@examples(
    "ai-infra task submit code -- git --version",
    "ai-infra task submit qa --shell 'make test | tail -5' --wait",
    "ai-infra task submit data --priority 9 --timeout 60 --expect-file out.csv -- python3 export.py",
    "ai-infra task submit infra --at 2027-12-01T03:00 --deadline 2027-12-01T05:00 -- ./backup.sh",
    "ai-infra task submit code --key nightly --lock repo --delay 10m -- make nightly",
)
@click.command()
@click.argument("agent")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--shell", "texts", multiple=True, metavar="TEXT", help="A command for bash; may be given several times."
)
@click.option("--name", help="What to call it; default: its first command.")
@click.option("--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 goes first.")
@click.option(
    "--timeout", "timeout_s", type=Duration(0.1), default="5m", show_default=True, help="Of one attempt."
)
@click.option(
    "--attempts", type=click.IntRange(1, 100), default=4, show_default=True, help="Tries before it is FAILED."
)
@click.option("--retry-delay", type=Duration(), help="Before the first retry; doubles.  [default: 1s]")
@click.option("--retry-max-delay", type=Duration(), help="Where the doubling stops.  [default: 1m]")
@click.option("--delay", type=Duration(), help="Not before so much time from now.")
@click.option("--at", type=Instant(), help="Not before; local time unless it has an offset.")
@click.option(
    "--deadline",
    type=Instant(or_duration=True),
    metavar="WHEN",
    help="FAILED if not ended by then (2h, or an instant); what runs is stopped.",
)
@click.option("--key", help="While a task with this key is open, submitting again is that task.")
@click.option(
    "--lock", "locks", multiple=True, metavar="NAME", help="At most one task with this lock runs at a time."
)
@click.option("--expect-file", multiple=True, metavar="PATH", help="Must exist afterwards.")
@click.option("--expect-output", multiple=True, metavar="REGEX", help="Must be found in the output.")
@click.option("--wait", "-w", is_flag=True, help="Wait for its end and show it; exit by it.")
@json_option
def submit(
    agent: str, command: tuple[str, ...], texts: tuple[str, ...], wait: bool, as_json: bool, **more: Any
) -> int:
    """Give AGENT a COMMAND to run, in its scratch workspace; prints the task's id.

    The id is printed when the task is on disk: from then on it is run, whatever dies. Durations are like
    90s, 10m, 2h, 1d or 1h30m.
    """
    settings = settings_from_env()
    spec = _spec(settings, agent, command, texts, **more)

    async def act() -> tuple[ids.TaskId, TaskView | None]:
        async with engine_now(settings) as engine:
            task = (await engine.submit([spec]))[0]
            if not as_json:
                click.echo(task)
            if task != spec.id:
                state = (await engine.get(task)).state
                click.echo(
                    f"a task with the key {spec.key} is open already: {task} ({state}); nothing was added",
                    err=True,
                )
            return task, (await engine.wait([task]))[0] if wait else None

    task, view = run_async(act())
    if view is None:
        if as_json:
            print_json({"id": task, "is_new": task == spec.id})
        return Exit.OK
    show_task(view, as_json)
    return exit_of([view])


def _spec(
    settings: Settings,
    agent: str,
    command: tuple[str, ...],
    texts: tuple[str, ...],
    *,
    name: str | None,
    attempts: int,
    expect_file: tuple[str, ...],
    expect_output: tuple[str, ...],
    delay: float | None,
    at: datetime | None,
    deadline: datetime | None,
    retry_delay: float | None,
    retry_max_delay: float | None,
    **more: Any,
) -> TaskSpec:
    from ai_infra.tasks.spec import check_spec
    from ai_infra.tasks.task import Expect, TaskSpec

    run: tuple[Command, ...] = (*([command] if command else []), *texts)
    agent_name = known_agent(settings, agent)
    if not run:
        raise UsageError("no command; say it after `--`, or with --shell TEXT")
    first = run[0] if isinstance(run[0], str) else shlex.join(run[0])
    spec = TaskSpec(
        id=ids.TaskId(ids.new_id("t")),
        name=name or " ".join(first.split())[:60],
        agent=agent_name,
        run=run,
        max_attempts=attempts,
        expect=(
            *(Expect(file=path) for path in expect_file),
            *(Expect(output_matches=p) for p in expect_output),
        ),
        not_before=_not_before(delay, at),
        deadline_at=deadline,
        **_retry_delays(retry_delay, retry_max_delay),
        **more,
    )
    check_spec(spec)
    return spec


def _not_before(delay_s: float | None, at: datetime | None) -> datetime | None:
    if delay_s is not None and at is not None:
        raise UsageError("--delay and --at say the same thing; give one of them")
    return at if delay_s is None else datetime.now(UTC) + timedelta(seconds=delay_s)


def _retry_delays(first_s: float | None, most_s: float | None) -> dict[str, Any]:
    """A first delay of more than the usual limit raises it."""
    found = {} if first_s is None else {"retry_delay_s": first_s}
    if most_s is not None:
        if most_s < (first_s or 0.0):
            raise UsageError("--retry-max-delay is less than --retry-delay")
        return {**found, "retry_max_delay_s": most_s}
    return {**found, "retry_max_delay_s": max(60.0, first_s)} if first_s is not None else {}
