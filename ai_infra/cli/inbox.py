"""`ai-infra inbox`: messages, and what becomes of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ai_infra.app.command import settings_from_env
from ai_infra.app.post import Desk, desk
from ai_infra.cli.finding import known_agent
from ai_infra.cli.output import (
    examples,
    in_colour,
    json_option,
    json_text,
    print_json,
    run_async,
    say,
    show,
    while_somebody_reads,
    width,
)
from ai_infra.core.errors import NotFound

if TYPE_CHECKING:
    from ai_infra.messages.shown import Shown
    from ai_infra.messages.views import MessageView, Receipt

FOLLOW_S = 60.0  #: one blocking read of `inbox --follow`


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
    of = known_agent(settings, agent) if agent is not None else ""

    async def act() -> None:
        async with desk(settings) as at:
            after = await at.post.last_event()
            _tell_messages(
                [_shown(at, v) for v in await at.post.list_messages(of, limit)], of, as_json, follow
            )
            while follow:
                after = await _tell_events(at, after, of, as_json)

    run_async(while_somebody_reads(act()))


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
    from ai_infra.dashboard.live import patiently
    from ai_infra.dashboard.logs import print_out
    from ai_infra.dashboard.messages import message_line
    from ai_infra.messages.views import as_of

    events = await patiently(lambda: at.post.events(after, FOLLOW_S), say)
    for event in events:
        after = event.entry
        if of not in ("", event.agent):
            continue
        try:
            message = _shown(at, await patiently(lambda id=event.id: at.post.get(id), say))  # type: ignore[misc]
            then = as_of(message.receipts[event.agent], event)
        except (NotFound, KeyError):  # it is long over, and was removed; or nobody sent it there
            continue
        if as_json:
            line = {"id": event.id, "agent": event.agent, "what": event.what}
            print_out(json_text({**line, "message": _message(message)}))
        else:
            print_out(message_line(message, then).text(colour=in_colour()))
    return after


def _message(message: Shown) -> dict[str, Any]:
    return {**vars(message), "receipts": {name: receipt_row(r) for name, r in message.receipts.items()}}


def receipt_row(receipt: Receipt) -> dict[str, Any]:
    """A receipt without the texts that carry signatures; `answer` as it says itself, not verified."""
    from ai_infra.messages.envelope import EnvelopeError, load

    told = {**vars(receipt), "answer": None}
    if receipt.answer is not None:
        try:
            told["answer"] = load(receipt.answer.envelope)
        except EnvelopeError:
            told["answer"] = None
    return told
