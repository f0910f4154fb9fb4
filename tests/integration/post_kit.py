"""What the tests of messages share: senders, envelopes, and an agent that reads its mail."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from engine_kit import engine_on

from ai_infra.agents.mail import Mail
from ai_infra.core.events import EventLog
from ai_infra.core.home import Home
from ai_infra.core.ids import WindowName, new_id
from ai_infra.core.process import Process
from ai_infra.messages.envelope import Envelope, MessageId, MessageType, Payload, now
from ai_infra.messages.post import Post
from ai_infra.messages.trust import Identity, identity_of_agent, identity_of_command
from ai_infra.messages.views import MessageView, Receipt
from ai_infra.tasks.engine import Engine
from ai_infra.testing import wait_until_async

AGENT = "code"


class Town:
    """One installation's post: a person, a home, and agents that come and go."""

    def __init__(self, home: Home, address: str) -> None:
        self.home, self.address = home, address
        home.ensure()
        self.person: Identity = identity_of_command(home, {}, "ada")
        self.log = EventLog(home.logs / f"{AGENT}.jsonl", AGENT, 10**7)
        self.engine: Engine
        self.post: Post

    def run(self, body: Callable[[Town], Awaitable[None]], timeout_s: float = 40) -> None:
        """Run `body` with an open post office."""

        async def main() -> None:
            async with asyncio.timeout(timeout_s), engine_on(self.address) as self.engine:
                self.post = Post(self.engine.connection)
                await body(self)
                self.post.close()

        asyncio.run(main())

    @asynccontextmanager
    async def life(self) -> AsyncIterator[Process]:
        """One life of the agent, as far as its mail goes. It ends as if killed: nothing is put right."""
        process = Process(WindowName(AGENT), self.home, self.log)
        async with engine_on(self.address) as engine:
            mail = asyncio.create_task(Mail(process, self.home, engine).serve())
            try:
                yield process
            finally:
                mail.cancel()
                await asyncio.wait([mail])

    def message(self, target: str = AGENT, **more: Any) -> Envelope:
        head = {"id": MessageId(new_id("m")), "timestamp": now(), "source": "person:ada"}
        return Envelope(**{**head, "target": target, "type": MessageType.QUERY, **more})

    async def send(self, envelope: Envelope, *receivers: str, sender: Identity | None = None) -> MessageView:
        return await self.post.send(envelope, sender or self.person, receivers or (envelope.target,))

    async def note(self, text: str = "hello", **more: Any) -> MessageView:
        return await self.send(self.message(payload=Payload(context=text), **more))

    async def ended(self, message: str, agent: str = AGENT, timeout_s: float = 15) -> Receipt:
        view = await self.post.wait(MessageId(message), lambda v: v.receipts[agent].done, timeout_s)
        return view.receipts[agent]

    def agent(self, name: str = "qa", worker: str = "qa.1") -> Identity:
        return identity_of_agent(self.home, name, worker)

    async def redis(self, *words: str | int) -> Any:
        """A command that goes round the post; `KEY:` before a name is the prefix of all keys."""
        key = self.engine.connection.key("")
        return await self.engine.connection.command(
            *(w.replace("KEY:", key) if isinstance(w, str) else w for w in words)
        )

    def events(self, name: str) -> list[dict[str, Any]]:
        path = self.home.logs / f"{AGENT}.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [entry for entry in map(json.loads, lines) if entry["event"] == name]

    async def logged(self, name: str, count: int = 1) -> list[dict[str, Any]]:
        async def found() -> list[dict[str, Any]] | None:
            events = self.events(name)
            return events if len(events) >= count else None

        events = await wait_until_async(found, 10, f"{count} {name}")
        assert events is not None
        return events
