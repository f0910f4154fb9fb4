"""Envelopes: what is well formed, its one text, and everything that is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.messages.envelope import (
    MAX_BYTES,
    MAX_DEPTH,
    Envelope,
    EnvelopeError,
    MessageId,
    MessageType,
    Pai,
    Payload,
    canonical,
    dump,
    load,
    now,
)

AT = datetime(2026, 1, 2, 3, 4, 5, 678000, UTC)
FULL = Envelope(
    id=MessageId("m-1"),
    timestamp=AT,
    source="person:ada",
    target="code",
    type=MessageType.TASK,
    priority=9,
    payload=Payload(
        task_id="t-1",
        action="build",
        context="the whole of it",
        memory_refs=("WORK/a.md",),
        run=(("git", "status"), "make | tail"),
        data={"n": [1, 2.5, None, True, {"é": "ü"}]},
    ),
    pai=Pai(algorithm_phase="BUILD", verification_criteria=("tests pass",), learning_signals=("slow",)),
    correlation_id=MessageId("m-0"),
    response_wanted=True,
)
NOTE = Envelope(id=MessageId("m-2"), timestamp=AT, source="qa", target="*", type=MessageType.QUERY)


@pytest.mark.parametrize("envelope", [FULL, NOTE])
def test_what_is_written_is_read_as_it_was(envelope: Envelope) -> None:
    assert load(dump(envelope)) == envelope


def test_the_text_is_canonical() -> None:
    assert dump(NOTE) == (
        '{"correlation_id":null,"id":"m-2","pai":{},"payload":{},"priority":5,"response_wanted":false,'
        '"source":"qa","target":"*","timestamp":"2026-01-02T03:04:05.678Z","type":"query"}'
    )


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
texts = st.text(st.characters(exclude_categories=["Cs"]))


@given(data=json_values, context=texts, refs=st.lists(texts, max_size=3))
def test_any_content_comes_back_as_it_was(data: Any, context: str, refs: list[str]) -> None:
    payload = Payload(data=data, context=context, memory_refs=tuple(refs))
    envelope = replace(FULL, payload=payload)
    try:
        text = dump(envelope)
    except EnvelopeError:
        assert any(0xD800 <= ord(char) < 0xE000 for char in json.dumps(data, ensure_ascii=False))
        return
    assert load(text) == envelope
    assert text.isascii()


def test_an_instant_of_now_may_be_sent() -> None:
    assert load(dump(replace(NOTE, timestamp=now()))).timestamp.tzinfo is UTC


# -- who writes is told what is wrong -----------------------------------------------------------------------


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"id": "m 1"}, "id 'm 1' is no id"),
        ({"id": ""}, "id '' is no id"),
        ({"timestamp": datetime(2026, 1, 2)}, "timestamp must be UTC"),  # noqa: DTZ001 what is wrong with it
        ({"timestamp": AT + timedelta(microseconds=1)}, "timestamp must be UTC, in whole milliseconds"),
        ({"source": "*"}, "source '*' is neither"),
        ({"source": "person:"}, "source 'person:' is neither"),
        ({"source": "person:a b"}, "source 'person:a b' is neither"),
        ({"source": "Code"}, "source 'Code' is neither"),
        ({"target": "everybody else"}, "target 'everybody else' is neither"),
        ({"target": "code\nqa"}, "target 'code\\nqa' is neither"),
        ({"priority": 0}, "priority 0 is outside 1 to 10"),
        ({"priority": 11}, "priority 11 is outside"),
        ({"priority": True}, "priority True is outside"),
        ({"priority": 5.0}, "priority 5.0 is outside"),
        ({"correlation_id": "m/1"}, "correlation_id 'm/1' is no id"),
        ({"response_wanted": 1}, "response_wanted must be true or false"),
        ({"payload": Payload(task_id="../x")}, "payload.task_id '../x' is no id"),
        ({"payload": Payload(action="rm -rf")}, "payload.action 'rm -rf' is no word"),
        ({"payload": Payload(context="\ud800")}, "payload.context must be text"),
        ({"payload": Payload(run=((),))}, "payload.run must hold argument lists"),
        ({"payload": Payload(run=("",))}, "payload.run must hold argument lists"),
        ({"payload": Payload(run=(("a", 1),))}, "payload.run must hold argument lists"),  # type: ignore[arg-type]
        ({"payload": Payload(run=("a\0b",))}, "payload.run holds a NUL byte"),
        ({"payload": Payload(memory_refs=("a", 1))}, "payload.memory_refs must be a list of texts"),  # type: ignore[arg-type]
        ({"payload": Payload(data=float("nan"))}, "payload.data holds a number that JSON has no word for"),
        ({"payload": Payload(data={1: 2})}, "payload.data has a key that is no text"),
        ({"payload": Payload(data={"a": {2}})}, "payload.data holds a set"),
        ({"payload": Payload(data=nested(MAX_DEPTH))}, "payload.data is nested deeper than 50"),
        ({"payload": Payload(data=nested(100_000))}, "payload.data is nested deeper than 50"),
        ({"pai": Pai(algorithm_phase=3)}, "pai.algorithm_phase must be text"),  # type: ignore[arg-type]
        ({"payload": Payload(context="x" * MAX_BYTES)}, "more than 262144; put the content into a file"),
    ],
)
def test_what_is_not_well_formed_is_not_written(change: dict[str, Any], words: str) -> None:
    with pytest.raises(EnvelopeError) as caught:
        dump(replace(NOTE, **change))
    assert words in str(caught.value)


def test_other_time_zones_are_written_in_utc() -> None:
    at = AT.astimezone(timezone(timedelta(hours=5)))
    assert dump(replace(NOTE, timestamp=at)) == dump(NOTE)


# -- who reads believes no text -----------------------------------------------------------------------------


def with_key(path: str, value: Any) -> str:
    """The text of FULL with one key set to something."""
    table = json.loads(dump(FULL))
    *outer, last = path.split(".")
    inner = table
    for name in outer:
        inner = inner[name]
    inner[last] = value
    return canonical(table)


def without_key(name: str) -> str:
    table = json.loads(dump(FULL))
    del table[name]
    return canonical(table)


HOSTILE: dict[str, Callable[[], str]] = {
    "nothing": lambda: "",
    "no JSON": lambda: dump(FULL)[:-1],
    "a list": lambda: "[]",
    "a number": lambda: "1",
    "an unknown key": lambda: with_key("root", True),
    "an unknown key of payload": lambda: with_key("payload.sudo", True),
    "an unknown key of pai": lambda: with_key("pai.x", 1),
    "payload is a list": lambda: with_key("payload", []),
    "payload is missing": lambda: without_key("payload"),
    "id is missing": lambda: without_key("id"),
    "id is a number": lambda: with_key("id", 1),
    "source is missing": lambda: without_key("source"),
    "priority is missing": lambda: without_key("priority"),
    "priority is text": lambda: with_key("priority", "5"),
    "priority is no integer": lambda: dump(FULL).replace('"priority":9', '"priority":9.0'),
    "priority is enormous": lambda: dump(FULL).replace('"priority":9', f'"priority":{"9" * 10_000}'),
    "response_wanted is missing": lambda: without_key("response_wanted"),
    "response_wanted is null": lambda: with_key("response_wanted", None),
    "correlation_id is missing": lambda: without_key("correlation_id"),
    "correlation_id is a list": lambda: with_key("correlation_id", ["m-1"]),
    "type is unknown": lambda: with_key("type", "order"),
    "run is text": lambda: with_key("payload.run", "rm"),
    "run holds a number": lambda: with_key("payload.run", [1]),
    "run holds nothing": lambda: with_key("payload.run", []),
    "memory_refs is text": lambda: with_key("payload.memory_refs", "abc"),
    "memory_refs is null": lambda: with_key("payload.memory_refs", None),
    "action is null": lambda: with_key("payload.action", None),
    "timestamp without zone": lambda: with_key("timestamp", "2026-01-02T03:04:05.678"),
    "timestamp of another zone": lambda: with_key("timestamp", "2026-01-02T03:04:05.678+01:00"),
    "timestamp that is no day": lambda: with_key("timestamp", "2026-02-30T03:04:05.678Z"),
    "timestamp in other digits": lambda: with_key("timestamp", "٢٠٢٦-01-02T03:04:05.678Z"),
    "a lone surrogate": lambda: dump(FULL).replace("the whole", "\\ud800"),
    "spaces": lambda: dump(FULL).replace(",", ", "),
    "another order of keys": lambda: json.dumps(
        dict(reversed(json.loads(dump(FULL)).items())), separators=(",", ":")
    ),
    "a key twice": lambda: dump(FULL).replace('"priority":9', '"priority":1,"priority":9'),
    "not a number": lambda: dump(FULL).replace("2.5", "NaN"),
    "text outside ASCII": lambda: dump(FULL).replace("the whole", "the whöle"),
    "a deep nest": lambda: dump(FULL).replace("2.5", "[" * 100_000 + "]" * 100_000),
    "something behind it": lambda: dump(FULL) + " ",
    "too much": lambda: with_key("payload.context", "x" * MAX_BYTES),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_dump_would_not_have_written_is_refused(name: str) -> None:
    with pytest.raises(EnvelopeError):
        load(HOSTILE[name]())


@given(st.text())
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(EnvelopeError):
        load(text)


@given(json_values)
def test_no_json_breaks_the_reader(value: Any) -> None:
    with pytest.raises(EnvelopeError):
        load(json.dumps(value, sort_keys=True, separators=(",", ":")))


@given(st.data())
def test_a_table_of_anything_is_refused_or_read_as_it_stands(data: st.DataObject) -> None:
    table = json.loads(dump(FULL))
    name = data.draw(st.sampled_from(sorted(table)))
    table[name] = data.draw(json_values)
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    try:
        envelope = load(text)
    except EnvelopeError:
        return
    assert dump(envelope) == text
