"""The post for one command: who types it, the open post office, and answers that hold."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ai_infra.app.command import agents_with_window, engine_now, login
from ai_infra.core import ids
from ai_infra.core.errors import DeadlinePassed, Failed
from ai_infra.core.settings import Settings

if TYPE_CHECKING:
    from ai_infra.messages.envelope import Envelope
    from ai_infra.messages.post import Post
    from ai_infra.messages.trust import Identity, Verifier
    from ai_infra.messages.views import MessageView


@dataclass(frozen=True, kw_only=True)
class Desk:
    """Where one command sends and reads messages."""

    post: Post
    me: Identity
    verifier: Verifier

    def envelope(self, target: str, **content: Any) -> Envelope:
        """A new message from who types this command."""
        from ai_infra.messages.envelope import Envelope, MessageId, now

        source = self.me.certificate.name
        new = MessageId(ids.new_id("m"))
        return Envelope(id=new, timestamp=now(), source=source, target=target, **content)

    async def ask(self, agent: str, envelope: Envelope, timeout_s: float) -> Envelope:
        """Send, and wait for the answer.

        Raises DeadlinePassed; Failed when it is refused, Untrusted when the answer is not the agent's.
        """
        from ai_infra.messages.shown import answer_of

        await self.post.send(envelope, self.me, [agent])
        try:
            view = await self.post.wait(envelope.id, lambda view: view.receipts[agent].done, timeout_s)
        except DeadlinePassed:
            raise DeadlinePassed(
                f"no answer from {agent} after {timeout_s:g} s; message {envelope.id} stays in its inbox, "
                f"and `ai-infra inbox {agent}` shows what becomes of it"
            ) from None
        receipt = view.receipts[agent]
        if receipt.verdict == "refused":
            raise Failed(f"{agent} refused: {receipt.reason}")
        return answer_of(self.verifier, envelope, receipt)


@asynccontextmanager
async def desk(settings: Settings) -> AsyncIterator[Desk]:
    """The post for a command. Raises NotRunning, SystemProblem (keys that cannot be read or made)."""
    async with engine_now(settings) as engine:
        from ai_infra.messages.post import Post
        from ai_infra.messages.trust import Verifier, identity_of_command

        settings.home.ensure()  # a Redis of the user's may be there before any session was
        me = identity_of_command(settings.home, os.environ, login())
        yield Desk(post=Post(engine.connection), me=me, verifier=Verifier(settings.home))


def everyone(settings: Settings, but: str) -> Sequence[str]:
    """Every agent with a window, but the sender."""
    return [name for name in agents_with_window(settings) if name != but]


def all_judged(view: MessageView) -> bool:
    """Whether every receiver has accepted or refused."""
    from ai_infra.messages.views import FINAL

    return all(receipt.verdict in FINAL for receipt in view.receipts.values())
