"""`ai-infra send`, `ask`, `broadcast`, `handoff`: messages between people and agents."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.app.lookup import find_id
from ai_infra.app.post import Desk, all_judged, desk, everyone
from ai_infra.cli.finding import known_agent
from ai_infra.cli.inbox import receipt_row
from ai_infra.cli.options import Duration
from ai_infra.cli.output import (
    examples,
    json_option,
    print_json,
    run_async,
    show,
)
from ai_infra.core.errors import Exit, NotFound, UsageError

if TYPE_CHECKING:
    from ai_infra.messages.envelope import Envelope
    from ai_infra.messages.views import MessageView
    from ai_infra.tasks.task import TaskView

T = TypeVar("T")

TYPES = ["query", "task", "handoff", "heartbeat", "learn", "result"]

_type = click.option(
    "--type", "kind", type=click.Choice(TYPES), default="query", show_default=True,
    help="What it is about; of a task, TEXT is a command for bash; of a handoff, the id of a task.",
)  # fmt: skip
_action = click.option("--action", metavar="WORD", help="What is asked for: ping, status, tasks.")
_priority = click.option(
    "--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 goes first."
)


def _timeout(default_s: float) -> Callable[[T], T]:
    return click.option(  # type: ignore[return-value]  # a decorator of functions and commands alike
        "--timeout", "timeout_s", type=Duration(0.1), default=f"{default_s:g}s", show_default=True,
        help="How long to wait at most.",
    )  # fmt: skip


@examples(
    "ai-infra send code 'the release is at noon'",
    "ai-infra send qa --type task --wait 'make test'",
    "ai-infra send code --action ping --wait --priority 9",
)
@click.command()
@click.argument("agent")
@click.argument("text", required=False)
@_type
@_action
@_priority
@click.option("--wait", "-w", is_flag=True, help="Wait until it is accepted or refused; exit by that.")
@_timeout(60.0)
@json_option
def send(
    agent: str, text: str | None, wait: bool, timeout_s: float, priority: int, as_json: bool, **content: Any
) -> int:
    """Put a message into AGENT's inbox and print its id. TEXT of `-` is read from stdin.

    It is printed when the message is on disk, whether AGENT is up or not. Without a model an agent shows a
    note in its window; what it cannot do, it refuses.
    """
    settings = settings_from_env()
    to = known_agent(settings, agent)
    made, wait_s = _content(text, **content), timeout_s if wait else None

    async def act() -> MessageView:
        async with desk(settings) as at:
            return await _send(at, at.envelope(to, priority=priority, **made), [to], wait_s, quiet=as_json)

    return _tell_receipts(run_async(act()), wait, as_json)


@examples(
    "ai-infra ask code --action status",
    "ai-infra ask qa --type task 'git --version' --timeout 60",
    "ai-infra ask infra --action tasks --json",
)
@click.command()
@click.argument("agent")
@click.argument("text", required=False)
@_type
@_action
@_priority
@_timeout(30.0)
@json_option
def ask(agent: str, text: str | None, timeout_s: float, priority: int, as_json: bool, **content: Any) -> int:
    """Send AGENT a message and wait for its answer, whose signature is checked.

    Exits with 1 when it is refused, or the task it asked for failed; 8 when no answer came in time.
    """
    settings = settings_from_env()
    to = known_agent(settings, agent)
    made = _content(text, **content)

    async def act() -> Envelope:
        async with desk(settings) as at:
            asked = at.envelope(to, priority=priority, response_wanted=True, **made)
            return await at.ask(to, asked, timeout_s)

    answer = run_async(act())
    if as_json:
        print_json(answer)
    else:
        from ai_infra.dashboard.messages import answer_page

        show(answer_page(answer))
    data = answer.payload.data
    failed = isinstance(data, dict) and data.get("state") in ("FAILED", "CANCELLED")
    return Exit.FAILED if failed and content["kind"] == "task" else Exit.OK


@examples(
    "ai-infra broadcast 'maintenance at 18:00'", "ai-infra broadcast --type heartbeat --wait --timeout 10"
)
@click.command()
@click.argument("text", required=False)
@_type
@_action
@_priority
@click.option("--wait", "-w", is_flag=True, help="Wait until each has accepted or refused; exit by that.")
@_timeout(60.0)
@json_option
def broadcast(
    text: str | None, wait: bool, timeout_s: float, priority: int, as_json: bool, **content: Any
) -> int:
    """Put one message into the inbox of every agent, once; those that are down find it when they start."""
    settings = settings_from_env()
    made, wait_s = _content(text, **content), timeout_s if wait else None

    async def act() -> MessageView:
        async with desk(settings) as at:
            to = everyone(settings, but=at.me.certificate.name)
            if not to:
                raise NotFound("there is no other agent")
            return await _send(at, at.envelope("*", priority=priority, **made), to, wait_s, quiet=as_json)

    return _tell_receipts(run_async(act()), wait, as_json)


@examples("ai-infra handoff t-1kxs2fhj8abcde qa", "ai-infra handoff t-1kxs qa --timeout 20 --json")
@click.command()
@click.argument("task")
@click.argument("agent")
@_timeout(60.0)
@json_option
def handoff(task: str, agent: str, timeout_s: float, as_json: bool) -> None:
    """Make AGENT the owner of a TASK that has not ended. TASK may be cut short.

    A task that runs is stopped at its worker first: asked, then killed after the grace. That run counts
    against no limit, and AGENT begins it anew.
    """
    settings = settings_from_env()
    to = known_agent(settings, agent)

    async def act() -> TaskView:
        from ai_infra.tasks.handoff import hand_over

        async with engine_now(settings) as engine:
            return await hand_over(engine, await find_id(settings, engine, task), to, timeout_s)

    view = run_async(act())
    if as_json:
        print_json(view)
    else:
        click.echo(f"{view.id} is {view.agent}'s now, {view.state}")


# -- parts --------------------------------------------------------------------------------------------------


def _content(text: str | None, *, kind: str, action: str | None) -> dict[str, Any]:
    """What the message says, from the words of the command."""
    from ai_infra.messages.envelope import MAX_BYTES, MessageType, Payload

    said = text
    if text == "-":
        said = sys.stdin.buffer.read(MAX_BYTES + 1).decode("utf-8", "replace").rstrip("\n")
    if kind in ("task", "handoff"):
        if not said or action:
            what = "the command to run" if kind == "task" else "the id of the task"
            raise UsageError(f"a message of type {kind} says {what} as its TEXT, and no --action")
        payload = Payload(run=(said,)) if kind == "task" else Payload(task_id=said)
    elif said or action or kind == "heartbeat":
        payload = Payload(context=said or None, action=action)
    else:
        raise UsageError("nothing to say: give a TEXT, or --action WORD")
    return {"type": MessageType(kind), "payload": payload}


async def _send(
    at: Desk, envelope: Envelope, to: Sequence[str], wait_s: float | None, *, quiet: bool
) -> MessageView:
    """Send, and wait for the verdicts if `wait_s` is given; else the id is printed, but for the `quiet`."""
    view = await at.post.send(envelope, at.me, to)
    if wait_s is not None:
        return await at.post.wait(view.id, all_judged, wait_s)
    if not quiet:
        click.echo(view.id)
    return view


def _tell_receipts(view: MessageView, waited: bool, as_json: bool) -> int:
    """What became of a message; the exit code by it."""
    receipts = list(view.receipts.values())
    if as_json:
        print_json({"id": view.id, "receipts": [receipt_row(receipt) for receipt in receipts]})
    else:
        from ai_infra.dashboard.messages import receipts_page

        told = receipts if waited else [receipt for receipt in receipts if receipt.verdict == "refused"]
        if told:
            show(receipts_page(told))
    return Exit.FAILED if any(receipt.verdict == "refused" for receipt in receipts) else Exit.OK
