"""The post on a real Redis: delivered once, in bounded inboxes, with verdicts that hold, whoever dies."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from post_kit import Town

from ai_infra.connectors.redis import Connection
from ai_infra.core.errors import Conflict, DeadlinePassed, NotFound
from ai_infra.core.home import Home
from ai_infra.messages import post as post_module
from ai_infra.messages.envelope import Payload, dump
from ai_infra.messages.post import Post
from ai_infra.messages.trust import Verifier
from ai_infra.messages.views import Delivery, Verdict, read_message
from tests.conftest import RedisServer


@pytest.fixture
def town(own_redis: RedisServer) -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="ai-post-") as folder:
        found = Town(Home(Path(folder) / "state"), own_redis.address)
        yield found
        found.log.close()


async def taken(town: Town, worker: str = "code.1", *holding: str) -> list[Delivery]:
    return (await town.post.take("code", worker, holding))[0]


async def judged(town: Town, delivery: Delivery, worker: str = "code.1", **more: object) -> None:
    await town.post.judge(delivery, Verdict.ACCEPTED, "done", agent="code", worker=worker, **more)  # type: ignore[arg-type]


# -- the way of a message -----------------------------------------------------------------------------------


def test_delivered_read_accepted(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        assert sent.receipts["code"].verdict is Verdict.DELIVERED
        (delivery,) = await taken(town)
        assert Verifier(town.home).verify(
            delivery.signed, reader="code", id=sent.id, sent_at=delivery.sent_at
        )
        assert (await town.post.get(sent.id)).receipts["code"].verdict is Verdict.READ
        await judged(town, delivery)
        receipt = (await town.post.get(sent.id)).receipts["code"]
        assert (receipt.verdict, receipt.reason, receipt.done) == (Verdict.ACCEPTED, "done", True)
        assert await taken(town) == []
        assert await town.redis("XLEN", "KEY:mail:in:code") == 0
        assert await town.redis("HGETALL", "KEY:mail:load") == []

    town.run(body)


def test_a_waiter_hears_each_verdict_without_asking(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        before = await _calls(town)
        waiting = asyncio.create_task(town.post.wait(sent.id, lambda v: v.receipts["code"].done, 20))
        (delivery,) = await taken(town)
        await judged(town, delivery)
        assert (await waiting).receipts["code"].verdict is Verdict.ACCEPTED
        assert await _calls(town) - before <= 6  # take, judge; the waiter: at first, per verdict, at the end

    town.run(body)


async def _calls(town: Town) -> int:
    """How many functions were called so far."""
    stats = await town.redis("INFO", "commandstats")
    (line,) = [part for part in stats.splitlines() if part.startswith("cmdstat_fcall:")]
    return int(line.split("calls=")[1].split(",")[0])


def test_a_deadline_passes_and_leaves_the_message(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        with pytest.raises(DeadlinePassed, match=f"message {sent.id}: no verdict after 0.1 s"):
            await town.post.wait(sent.id, lambda v: v.receipts["code"].done, 0.1)
        assert [d.id for d in await taken(town)] == [sent.id]

    town.run(body)


def test_an_answer_comes_with_its_signature(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        (delivery,) = await taken(town)
        code = town.agent("code", "code.1")
        answer = replace(
            town.message("person:ada"), source="code", correlation_id=sent.id, payload=Payload(data=[1])
        )
        await judged(town, delivery, answer=answer, identity=code)
        signed = (await town.post.get(sent.id)).receipts["code"].answer
        assert signed is not None
        assert Verifier(town.home).verify(signed, reader="person:ada").envelope == answer

    town.run(body)


def test_what_is_unknown_is_not_found(town: Town) -> None:
    async def body(town: Town) -> None:
        for call in (town.post.get("m-x"), town.post.wait("m-x", lambda v: True, 1)):  # type: ignore[arg-type]
            with pytest.raises(NotFound, match="message m-x does not exist"):
                await call

    town.run(body)


# -- once, and never again ----------------------------------------------------------------------------------


def test_a_message_whose_answer_was_lost_is_sent_once(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The connection breaks after the server has done it: the same call is made again."""

    async def body(town: Town) -> None:
        await town.note()
        real = Connection.call

        async def twice(self: Connection, function: str, *words: str) -> object:
            first = await real(self, function, *words)
            again = await real(self, function, *words)
            if function == "mail_send":  # the order of a hash's fields says nothing
                first, again = read_message(first), read_message(again)
            assert first == again
            return await real(self, function, *words)

        monkeypatch.setattr(Connection, "call", twice)
        await town.note()
        monkeypatch.undo()
        first, second = await taken(town)
        monkeypatch.setattr(Connection, "call", twice)
        await judged(town, first)
        await judged(town, second)
        monkeypatch.undo()
        assert await town.redis("XLEN", "KEY:mail:in:code") == 0
        assert await town.redis("ZCARD", "KEY:mail:ended") == 2

    town.run(body)


