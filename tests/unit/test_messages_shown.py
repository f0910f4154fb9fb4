"""What a person is shown: answers that hold, senders nobody vouches for, tables that no message breaks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from dashboard_data import BIDI, HOSTILE

from ai_infra.core.home import Home
from ai_infra.dashboard.messages import answer_page, message_line, message_table, receipts_page
from ai_infra.messages.envelope import Envelope, MessageId, MessageType, Payload, Signed, dump, now
from ai_infra.messages.shown import answer_of, shown
from ai_infra.messages.trust import Identity, Untrusted, Verifier, identity_of_agent, identity_of_command
from ai_infra.messages.views import MessageView, PostEvent, Receipt, Verdict, as_of

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    found = Home(tmp_path / "state")
    found.ensure()
    return found


def question() -> Envelope:
    return Envelope(
        id=MessageId("m-1"), timestamp=now(), source="person:ada", target="code", type=MessageType.QUERY
    )


def answer(**changes: object) -> Envelope:
    about = {"correlation_id": MessageId("m-1"), "payload": Payload(data=[1])}
    made = replace(question(), id=MessageId("m-2"), source="code", target="person:ada", **about)  # type: ignore
    return replace(made, **changes)  # type: ignore[arg-type]


def receipt(signed: Signed | None = None, verdict: Verdict = Verdict.ACCEPTED, reason: str = "") -> Receipt:
    return Receipt(agent="code", verdict=verdict, reason=reason, at=AT, done=True, answer=signed)


def view_of(sender: Identity, envelope: Envelope, *receipts: Receipt) -> MessageView:
    """A message as the post has it."""
    signed = sender.sign(dump(envelope))
    return MessageView(
        id=envelope.id, sent_at=envelope.timestamp, signed=signed, receipts={r.agent: r for r in receipts}
    )


# -- answers ------------------------------------------------------------------------------------------------


def test_an_answer_that_holds(home: Home) -> None:
    said = answer()
    signed = identity_of_agent(home, "code", "code.1").sign(dump(said))
    assert answer_of(Verifier(home), question(), receipt(signed)) == said


def test_answers_that_do_not_hold(home: Home) -> None:
    code, qa = identity_of_agent(home, "code", "code.1"), identity_of_agent(home, "qa", "qa.1")
    marks = {"AI_INFRA_HOME": str(home.root), "AI_INFRA_AGENT": "code", "AI_INFRA_TASK_ID": "t-1"}
    task = identity_of_command(home, marks, "ada")
    wrong = {
        "nothing is signed": None,
        "qa (agent) wrote it": qa.sign(dump(answer(source="qa"))),
        "code (task) wrote it": task.sign(dump(answer())),
        "it says it is from code, but qa (agent) signed it": qa.sign(dump(answer())),
        "it answers another message": code.sign(dump(answer(correlation_id=MessageId("m-0")))),
        "it is for person:eve, not for person:ada": code.sign(dump(answer(target="person:eve"))),
    }
    for words, signed in wrong.items():
        with pytest.raises(Untrusted) as caught:
            answer_of(Verifier(home), question(), receipt(signed))
        assert str(caught.value) == f"the answer to m-1 is not code's: {words}"


# -- tables -------------------------------------------------------------------------------------------------


def test_a_person_a_task_and_nobody_known(home: Home) -> None:
    person = identity_of_command(home, {}, "ada")
    good = shown(Verifier(home), view_of(person, question(), receipt()))
    assert (good.sender_kind, good.sender, good.problem) == ("person", "ada", "")
    bad = shown(Verifier(home), view_of(person, replace(question(), source="code"), receipt()))
    assert bad.problem == "it says it is from code, but person:ada (person) signed it"
    text = str(message_table([good, bad], 200))
    assert "ada (a person)" in text
    assert "code (NOT TRUSTED)" in text
    assert str(message_table([], 80)) == "no messages"


def test_what_cannot_be_read_is_shown_as_such(home: Home) -> None:
    person = identity_of_command(home, {}, "ada")
    view = replace(
        view_of(person, question(), receipt()), signed=Signed(envelope="{", signature="", certificate="")
    )
    found = shown(Verifier(home), view)
    assert (found.envelope, found.sender_kind) == (None, "")
    assert "? (NOT TRUSTED)" in str(message_table([found], 200))


@pytest.mark.parametrize("text", [HOSTILE, BIDI])
def test_no_message_gets_a_control_character_out(home: Home, text: str) -> None:
    hostile = text.encode("utf-8", "replace").decode()
    person = identity_of_command(home, {}, "ada")
    note = replace(
        question(), payload=Payload(context=hostile, data={hostile: hostile, "output_tail": hostile})
    )
    told = receipt(reason=hostile)
    found = shown(Verifier(home), view_of(person, note, told))
    pages = [message_table([found], 120), receipts_page([told]), answer_page(note)]
    lines = [line for page in pages for line in page] + [message_line(found, told)]
    assert all(line.plain.isprintable() for line in lines)


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_a_table_fits(home: Home, width: int) -> None:
    person = identity_of_command(home, {}, "ada")
    long = replace(question(), payload=Payload(context="word " * 100))
    found = shown(Verifier(home), view_of(person, long, receipt(reason="because " * 50)))
    assert all(line.width <= width for line in message_table([found], width))


def test_a_receipt_as_it_stood() -> None:
    def event(what: str) -> PostEvent:
        return PostEvent(entry="1000-0", id=MessageId("m-1"), agent="code", what=what)

    now_ = receipt(reason="done")
    assert (as_of(now_, event("read")).verdict, as_of(now_, event("read")).reason) == (Verdict.READ, "")
    assert as_of(now_, event("answered")) == now_
