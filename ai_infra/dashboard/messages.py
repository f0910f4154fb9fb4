"""Messages: what came, from whom, and what became of it, one receiver a line. Pure."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from ai_infra.dashboard.clean import output_line
from ai_infra.dashboard.grid import Column, grid
from ai_infra.dashboard.ink import Line, Page, Style, ink, join
from ai_infra.dashboard.words import clock

if TYPE_CHECKING:
    from ai_infra.messages.envelope import Envelope
    from ai_infra.messages.shown import Shown
    from ai_infra.messages.views import Receipt

VERDICTS = {
    "delivered": ("○", Style.PLAIN),
    "read": ("●", Style.ACCENT),
    "accepted": ("✓", Style.GOOD),
    "refused": ("✗", Style.BAD),
}
MAX_TEXT_CHARS = 500


def message_table(messages: Sequence[Shown], width: int = 80, agent: str = "") -> Page:
    """One receiver of a message a line, in the order given; with `agent`, only what that one received."""
    rows = [
        (message, receipt)
        for message in messages
        for receipt in message.receipts.values()
        if agent in ("", receipt.agent)
    ]

    def column(
        title: str, cell: Callable[[Shown, Receipt], Line], goes: int = 0, shrink_to: int | None = None
    ) -> Column:
        cells = [cell(*row) for row in rows]
        return Column(title=title, cells=cells, priority=goes, shrink_to=shrink_to)

    columns = [
        column("at", lambda m, r: ink(clock(m.sent_at), Style.DIM), goes=4),
        column("id", lambda m, r: ink(m.id)),
        column("from", lambda m, r: sender(m)),
        column("to", lambda m, r: ink(r.agent), goes=0 if not agent else 7),
        column("type", lambda m, r: ink(m.envelope.type if m.envelope else "?"), goes=3),
        column("prio", lambda m, r: ink(m.envelope.priority if m.envelope else "?", Style.DIM), goes=6),
        column("verdict", lambda m, r: verdict(r)),
        column("text", lambda m, r: ink(text_of(m.envelope)), goes=1, shrink_to=12),
        column("reason", lambda m, r: ink(r.reason, Style.DIM), goes=2, shrink_to=14),
    ]
    return Page(tuple(grid(columns, width) if rows else [ink("no messages", Style.DIM)]))


def message_line(message: Shown, receipt: Receipt) -> Line:
    """One verdict, as `inbox --follow` tells it."""
    head = [ink(clock(receipt.at), Style.DIM), sender(message), ink(f"→ {receipt.agent}"), verdict(receipt)]
    return join(
        [*head, ink(text_of(message.envelope)), ink(receipt.reason, Style.DIM), ink(message.id, Style.DIM)]
    )


def receipts_page(receipts: Sequence[Receipt]) -> Page:
    """What became of one message, a receiver a line."""
    return Page(tuple(join([ink(r.agent, Style.BOLD), verdict(r), ink(r.reason)]) for r in receipts))


def answer_page(answer: Envelope) -> Page:
    """What `ai-infra ask` prints."""
    lines = [join([ink(answer.source, Style.BOLD), ink(answer.payload.context or "")], ": ")]
    data = answer.payload.data
    if isinstance(data, dict):
        data = dict(data)
        tail = str(data.pop("output_tail", ""))
        lines += [
            join([ink(f"  {name}", Style.DIM), ink(_plain(value))])
            for name, value in data.items()
            if value is not None
        ]
        lines += [
            ink("  │ ", Style.DIM) + ink(output_line(line)) for line in tail.rstrip("\n").split("\n") if line
        ]
    elif isinstance(data, list):
        lines += [ink(f"  {_plain(item)}") for item in data]
    return Page(tuple(lines))


def sender(message: Shown) -> Line:
    """Who wrote it; a name that nobody vouches for says so."""
    name = message.envelope.source if message.envelope else "?"
    if message.problem:
        return ink(f"{name} (NOT TRUSTED)", Style.BAD)
    if message.sender_kind == "person":
        return ink(f"{name.removeprefix('person:')} (a person)", Style.BOLD)
    return ink(f"{name} (its task)" if message.sender_kind == "task" else name)


def verdict(receipt: Receipt) -> Line:
    """Glyph and word of a verdict."""
    glyph, style = VERDICTS.get(receipt.verdict, ("?", Style.WARN))
    return ink(f"{glyph} {receipt.verdict}", style)


def text_of(envelope: Envelope | None) -> str:
    """What a message says, in one line."""
    if envelope is None:
        return ""
    payload = envelope.payload
    commands = [command if isinstance(command, str) else " ".join(command) for command in payload.run]
    said = [payload.action or "", payload.task_id or "", payload.context or "", *commands]
    return " ".join(" ".join(part for part in said if part)[:MAX_TEXT_CHARS].split())


def _plain(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