def test_a_replay_is_refused_and_reported(town: Town) -> None:
    async def body(town: Town) -> None:
        envelope = town.message()
        await town.send(envelope)
        with pytest.raises(Conflict, match=f"message {envelope.id} was sent before"):
            await town.send(envelope)
        deliveries, reports = await town.post.take("code", "code.1")
        assert [d.id for d in deliveries] == [envelope.id]
        assert [(r.id, r.source, r.reason) for r in reports] == [
            (envelope.id, "person:ada", "it was sent before")
        ]
        assert (await town.post.take("code", "code.1", [deliveries[0].entry])) == ([], [])

    town.run(body)


def test_a_replay_of_what_was_removed_long_ago(town: Town) -> None:
    async def body(town: Town) -> None:
        envelope = town.message()
        await town.send(envelope)
        (delivery,) = await taken(town)
        await judged(town, delivery)
        await town.redis("INCRBY", "KEY:mail:bytes", 100_000_000)  # as if much had been sent since
        await town.send(town.message())
        (other,) = await taken(town)
        await judged(town, other)
        with pytest.raises(NotFound):
            await town.post.get(envelope.id)
        with pytest.raises(Conflict, match="was sent before"):
            await town.send(envelope)

    town.run(body)


def test_an_unknown_key_is_refused_and_reported(town: Town) -> None:
    async def body(town: Town) -> None:
        envelope = town.message()
        signed = town.person.sign(dump(envelope))
        words = (envelope.id, "call-1", signed.envelope, signed.signature, "0" * 32, "qa", 9, 10**6, "code")
        with pytest.raises(NotFound, match=r"the key 0{32} that signed message .* is not known here"):
            await town.engine.connection.call("mail_send", *words)
        deliveries, (report,) = await town.post.take("code", "code.1")
        assert (deliveries, report.id, report.source) == ([], envelope.id, "qa")
        assert report.reason == "nobody knows the key that signed it"

    town.run(body)


@pytest.mark.parametrize("known", [True, False])
def test_what_is_put_beside_the_post_is_dropped_and_reported(town: Town, known: bool) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        (delivery,) = await taken(town)
        await judged(town, delivery)
        await town.redis("XADD", "KEY:mail:in:code", "*", "m", sent.id if known else "m-x")
        deliveries, (report,) = await town.post.take("code", "code.1")
        assert deliveries == []
        assert report.reason == ("it was handled before" if known else
                                 "it is not in the post: nobody sent it to this inbox")  # fmt: skip
        assert await town.redis("XLEN", "KEY:mail:in:code") == 0

    town.run(body)


