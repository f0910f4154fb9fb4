"""An agent's mail on a real Redis: what it answers, what it refuses, and its death in the middle."""

from __future__ import annotations

import asyncio
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from engine_kit import BAD, task, work_off
from post_kit import AGENT, Town

from ai_infra.agents.answers import Answers
from ai_infra.agents.persist import RETRY_S
from ai_infra.core.errors import ConnectorError, ConnectorRefused, ConnectorUnavailable, NotFound
from ai_infra.core.home import Home
from ai_infra.core.ids import AgentName, TaskId
from ai_infra.messages.envelope import Envelope, MessageId, MessageType, Payload, dump, load
from ai_infra.messages.post import Post
from ai_infra.messages.trust import Identity, identity_of_agent
from ai_infra.messages.views import Receipt, Verdict
from ai_infra.tasks.task import State
from ai_infra.testing import wait_until_async
from tests.conftest import RedisServer


@pytest.fixture
def town(own_redis: RedisServer) -> Iterator[Town]:
    with tempfile.TemporaryDirectory(prefix="ai-post-") as folder:
        found = Town(Home(Path(folder) / "state"), own_redis.address)
        yield found
        found.log.close()


async def asked(town: Town, **content: Any) -> Receipt:
    envelope = town.message(response_wanted=True, **content)
    await town.send(envelope)
    return await town.ended(envelope.id)


def data_of(receipt: Receipt) -> Any:
    assert receipt.answer is not None, receipt.reason
    return load(receipt.answer.envelope).payload.data


def query(action: str) -> dict[str, Any]:
    return {"payload": Payload(action=action)}


def command(*run: str) -> dict[str, Any]:
    return {"type": MessageType.TASK, "payload": Payload(run=run)}


# -- what it answers ----------------------------------------------------------------------------------------


def test_what_code_can_answer_is_answered(town: Town) -> None:
    async def body(town: Town) -> None:
        await town.engine.submit([task("t-1"), task("t-2")])
        async with town.life() as process:
            assert data_of(await asked(town, **query("ping"))) == {"agent": "code", "worker": process.worker}
            status = data_of(await asked(town, **query("status")))
            assert (status["state"], status["queue"]["ready"]) == ("STARTING", 2)
            tasks = data_of(await asked(town, **query("tasks")))
            assert [(row["id"], row["state"]) for row in tasks] == [("t-2", "READY"), ("t-1", "READY")]
            beat = await asked(town, type=MessageType.HEARTBEAT)
            assert (beat.verdict, beat.reason) == (Verdict.ACCEPTED, "here")

    town.run(body)


NO_MODEL = "no model is configured for code, so it does not understand"


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"payload": Payload(context="please")}, f"{NO_MODEL} prose"),
        (query("refactor"), f"{NO_MODEL} the action 'refactor'"),
        ({"type": MessageType.LEARN}, "code has no memory configured to learn with"),
        ({"type": MessageType.RESULT}, "code waits for no answer"),
        ({"type": MessageType.TASK}, "it names no commands"),
        ({"type": MessageType.HANDOFF}, "it names no task"),
        ({"type": MessageType.HANDOFF, "payload": Payload(task_id="t-x")}, "task t-x does not exist"),
    ],
)  # fmt: skip
def test_what_it_cannot_do_is_refused_with_the_reason(
    town: Town, content: dict[str, Any], reason: str
) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            receipt = await asked(town, **content)
        assert receipt.verdict is Verdict.REFUSED
        assert receipt.reason.startswith(reason)
        assert receipt.answer is None
        assert town.events("message_refused")[0]["reason"] == receipt.reason

    town.run(body)


