"""`ai-infra send`, `ask`, `broadcast`, `handoff`, `inbox`: messages between people and agents."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from ai_infra.app.command import engine_now, settings_from_env
from ai_infra.app.lookup import find_id
from ai_infra.app.post import Desk, all_judged, desk, everyone, receiver
from ai_infra.cli.output import examples, in_colour, json_option, plain, print_json, run_async, show, width
from ai_infra.core import ids
from ai_infra.core.errors import Exit, NotFound, UsageError

if TYPE_CHECKING:
    from ai_infra.messages.envelope import Envelope
    from ai_infra.messages.shown import Shown
    from ai_infra.messages.views import MessageView, Receipt
    from ai_infra.tasks.task import TaskView

T = TypeVar("T")

TYPES = ["query", "task", "handoff", "heartbeat", "learn", "result"]
FOLLOW_S = 60.0  #: one blocking read of `inbox --follow`

_type = click.option(
    "--type", "kind", type=click.Choice(TYPES), default="query", show_default=True,
    help="What it is about; of a task, TEXT is a command for bash; of a handoff, the id of a task.",
)  # fmt: skip
_action = click.option("--action", metavar="WORD", help="What is asked for: ping, status, tasks.")
_priority = click.option(
    "--priority", type=click.IntRange(1, 10), default=5, show_default=True, help="10 goes first."
)


def _timeout(default_s: float) -> Callable[[T], T]:
    kind = click.FloatRange(min=0.1)
    return click.option(  # type: ignore[return-value]  # a decorator of functions and commands alike
        "--timeout", "timeout_s", type=kind, default=default_s, show_default=True, help="Seconds to wait."
    )


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
    to = receiver(settings, agent)
    made = _content(text, **content)

    async def act() -> MessageView:
        async with desk(settings) as at:
            view = await at.post.send(at.envelope(to, priority=priority, **made), at.me, [to])
            if not as_json and not wait:
                click.echo(view.id)
            return await at.post.wait(view.id, all_judged, timeout_s) if wait else view

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
    to = receiver(settings, agent)
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
    made = _content(text, **content)

    async def act() -> MessageView:
        async with desk(settings) as at:
            to = everyone(settings, but=at.me.certificate.name)
            if not to:
                raise NotFound("there is no other agent")
            view = await at.post.send(at.envelope("*", priority=priority, **made), at.me, to)
            if not as_json and not wait:
                click.echo(view.id)
            return await at.post.wait(view.id, all_judged, timeout_s) if wait else view

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
    to = ids.AgentName(receiver(settings, agent))

    async def act() -> TaskView:
        from ai_infra.tasks.handoff import hand_over

        async with engine_now(settings) as engine:
            return await hand_over(engine, await find_id(settings, engine, task), to, timeout_s)

    view = run_async(act())
    if as_json:
        print_json(view)
    else:
        click.echo(f"{view.id} is {view.agent}'s now, {view.state}")


@examples("ai-infra inbox", "ai-infra inbox code -n 5 --json", "ai-infra inbox --follow")
@click.command()
@click.argument("agent", required=False)
@click.option(
    "-n", "--limit", type=click.IntRange(1, 5000), default=30, show_default=True, help="At most so many."
)
@click.option("-f", "--follow", is_flag=True, help="Then go on with every verdict as it comes.")
@json_option
def inbox(agent: str | None, limit: int, follow: bool, as_json: bool) -> None:
    """Show what came into AGENT's inbox (or all of them), newest first, and what became of it."""
    settings = settings_from_env()
    of = receiver(settings, agent) if agent is not None else ""

    async def act() -> None:
        async with desk(settings) as at:
            after = await at.post.last_event()
            _tell_messages(
                [_shown(at, v) for v in await at.post.list_messages(of, limit)], of, as_json, follow
            )
            while follow:
                after = await _tell_events(at, after, of, as_json)

    run_async(act())


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


def _tell_receipts(view: MessageView, waited: bool, as_json: bool) -> int:
    """What became of a message; the exit code by it."""
    receipts = list(view.receipts.values())
    if as_json:
        print_json({"id": view.id, "receipts": [_receipt(receipt) for receipt in receipts]})
    else:
        from ai_infra.dashboard.messages import receipts_page

        told = receipts if waited else [receipt for receipt in receipts if receipt.verdict == "refused"]
        if told:
            show(receipts_page(told))
    return Exit.FAILED if any(receipt.verdict == "refused" for receipt in receipts) else Exit.OK


def _shown(at: Desk, view: MessageView) -> Shown:
    from ai_infra.messages.shown import shown

    return shown(at.verifier, view)


def _tell_messages(messages: list[Shown], of: str, as_json: bool, follow: bool) -> None:
    if as_json and not follow:
        print_json([_message(message) for message in messages])
    elif not as_json:
        from ai_infra.dashboard.messages import message_table

        show(message_table(messages, width(), of))


async def _tell_events(at: Desk, after: str, of: str, as_json: bool) -> str:
    """The verdicts that come in a while; where the stream ends then."""
    from ai_infra.dashboard.messages import message_line
    from ai_infra.messages.views import as_of

    events = await at.post.events(after, FOLLOW_S)
    for event in events:
        after = event.entry
        if of not in ("", event.agent):
            continue
        try:
            message = _shown(at, await at.post.get(event.id))
            then = as_of(message.receipts[event.agent], event)
        except (NotFound, KeyError):  # it is long over, and was removed; or nobody sent it there
            continue
        if as_json:
            line = {"id": event.id, "agent": event.agent, "what": event.what}
            click.echo(_one_line({**line, "message": _message(message)}))
        else:
            click.echo(message_line(message, then).text(colour=in_colour()))
    sys.stdout.flush()
    return after


def _message(message: Shown) -> dict[str, Any]:
    return {**vars(message), "receipts": {name: _receipt(r) for name, r in message.receipts.items()}}


def _receipt(receipt: Receipt) -> dict[str, Any]:
    """A receipt without the texts that carry signatures; `answer` as it says itself, not verified."""
    from ai_infra.messages.envelope import EnvelopeError, load

    told = {**vars(receipt), "answer": None}
    if receipt.answer is not None:
        try:
            told["answer"] = load(receipt.answer.envelope)
        except EnvelopeError:
            told["answer"] = None
    return told


def _one_line(value: object) -> str:
    import json

    return json.dumps(plain(value), ensure_ascii=False)
