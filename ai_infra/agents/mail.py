"""Mail: an agent reads its inbox while it works, and answers without a model.

- Nothing is believed before its signature was checked; what does not hold is refused, and said in the log.
- A message is handled once: by this life to its end, or by the next one, which finds it in the inbox. What it
  asks for is done by calls that may be repeated, so that a death in the middle of it does nothing twice.
- What takes long is waited for aside; the next message does not wait for it.
- A message that several lives died of is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Coroutine
from typing import TYPE_CHECKING, Any, TypeVar

from ai_infra.agents.answers import Answers, Reply, refused, task_of
from ai_infra.agents.persist import RETRY_S, persist
from ai_infra.core import ids
from ai_infra.core.errors import AiInfraError, Conflict, ConnectorError, NotFound
from ai_infra.core.home import Home
from ai_infra.core.process import Process
from ai_infra.messages.envelope import PERSON, Envelope, MessageId, MessageType, Payload, dump, now
from ai_infra.messages.post import Post
from ai_infra.messages.views import Delivery, Verdict
from ai_infra.tasks.ends import Ends
from ai_infra.tasks.engine import Engine

if TYPE_CHECKING:
    from ai_infra.messages.trust import Identity, Trusted, Verifier

MAX_LIVES = 5  #: lives that may read one message
_REMEMBERED = 4096
_TEXT_CHARS = 300  #: of a note, in the log and the window

T = TypeVar("T")


class Mail:
    """The inbox of one life of one agent."""

    def __init__(self, process: Process, home: Home, engine: Engine) -> None:
        self._process, self._home = process, home
        self._me = process.name
        self._post, self._ends = Post(engine.connection), Ends(engine.connection)
        self._answers = Answers(process, engine)
        self._in_hand: dict[str, Delivery] = {}  #: by entry: taken, and not handled to its end
        self._running: dict[ids.TaskId, tuple[Delivery, Envelope]] = {}  #: messages whose task has not ended
        self._handled: OrderedDict[MessageId, None] = OrderedDict()
        self._beside: set[asyncio.Task[None]] = set()
        self._awaits_ends = False
        self._verifier: Verifier | None = None
        self._identity: Identity | None = None

    async def serve(self) -> None:
        """Read and answer until cancelled, or until the process must stop now."""
        try:
            while True:
                deliveries, reports = await self._persist(
                    lambda: self._post.take(self._me, self._process.worker, list(self._in_hand))
                )
                for report in reports:
                    self._say_refused(report.id, report.source, report.reason)
                self._in_hand |= {delivery.entry: delivery for delivery in deliveries}
                for delivery, trusted in await self._verified(deliveries):
                    self._begin(self._handle(delivery, trusted), f"mail-{delivery.id}")
                if not deliveries:
                    try:
                        await self._post.wake(self._me)
                    except ConnectorError:  # then look what there is; not again and again at once
                        await asyncio.sleep(RETRY_S)
        except ConnectorError:
            if not self._process.insist.is_set():
                raise
        finally:
            for task in (beside := list(self._beside)):
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)
            self._post.close()
            self._ends.close()

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        """Do something beside the reading. Should it break, its message waits for the next life."""
        task = asyncio.create_task(work, name=name)
        self._beside.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self._beside.discard(task)
        exc = None if task.cancelled() else task.exception()
        if exc is not None and not (isinstance(exc, ConnectorError) and self._process.insist.is_set()):
            self._process.log(
                "message_crashed", level="error", message=task.get_name(), reason=repr(exc)[:500]
            )

    # -- trust ----------------------------------------------------------------------------------------------

    async def _verified(self, deliveries: list[Delivery]) -> list[tuple[Delivery, Trusted]]:
        """Those that hold, the most urgent first; the others are refused here."""
        found = []
        for delivery in deliveries:
            trusted = self._verify(delivery)
            if isinstance(trusted, str):
                self._say_refused(delivery.id, "", trusted)
                await self._judge(delivery, refused(trusted), None)
            else:
                found.append((delivery, trusted))
        return sorted(found, key=lambda pair: -pair[1].envelope.priority)

    def _verify(self, delivery: Delivery) -> Trusted | str:
        """The message and its sender, or why it is refused."""
        from ai_infra.messages.trust import Verifier  # not before there is mail: it takes 10 MB

        self._verifier = self._verifier or Verifier(self._home)
        if delivery.id in self._handled:
            return "it was handled before"
        if delivery.lives > MAX_LIVES:
            return f"{delivery.lives - 1} lives of {self._me} ended while they had it in hand"
        try:
            return self._verifier.verify(
                delivery.signed, reader=self._me, id=delivery.id, sent_at=delivery.sent_at
            )
        except AiInfraError as exc:  # Untrusted; or the public key is not there, so nothing can be trusted
            return str(exc)

    # -- handling -------------------------------------------------------------------------------------------

    async def _handle(self, delivery: Delivery, trusted: Trusted) -> None:
        envelope = trusted.envelope
        reply = await self._reply(delivery, envelope)
        self._say(trusted, reply)
        if reply.task is None or not envelope.response_wanted:
            await self._judge(delivery, reply, envelope)
            return
        await self._judge(delivery, reply, envelope, done=False)
        self._running[reply.task] = delivery, envelope
        if not self._awaits_ends:
            self._awaits_ends = True
            self._begin(self._await_ends(), "mail-ends")
        if not await self._persist(lambda: self._watch(reply.task)):
            await self._answer_ended(reply.task)

    async def _watch(self, task: ids.TaskId | None) -> bool:
        """Whether the task still goes on."""
        try:
            return task is not None and await self._ends.add(task)
        except NotFound:
            return False

    async def _reply(self, delivery: Delivery, envelope: Envelope) -> Reply:
        if delivery.verdict is Verdict.ACCEPTED and envelope.type is MessageType.TASK:
            return Reply(verdict=Verdict.ACCEPTED, reason="it goes on", task=task_of(envelope))
        try:
            return await self._persist(lambda: self._answers.answer(envelope))
        except ConnectorError:
            raise
        except Exception as exc:  # noqa: BLE001 the rim: no message can end its agent
            self._process.log("message_crashed", level="error", message=delivery.id, reason=repr(exc)[:500])
            return refused(f"bug: {repr(exc)[:500]}")

    async def _await_ends(self) -> None:
        """Answer the messages whose tasks end."""
        while True:
            for task in await self._persist(self._ends.next):
                await self._answer_ended(task)

    async def _answer_ended(self, task: ids.TaskId) -> None:
        waiting = self._running.pop(task, None)
        if waiting is None:
            return
        try:
            reply = await self._persist(lambda: self._answers.ended(task))
        except NotFound:
            reply = refused(f"the task {task} is gone")
        await self._judge(waiting[0], reply, waiting[1])

    async def _judge(
        self, delivery: Delivery, reply: Reply, envelope: Envelope | None, *, done: bool = True
    ) -> None:
        """Say the verdict, and the answer if one is wanted and there is one."""
        answer = None
        if done and reply.data is not None and envelope is not None and envelope.response_wanted:
            try:
                answer = self._answer(envelope, reply)
            except AiInfraError as exc:  # no key to sign with, or it is too long
                reply = refused(f"{self._me} cannot give its answer: {exc}")
        with contextlib.suppress(Conflict, NotFound):  # another life has it, or it is gone: not ours any more
            await self._persist(
                lambda: self._post.judge(delivery, reply.verdict, reply.reason, agent=self._me, done=done,
                                         worker=self._process.worker, answer=answer, identity=self._identity)
            )  # fmt: skip
        if done:
            self._in_hand.pop(delivery.entry, None)
            self._handled[delivery.id] = None
            if len(self._handled) > _REMEMBERED:
                self._handled.popitem(last=False)

    def _answer(self, envelope: Envelope, reply: Reply) -> Envelope:
        from ai_infra.messages.trust import identity_of_agent

        if self._identity is None or not self._identity.is_trusted(self._home):
            self._identity = identity_of_agent(self._home, self._me, self._process.worker)
        answer = Envelope(
            id=MessageId(ids.new_id("m")),
            timestamp=now(),
            source=self._me,
            target=envelope.source,
            type=MessageType.RESULT,
            priority=envelope.priority,
            payload=Payload(context=reply.reason, data=reply.data),
            correlation_id=envelope.id,
        )
        dump(answer)
        return answer

    # -- telling --------------------------------------------------------------------------------------------

    def _say(self, trusted: Trusted, reply: Reply) -> None:
        envelope, payload = trusted.envelope, trusted.envelope.payload
        event = "message_refused" if reply.verdict is Verdict.REFUSED else "message_accepted"
        said = payload.action or payload.task_id or payload.context or ""
        if event == "message_accepted" and envelope.type is MessageType.QUERY and payload.action is None:
            event = "message_shown"
        self._process.log(
            event,
            level="warning" if event == "message_refused" else "info",
            message=envelope.id,
            source=_named(trusted),
            type=envelope.type.value,
            text=said[:_TEXT_CHARS],
            reason=reply.reason,
        )

    def _say_refused(self, message: str, source: str, reason: str) -> None:
        self._process.log("message_refused", level="warning", message=message[:80],
                          source=source[:80] or "nobody known", type="", text="", reason=reason)  # fmt: skip

    async def _persist(self, call: Callable[[], Awaitable[T]]) -> T:
        return await persist(self._process, call)


def _named(trusted: Trusted) -> str:
    """Who says it, and what that is: an agent, a command of its task, a person."""
    name, sender = trusted.envelope.source, trusted.sender
    if sender.kind == "person":
        return f"{name.removeprefix(PERSON)} (a person)"
    return f"{name} (task {sender.holder})" if sender.kind == "task" else name