def test_a_note_is_shown_and_marked_as_a_persons(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            receipt = await town.ended((await town.note("the release is at noon")).id)
            assert receipt.verdict is Verdict.ACCEPTED
            qa = town.agent("qa")
            note = town.message(source="qa", payload=Payload(context="I am done"))
            await town.ended((await town.send(note, sender=qa)).id)
        assert [(e["source"], e["text"]) for e in town.events("message_shown")] == [
            ("ada (a person)", "the release is at noon"),
            ("qa", "I am done"),
        ]

    town.run(body)


def test_commands_are_run_as_a_task_and_answered_when_it_has_ended(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            envelope = town.message(response_wanted=True, priority=8, **command("echo hi"))
            await town.send(envelope)

            async def accepted() -> bool:
                return (await town.post.get(envelope.id)).receipts[AGENT].verdict is Verdict.ACCEPTED

            await wait_until_async(accepted)
            (view,) = await town.engine.list_tasks(agent=AgentName(AGENT))
            assert (view.spec.run, view.spec.priority, view.state) == (("echo hi",), 8, State.READY)
            assert view.spec.description == f"asked for by person:ada in message {envelope.id}"
            assert not (await town.post.get(envelope.id)).receipts[AGENT].done
            await work_off(town.engine)
            told = data_of(await town.ended(envelope.id))
            assert (told["task"], told["state"]) == (view.id, "COMPLETED")

    town.run(body)


def test_tasks_end_in_any_order_and_some_fail(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            sent = [
                await town.send(town.message(response_wanted=True, **command(f"echo {i}"))) for i in range(20)
            ]

            async def all_there() -> bool:
                return len(await town.engine.list_tasks(agent=AgentName(AGENT))) == 20

            await wait_until_async(all_there)
            await work_off(town.engine, outcome=BAD)
            told = [data_of(await town.ended(view.id)) for view in sent]
            assert {one["state"] for one in told} == {"FAILED"}
            assert {one["error"] for one in told} == {"it broke"}

    town.run(body)


def test_commands_as_long_as_an_envelope_may_be(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            sent = await town.send(town.message(**command("x" * 230_000)))
            assert (await town.ended(sent.id)).verdict is Verdict.ACCEPTED
        (view,) = await town.engine.list_tasks()
        assert len(view.spec.run[0]) == 230_000

    town.run(body)


def test_a_task_is_taken_over(town: Town) -> None:
    async def body(town: Town) -> None:
        await town.engine.submit([task("t-1", agent=AgentName("qa"))])
        async with town.life():
            content = {"type": MessageType.HANDOFF, "payload": Payload(task_id="t-1")}
            assert data_of(await asked(town, **content))["agent"] == "code"
        view = await town.engine.get(TaskId("t-1"))
        assert (view.agent, view.state) == ("code", State.READY)

    town.run(body)


def test_the_most_urgent_is_handled_first(town: Town) -> None:
    async def body(town: Town) -> None:
        for priority in (1, 5, 10, 3):
            await town.note(str(priority), priority=priority)
        async with town.life():
            await town.logged("message_shown", 4)
        assert [e["text"] for e in town.events("message_shown")] == ["10", "5", "3", "1"]

    town.run(body)


# -- what it does not believe -------------------------------------------------------------------------------


async def put(town: Town, envelope: Envelope, **fields: str) -> None:
    """Write a message into Redis past the post, as one who has only Redis would."""
    signed = town.person.sign(dump(envelope))
    good = {"e": signed.envelope, "g": signed.signature, "c": signed.certificate}
    rest = {
        "ck": "x",
        "ts": "1",
        "sz": "1",
        "z": "1",
        "n": "1",
        "v:code": "delivered",
        "r:code": "",
        "w:code": "1",
    }
    words = [word for pair in {**good, **rest, **fields}.items() for word in pair]
    await town.redis("HSET", f"KEY:msg:{envelope.id}", *words)
    await town.redis("XADD", "KEY:mail:in:code", "*", "m", envelope.id)
    await town.redis("RPUSH", "KEY:mail:wake:code", "1")


def stranger(town: Town) -> Identity:
    other = Home(town.home.root.parent / "other")
    other.ensure()
    return identity_of_agent(other, "qa", "qa.1")


def test_forgeries_are_refused_and_reported(town: Town) -> None:
    async def body(town: Town) -> None:
        forged: list[tuple[Envelope, dict[str, str], str]] = []
        changed = town.message(payload=Payload(context="hello"))
        forged.append(
            (
                changed,
                {"e": dump(changed).replace("hello", "hullo")},
                "its text is not what person:ada signed",
            )
        )
        pretender = town.message(source="person:root")
        forged.append((pretender, {}, "it says it is from person:root, but person:ada (person) signed it"))
        unknown = town.message(source="qa")
        signed = stranger(town).sign(dump(unknown))
        forged.append(
            (unknown, {"g": signed.signature, "c": signed.certificate}, "its sender's key is unknown")
        )
        forged.append((town.message("data"), {}, "it is for data, not for code"))
        forged.append((town.message(), {"c": "{}"}, "it carries no certificate that can be read"))
        old = town.message()
        forged.append(
            (replace(old, timestamp=old.timestamp.replace(year=2020)), {}, "it was written at 2020")
        )
        copied = town.message()
        forged.append(
            (copied, {"e": dump(old), "g": town.person.sign(dump(old)).signature}, "it is a copy of")
        )
        async with town.life():
            for envelope, fields, _ in forged:
                await put(town, envelope, **fields)
            for envelope, _, reason in forged:
                receipt = await town.ended(envelope.id)
                assert receipt.verdict is Verdict.REFUSED
                assert receipt.reason.startswith(reason)
            told = {e["message"]: e["reason"] for e in town.events("message_refused")}
            assert set(told) == {envelope.id for envelope, _, _ in forged}
            assert (await asked(town, **query("ping"))).verdict is Verdict.ACCEPTED
        assert town.events("message_shown") == []

    town.run(body)


def test_a_replay_is_told_by_the_one_it_was_meant_for(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            envelope = town.message(payload=Payload(context="pay"))
            await town.send(envelope)
            await town.ended(envelope.id)
            with pytest.raises(Exception, match="was sent before"):
                await town.send(envelope)
            (event,) = await town.logged("message_refused")
            assert (event["message"], event["source"]) == (envelope.id, "person:ada")
            # one who can wipe every trace in Redis: this life still knows
            await town.redis("DEL", f"KEY:msg:{envelope.id}")
            await put(town, envelope)
            receipt = await town.ended(envelope.id)
            assert (receipt.verdict, receipt.reason) == (Verdict.REFUSED, "it was handled before")
        assert len(town.events("message_shown")) == 1

    town.run(body)


def test_without_the_public_key_nothing_is_believed(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            (town.home.keys / "installation.pub").unlink()
            receipt = await town.ended((await town.note()).id)
            assert receipt.verdict is Verdict.REFUSED
            assert "installation.pub: No such file" in receipt.reason

    town.run(body)


# -- death in the middle ------------------------------------------------------------------------------------


def test_a_death_between_read_and_verdict(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first life submits the task and dies before it could say so."""

    async def body(town: Town) -> None:
        died = asyncio.Event()
        real = Post.judge

        async def never(*args: Any, **more: Any) -> None:
            died.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(Post, "judge", never)
        envelope = town.message(response_wanted=True, **command("echo once"))
        async with town.life():
            await town.send(envelope)
            await died.wait()
        monkeypatch.setattr(Post, "judge", real)
        assert (await town.post.get(envelope.id)).receipts[AGENT].verdict is Verdict.READ
        async with town.life():
            await town.logged("message_accepted", 2)
            assert await work_off(town.engine) == [f"t-{envelope.id[2:]}"]
            assert data_of(await town.ended(envelope.id))["state"] == "COMPLETED"
        assert len(await town.engine.list_tasks()) == 1

    town.run(body)


@pytest.mark.parametrize("ends", ["before the next life", "in the next life"])
def test_a_death_between_accept_and_answer(town: Town, ends: str) -> None:
    async def body(town: Town) -> None:
        envelope = town.message(response_wanted=True, **command("echo once"))
        async with town.life():
            await town.send(envelope)
            await town.post.wait(envelope.id, lambda v: v.receipts[AGENT].verdict is Verdict.ACCEPTED, 10)
        if ends == "before the next life":
            await work_off(town.engine)
        async with town.life():
            if ends == "in the next life":
                await town.logged("message_accepted", 2)
                await work_off(town.engine)
            assert data_of(await town.ended(envelope.id))["state"] == "COMPLETED"
        assert len(await town.engine.list_tasks()) == 1

    town.run(body)


def test_what_came_while_the_agent_was_down_is_handled_once(town: Town) -> None:
    async def body(town: Town) -> None:
        sent = [await town.note(str(i)) for i in range(40)]  # more than are taken at once
        for _ in range(2):
            async with town.life():
                for view in sent:
                    await town.ended(view.id)
        assert sorted(int(e["text"]) for e in town.events("message_shown")) == list(range(40))

    town.run(body)


def test_a_message_that_lives_die_of_is_refused(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(town: Town) -> None:
        begun = asyncio.Event()

        async def deadly(self: Answers, envelope: Envelope) -> None:
            begun.set()
            await asyncio.Event().wait()

        real = Answers.answer
        monkeypatch.setattr(Answers, "answer", deadly)
        sent = await town.note("poison")
        for _ in range(5):
            begun.clear()
            async with town.life():
                await begun.wait()
        monkeypatch.setattr(Answers, "answer", real)
        async with town.life():
            receipt = await town.ended(sent.id)
            assert receipt.verdict is Verdict.REFUSED
            assert receipt.reason == "5 lives of code ended while they had it in hand"

    town.run(body)


@pytest.mark.parametrize("kind", [ConnectorUnavailable, ConnectorRefused])
def test_a_redis_that_lets_nobody_wait_costs_no_life_and_is_not_asked_at_once(
    town: Town, monkeypatch: pytest.MonkeyPatch, kind: type[ConnectorError]
) -> None:
    """As when it has no room for one client more, or refuses to write for a while."""
    looks: list[float] = []
    wake, take = Post.wake, Post.take

    async def refused(self: Post, agent: str) -> None:
        if len(looks) < 4:
            raise kind("max number of clients reached")
        await wake(self, agent)

    async def seen(self: Post, *words: Any) -> Any:
        looks.append(time.monotonic())
        return await take(self, *words)

    async def body(town: Town) -> None:
        monkeypatch.setattr(Post, "wake", refused)
        monkeypatch.setattr(Post, "take", seen)
        async with town.life():
            await wait_until_async(lambda: asyncio.sleep(0, len(looks) >= 4), 10, "four looks")
            assert data_of(await asked(town, **query("ping")))["agent"] == AGENT
        assert looks[3] - looks[0] > 3 * RETRY_S

    town.run(body)


def test_a_fault_of_ours_costs_one_message(town: Town, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(town: Town) -> None:
        real = Answers._ping

        async def broken(self: Answers, envelope: Envelope) -> Any:
            raise RuntimeError("a fault of ours")

        monkeypatch.setattr(Answers, "_ping", broken)
        async with town.life():
            receipt = await asked(town, **query("ping"))
            assert (receipt.verdict, receipt.reason) == (
                Verdict.REFUSED,
                "bug: RuntimeError('a fault of ours')",
            )
        monkeypatch.setattr(Answers, "_ping", real)
        async with town.life():
            assert (await asked(town, **query("ping"))).verdict is Verdict.ACCEPTED

    town.run(body)


def test_a_long_list_of_tasks_fits_into_an_answer(town: Town) -> None:
    async def body(town: Town) -> None:
        long = [task(f"t-{i}") for i in range(20)]
        await town.engine.submit(long)
        for _ in long:
            claim = await town.engine.claim(AgentName(AGENT), "code.9", 30)  # type: ignore[arg-type]
            assert claim is not None
            await town.engine.finish(claim, replace(BAD, error="😀" * 2000))
        async with town.life():
            rows = data_of(await asked(town, **query("tasks")))
        assert len(json.dumps(rows)) < 262_144
        assert len(rows) == 20

    town.run(body)


def test_redis_dies_and_the_agent_hears_the_next_message(town: Town, own_redis: RedisServer) -> None:
    async def body(town: Town) -> None:
        async with town.life():
            await town.ended((await town.note("before")).id)
            for round_ in range(3):
                own_redis.kill()
                own_redis.start()
                await town.ended((await town.note(f"after {round_}")).id)
            assert len(town.events("message_shown")) == 4

    town.run(body)


def test_many_ask_at_once(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life() as process:
            receipts = await asyncio.gather(*(asked(town, **query("ping")) for _ in range(60)))
            assert {data_of(receipt)["worker"] for receipt in receipts} == {process.worker}
            answers = [load(receipt.answer.envelope) for receipt in receipts if receipt.answer]
            assert len({answer.correlation_id for answer in answers}) == 60
            assert len({answer.id for answer in answers}) == 60

    town.run(body)


def test_an_answer_is_the_agents_own(town: Town) -> None:
    """Signed by this life, for this asker, in answer to this message."""

    async def body(town: Town) -> None:
        async with town.life() as process:
            envelope = town.message(response_wanted=True, **query("ping"))
            await town.send(envelope)
            receipt = await town.ended(envelope.id)
            assert receipt.answer is not None
            answer = load(receipt.answer.envelope)
            certificate = json.loads(json.loads(receipt.answer.certificate)["certificate"])
        assert (answer.source, answer.target, answer.correlation_id) == ("code", "person:ada", envelope.id)
        assert (certificate["kind"], certificate["holder"]) == ("agent", process.worker)

    town.run(body)


def test_redis_is_emptied_under_an_agent_that_runs(town: Town) -> None:
    async def body(town: Town) -> None:
        async with town.life() as process:
            for _ in range(3):
                told = data_of(await asked(town, **query("ping")))
                assert told["worker"] == process.worker
                await town.redis("FLUSHALL")
                await town.redis("FUNCTION", "FLUSH")

    town.run(body)


def test_what_somebody_writes_beside_the_post_ends_no_agent_and_hides_no_message(town: Town) -> None:
    async def body(town: Town) -> None:
        for text in ("no json", "[]", '{"id": 1}', '{"id": null, "source": {}, "reason": [1]}', "[" * 9000):
            await town.redis("RPUSH", "KEY:mail:door:code", text)
        for words in (("m", "nobody"), ("x", "y"), ("m", ""), ("m", "a b", "more", "words")):
            await town.redis("XADD", "KEY:mail:in:code", "*", *words)
        await put(town, odd := town.message(), **{"v:code": "what"})
        for message, field in (("m-empty", "z"), ("m-half", "e")):
            await town.redis("HSET", f"KEY:msg:{message}", field, "1")
            await town.redis("ZADD", "KEY:mail:all", 10**17, message)
        await town.redis("XADD", "KEY:mail:events", "*", "m", "word")
        note = await town.note()
        async with town.life():
            assert (await town.ended(note.id)).verdict is Verdict.ACCEPTED
            await town.ended(odd.id)
            await town.logged("message_refused", 9)
        assert {view.id for view in await town.post.list_messages()} == {note.id}
        with pytest.raises(NotFound):
            await town.post.get(MessageId("m-half"))
        assert (await town.post.events("0", 0.1))[0].what == ""

    town.run(body)
