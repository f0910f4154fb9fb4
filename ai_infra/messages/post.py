"""The post: sending, and waiting for what becomes of it; reading an inbox, and saying what became of it.

A message is delivered when it is in the receiver's inbox, on disk; its sender learns each further verdict
without asking again and again. Every call is one function of the library and may be repeated: whatever
raised ConnectorUnavailable may have happened. A message is delivered to each receiver once; its handling may
begin again when the receiver dies in the middle of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from ai_infra.connectors.inbox import Inbox
from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import ConnectorUnavailable, DeadlinePassed, NotFound
from ai_infra.core.ids import new_id
from ai_infra.messages.envelope import Envelope, MessageId, dump
from ai_infra.messages.views import (
    Delivery,
    MessageView,
    PostEvent,
    Report,
    Verdict,
    read_delivery,
    read_message,
    read_post_event,
    read_report,
)

if TYPE_CHECKING:
    from ai_infra.messages.trust import Identity

INBOX_MESSAGES = 1000  #: that an agent has not handled; then its inbox is full
INBOX_BYTES = 32 * 1024 * 1024  #: likewise
TAKEN = 32  #: at most so many at once in a reader's hands
_BLOCK_S = 60.0  #: longest single blocking read
_AWAY_RETRY_S = 0.2
_REGISTER_AGAIN_S = 6 * 3600.0  #: a key is known for a day after it was last registered


class Post:
    """The post office on one Redis. The connection belongs to the caller."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._registered: dict[str, float] = {}  #: key id: when
        self._wakes: dict[str, Inbox] = {}

    def close(self) -> None:
        """Stop waiting; the connection stays open."""
        for wake in self._wakes.values():
            wake.close()
        self._wakes.clear()

    # -- sending --------------------------------------------------------------------------------------------

    async def send(self, envelope: Envelope, sender: Identity, receivers: Sequence[str]) -> MessageView:
        """Put a message into the inbox of every receiver; on disk when this returns.

        Raises EnvelopeError (not well formed), Conflict (its id was used before, or the one receiver's inbox
        is full; with several, those whose inbox is full have refused).
        """
        signed = sender.sign(dump(envelope))
        head = (envelope.id, new_id("call"), signed.envelope, signed.signature, sender.key_id)

        async def send() -> Any:
            limits = (INBOX_MESSAGES, INBOX_BYTES)
            return await self._call("mail_send", *head, envelope.source, *limits, *receivers)

        return read_message(await self._known(sender, send))

    async def wait(
        self, message: MessageId, enough: Callable[[MessageView], bool], timeout_s: float | None
    ) -> MessageView:
        """The message as soon as it is `enough`. Raises DeadlinePassed, NotFound."""
        box = Inbox(self._connection, f"mail:box:{message}")
        try:
            async with asyncio.timeout(timeout_s):
                while not enough(view := read_message(await self._call("mail_watch", message))):
                    try:
                        await box.pop(_BLOCK_S)
                    except ConnectorUnavailable:  # then ask again how it stands
                        await asyncio.sleep(_AWAY_RETRY_S)
            return view
        except TimeoutError:
            raise DeadlinePassed(f"message {message}: no verdict after {timeout_s:g} s") from None
        finally:
            box.close()
            with contextlib.suppress(ConnectorUnavailable):
                await self._call("mail_unwatch", message)

    # -- looking --------------------------------------------------------------------------------------------

    async def get(self, message: MessageId) -> MessageView:
        """The message as it stands. Raises NotFound."""
        rows = await self._call("mail_get", message)
        for view in _readable(rows):
            return view
        raise NotFound(f"message {message} does not exist")

    async def list_messages(self, agent: str = "", limit: int = 30) -> list[MessageView]:
        """Messages, the newest first: all, or those that `agent` received."""
        return list(_readable(await self._call("mail_list", agent, limit)))

    async def last_event(self) -> str:
        """Where the stream of verdicts ends now."""
        newest = await self._connection.command("XREVRANGE", self._events, "+", "-", "COUNT", 1)
        return newest[0][0] if newest else "0-0"

    async def events(self, after: str, block_s: float) -> Sequence[PostEvent]:
        """Verdicts after the entry `after`; waits up to `block_s` for some."""
        words = (
            "XREAD",
            "COUNT",
            200,
            "BLOCK",
            max(1, round(block_s * 1000)),
            "STREAMS",
            self._events,
            after,
        )
        reply = await self._connection.block(*words, timeout_s=block_s)
        return [read_post_event(entry, flat) for entry, flat in reply[0][1]] if reply else []

    # -- reading an inbox -----------------------------------------------------------------------------------

    async def take(
        self, agent: str, worker: str, holding: Collection[str] = ()
    ) -> tuple[list[Delivery], list[Report]]:
        """What there is to handle and is not in hand (`holding`: entries), each `read` from now on; and what
        was refused at the door. The first call of a life takes over what the last one left unfinished.
        """
        rows, reports = await self._call("mail_take", agent, worker, TAKEN, *holding)
        return [read_delivery(row) for row in rows], [read_report(text) for text in reports]

    async def wake(self, agent: str) -> None:
        """Sleep until something comes into the inbox, a minute at most. One reader only."""
        box = self._wakes.setdefault(agent, Inbox(self._connection, f"mail:wake:{agent}"))
        await box.pop(_BLOCK_S)

    async def judge(
        self,
        delivery: Delivery,
        verdict: Verdict,
        reason: str,
        *,
        agent: str,
        worker: str,
        done: bool = True,
        answer: Envelope | None = None,
        identity: Identity | None = None,
    ) -> None:
        """Say what became of a message. `done`: it is handled, and leaves the inbox.

        Raises Conflict when another life has it in hand, NotFound when it is gone.
        """
        head = (agent, worker, delivery.id, delivery.entry, verdict, reason[:2000], int(done))
        if answer is None or identity is None:
            await self._call("mail_judge", *head, "", "", "")
            return
        signed = identity.sign(dump(answer))
        tail = (signed.envelope, signed.signature, identity.key_id)
        await self._known(identity, lambda: self._call("mail_judge", *head, *tail))

    # -- parts ----------------------------------------------------------------------------------------------

    async def _known(self, who: Identity, call: Callable[[], Awaitable[Any]]) -> Any:
        """The result of a call that needs the key of `who` to be registered."""
        at = self._registered.get(who.key_id)
        if at is not None and time.monotonic() - at < _REGISTER_AGAIN_S:
            with contextlib.suppress(NotFound):  # the server may have been emptied since: once more, then
                return await call()
        await self._call("mail_register", who.key_id, who.certificate_text)
        self._registered[who.key_id] = time.monotonic()
        return await call()

    async def _call(self, function: str, *words: Any) -> Any:
        return await self._connection.call(function, *words)

    @property
    def _events(self) -> str:
        return self._connection.key("mail:events")


def _readable(rows: Sequence[Any]) -> Iterator[MessageView]:
    """Without what nobody sent: a message is written as a whole, so what lacks a part is not the post's."""
    for row in rows:
        with contextlib.suppress(KeyError, ValueError):
            yield read_message(row)
