"""What a person is shown of a message: who wrote it, if that holds, and what became of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from ai_infra.messages.envelope import Envelope, EnvelopeError, MessageId, load
from ai_infra.messages.trust import Kind, Untrusted, Verifier
from ai_infra.messages.views import MessageView, Receipt


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A message and what is known of its sender."""

    id: MessageId
    sent_at: datetime
    sender_kind: str  #: agent, task, person; empty: nobody that this installation knows
    sender: str  #: the life, the task, or the login
    problem: str  #: why its sender is not known; empty: who it says
    envelope: Envelope | None  #: None: it cannot be read
    receipts: Mapping[str, Receipt]


def shown(verifier: Verifier, view: MessageView) -> Shown:
    """Verified anew, from the texts as they stand in Redis."""
    kind = sender = problem = ""
    reader = next(iter(view.receipts), "")
    try:
        trusted = verifier.verify(view.signed, reader=reader, id=view.id, sent_at=view.sent_at)
        envelope: Envelope | None = trusted.envelope
        kind, sender = trusted.sender.kind.value, trusted.sender.holder
    except Untrusted as exc:
        envelope, problem = _read(view), str(exc)
    return Shown(
        id=view.id,
        sent_at=view.sent_at,
        sender_kind=kind,
        sender=sender,
        problem=problem,
        envelope=envelope,
        receipts=view.receipts,
    )


def answer_of(verifier: Verifier, asked: Envelope, receipt: Receipt) -> Envelope:
    """The answer of the agent whose receipt this is.

    Raises Untrusted unless that agent's process wrote it, to who asked, about this question.
    """
    try:
        if receipt.answer is None:
            raise Untrusted("nothing is signed")
        trusted = verifier.verify(receipt.answer, reader=asked.source)
        if (trusted.sender.kind, trusted.sender.name) != (Kind.AGENT, receipt.agent):
            raise Untrusted(f"{trusted.sender.name} ({trusted.sender.kind}) wrote it")
        if trusted.envelope.correlation_id != asked.id:
            raise Untrusted("it answers another message")
    except Untrusted as exc:
        raise Untrusted(f"the answer to {asked.id} is not {receipt.agent}'s: {exc}") from exc
    return trusted.envelope


def _read(view: MessageView) -> Envelope | None:
    try:
        return load(view.signed.envelope)
    except EnvelopeError:
        return None