def test_a_message_that_stands_twice_in_an_inbox_is_read_once(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        await town.redis("XADD", "KEY:mail:in:code", "*", "m", sent.id)
        deliveries, (report,) = await town.post.take("code", "code.1")
        assert [d.id for d in deliveries] == [sent.id]
        assert report.reason == "it stands in the inbox twice"
        await town.redis("XADD", "KEY:mail:in:code", "*", "m", sent.id)
        again, (report,) = await town.post.take("code", "code.1", [deliveries[0].entry])
        assert (again, report.reason) == ([], "it stands in the inbox twice")

    town.run(body)


# -- readers die --------------------------------------------------------------------------------------------


def test_the_next_life_gets_what_the_last_had_in_hand(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = [(await town.note(str(i))).id for i in range(3)]
        first = await taken(town, "code.1")
        await judged(town, first[0])
        second = await taken(town, "code.2")
        assert [(d.id, d.lives) for d in second] == [(sent[1], 2), (sent[2], 2)]
        with pytest.raises(Conflict, match=r"not in the hands of code\.1"):
            await judged(town, first[1], "code.1")  # a ghost
        for delivery in second:
            await judged(town, delivery, "code.2")
        consumers = await town.redis("XINFO", "CONSUMERS", "KEY:mail:in:code", "agent")
        assert [row[1] for row in consumers] == ["code.2"]

    town.run(body)


def test_a_lost_answer_to_take_loses_nothing(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = await town.note()
        assert len(await taken(town)) == 1  # and nobody heard of it
        (delivery,) = await taken(town)
        assert (delivery.id, delivery.lives) == (sent.id, 1)
        assert await taken(town, "code.1", delivery.entry) == []

    town.run(body)


def test_redis_is_killed_between_every_step(own_redis: RedisServer, town: Town) -> None:
    def again() -> None:
        own_redis.kill()
        own_redis.start()

    async def body(town: Town) -> None:
        envelope = town.message()
        await town.send(envelope)
        again()
        (delivery,) = await taken(town)
        again()
        assert (await town.post.get(envelope.id)).receipts["code"].verdict is Verdict.READ
        await judged(town, delivery)
        again()
        assert (await town.post.get(envelope.id)).receipts["code"].verdict is Verdict.ACCEPTED
        with pytest.raises(Conflict, match="was sent before"):
            await town.send(envelope)
        assert await taken(town) == []

    town.run(body)


# -- everyone -----------------------------------------------------------------------------------------------


def test_a_broadcast_reaches_each_once_and_those_who_were_down(town: Town) -> None:
    async def body(town: Town) -> None:
        receivers = ("code", "data", "qa")
        sent = await town.send(town.message("*"), *receivers)
        for agent in receivers:
            (delivery,), _ = await town.post.take(agent, f"{agent}.1")  # each begins to read only now
            assert delivery.id == sent.id
            await town.post.judge(delivery, Verdict.REFUSED, f"not {agent}", agent=agent, worker=f"{agent}.1")
            assert await town.post.take(agent, f"{agent}.2") == ([], [])
        receipts = (await town.post.get(sent.id)).receipts
        assert {name: r.reason for name, r in receipts.items()} == {n: f"not {n}" for n in receivers}
        assert await town.redis("ZRANGE", "KEY:mail:ended", 0, -1) == [sent.id]

    town.run(body)


def test_an_inbox_that_is_full_takes_nothing_and_loses_nothing(
    town: Town, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(post_module, "INBOX_MESSAGES", 3)

    async def body(town: Town) -> None:
        kept = [(await town.note()).id for _ in range(3)]
        with pytest.raises(Conflict, match="the inbox of code is full: 3 messages that it has not handled"):
            await town.note()
        sent = await town.send(town.message("*"), "code", "qa")
        receipts = sent.receipts
        assert (receipts["code"].verdict, receipts["qa"].verdict) == (Verdict.REFUSED, Verdict.DELIVERED)
        assert receipts["code"].reason == "inbox full: 3 messages that it has not handled"
        deliveries = await taken(town)
        assert [d.id for d in deliveries] == kept
        with pytest.raises(Conflict, match="is full"):
            await town.note()  # read is not handled
        await judged(town, deliveries[0])
        await town.note()

    town.run(body)


def test_an_inbox_is_full_by_bytes_as_well(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(post_module, "INBOX_BYTES", 500_000)

    async def body(town: Town) -> None:
        await town.note("x" * 200_000)
        await town.note("x" * 200_000)
        with pytest.raises(Conflict, match="is full"):
            await town.note("x" * 200_000)
        first, _ = await taken(town)
        await judged(town, first)
        await town.note("x" * 200_000)

    town.run(body)


def test_what_everybody_has_handled_is_kept_within_bounds(town: Town) -> None:
    async def body(town: Town) -> None:
        await town.note("left unread")
        await town.post.take("code", "code.1")
        for i in range(30):
            await town.send(town.message("qa", payload=Payload(context=str(i) * 100_000)))
            (delivery,), _ = await town.post.take("qa", "qa.1")
            await town.post.judge(delivery, Verdict.ACCEPTED, "", agent="qa", worker="qa.1")
        await town.redis("INCRBY", "KEY:mail:bytes", 64 * 1024 * 1024 - 2_000_000)
        await town.send(town.message("qa"))
        (delivery,), _ = await town.post.take("qa", "qa.1")
        await town.post.judge(delivery, Verdict.ACCEPTED, "", agent="qa", worker="qa.1")
        assert await town.redis("ZCARD", "KEY:mail:ended") < 25
        assert len(await town.post.list_messages("code")) == 1  # what is unread stays

    town.run(body)


# -- several at once ----------------------------------------------------------------------------------------


def test_many_senders_at_once(town: Town) -> None:
    async def body(town: Town) -> None:
        senders = [Post(town.engine.connection) for _ in range(4)]

        async def send(post: Post) -> list[str]:
            return [(await post.send(town.message(), town.person, ["code"])).id for _ in range(25)]

        sent = [name for part in await asyncio.gather(*map(send, senders)) for name in part]
        got: list[str] = []
        while deliveries := await taken(town):
            for delivery in deliveries:
                await judged(town, delivery)
                got.append(delivery.id)
        assert sorted(got) == sorted(sent)
        assert len(set(got)) == 100

    town.run(body)


def test_messages_are_listed_newest_first_and_followed(town: Town) -> None:
    async def body(town: Town) -> None:
        after = await town.post.last_event()
        first = await town.note("1")
        second = await town.send(town.message("*"), "code", "qa")
        assert [v.id for v in await town.post.list_messages()] == [second.id, first.id]
        assert [v.id for v in await town.post.list_messages("qa")] == [second.id]
        assert [v.id for v in await town.post.list_messages("code", 1)] == [second.id]
        assert await town.post.list_messages("data") == []
        events = await town.post.events(after, 5)
        assert [(e.id, e.agent, e.what) for e in events] == [
            (first.id, "code", "delivered"),
            (second.id, "code", "delivered"),
            (second.id, "qa", "delivered"),
        ]
        waiting = asyncio.create_task(town.post.events(events[-1].entry, 10))
        await taken(town)
        assert (await waiting)[0].what == "read"

    town.run(body)


@pytest.mark.parametrize("name", ["all", "ended", "load", "bytes", "events", "wake", "in"])
def test_an_agent_may_have_any_name(town: Town, name: str) -> None:
    async def body(town: Town) -> None:
        sent = await town.send(town.message(name))
        (delivery,), _ = await town.post.take(name, f"{name}.1")
        await town.post.judge(delivery, Verdict.ACCEPTED, "done", agent=name, worker=f"{name}.1")
        assert (await town.post.get(sent.id)).receipts[name].done
        assert [v.id for v in await town.post.list_messages(name)] == [sent.id]

    town.run(body)
