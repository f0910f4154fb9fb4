"""Views: messages as the post tells of them. Replies are read here and nowhere else."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from ai_infra.messages.envelope import MessageId, Signed


class Verdict(StrEnum):
    """How far a message has come with one receiver."""

    DELIVERED = "delivered"  #: in its inbox
    READ = "read"  #: the receiver's process has it in hand
    ACCEPTED = "accepted"  #: it does, or did, what was asked
    REFUSED = "refused"


FINAL = frozenset({Verdict.ACCEPTED, Verdict.REFUSED})


@dataclass(frozen=True, kw_only=True)
class Receipt:
    """What became of a message with one receiver."""

    agent: str
    verdict: Verdict
    reason: str
    at: datetime
    done: bool  #: handled to its end: no answer comes any more
    answer: Signed | None = None


@dataclass(frozen=True, kw_only=True)
class MessageView:
    """A message as it stood at one instant. Not verified: whoever shows it verifies it."""

    id: MessageId
    sent_at: datetime
    signed: Signed
    receipts: Mapping[str, Receipt]


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """A message in the hands of its reader. Not verified yet."""

    entry: str  #: of the inbox
    id: MessageId
    signed: Signed
    verdict: Verdict  #: `accepted`: by an earlier life that did not come to its end
    lives: int  #: how many lives of the agent have read it, this one included

    @property
    def sent_at(self) -> datetime:
        """Server time at which it came into the inbox."""
        return read_ms(self.entry.split("-")[0])


@dataclass(frozen=True, kw_only=True)
class Report:
    """Something that was refused before it came into the inbox."""

    id: str
    source: str  #: as it said
    reason: str


@dataclass(frozen=True, kw_only=True)
class PostEvent:
    """One receiver's verdict changed."""

    entry: str  #: pass the last one back to go on after it
    id: MessageId
    agent: str
    what: str  #: a verdict, or `answered`


def as_of(receipt: Receipt, event: PostEvent) -> Receipt:
    """A receipt as it stood at an event: more may have happened since."""
    if event.what not in ("delivered", "read"):
        return receipt
    return replace(receipt, verdict=Verdict(event.what), reason="", at=read_ms(event.entry.split("-")[0]))


def read_ms(text: str | int) -> datetime:
    """A server instant in ms; the beginning of time for what is none."""
    try:
        return datetime.fromtimestamp(int(text) / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return datetime.fromtimestamp(0, UTC)


def read_message(row: Sequence[Any]) -> MessageView:
    """From `POST.row`. Raises KeyError, ValueError: the post did not write it."""
    flat = row[1]
    fields = {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
    agents = sorted(name[2:] for name in fields if name.startswith("v:"))
    return MessageView(
        id=MessageId(row[0]),
        sent_at=read_ms(fields["ts"]),
        signed=Signed(envelope=fields["e"], signature=fields["g"], certificate=fields["c"]),
        receipts={agent: _receipt(agent, fields) for agent in agents},
    )


def _receipt(agent: str, fields: Mapping[str, str]) -> Receipt:
    answer = None
    if f"a:{agent}" in fields:
        answer = Signed(
            envelope=fields[f"a:{agent}"],
            signature=fields[f"ag:{agent}"],
            certificate=fields[f"ac:{agent}"],
        )
    return Receipt(
        agent=agent,
        verdict=Verdict(fields[f"v:{agent}"]),
        reason=fields[f"r:{agent}"],
        at=read_ms(fields[f"w:{agent}"]),
        done=f"d:{agent}" in fields,
        answer=answer,
    )


def read_delivery(row: Sequence[Any]) -> Delivery:
    """From `POST.read`."""
    entry, message, envelope, signature, certificate, verdict, lives = row
    return Delivery(
        entry=entry,
        id=MessageId(message),
        signed=Signed(envelope=envelope, signature=signature, certificate=certificate),
        verdict=Verdict.ACCEPTED if verdict == Verdict.ACCEPTED else Verdict.READ,
        lives=int(lives),
    )


def read_report(text: str) -> Report:
    """From `POST.report`, or whatever somebody beside the post has put there."""
    try:
        said = json.loads(text)
        return Report(id=str(said["id"]), source=str(said["source"]), reason=str(said["reason"]))
    except (ValueError, RecursionError, TypeError, KeyError):
        return Report(id="?", source="", reason="somebody wrote what is no report beside the inbox")


def read_post_event(entry: str, flat: Sequence[str]) -> PostEvent:
    """From an entry of `mail:events`."""
    words = flat[1].split(" ")
    message, agent, what = words if len(words) == 3 else ("", "", "")  # somebody wrote it beside the post
    return PostEvent(entry=entry, id=MessageId(message), agent=agent, what=what)
