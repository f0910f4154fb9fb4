"""Envelopes: what a message says, checked alike by who writes it and who reads it.

The text of an envelope is canonical JSON (keys sorted, no spaces, ASCII): one envelope has one text, and that
text is what is signed. load() accepts nothing that dump() would not have written: no unknown key, no second
way of writing the same thing. Who may have written it is the business of trust.py.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NewType

from ai_infra.core.errors import UsageError
from ai_infra.core.ids import is_id, is_name

MAX_BYTES = 256 * 1024  #: of an envelope's text; what is larger goes by the path of a file
MAX_DEPTH = 50  #: lists and tables inside each other
EVERYONE = "*"
PERSON = "person:"  #: a person's name begins so, and no agent's can
MIN_PRIORITY, MAX_PRIORITY = 1, 10

MessageId = NewType("MessageId", str)

_PERSON_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}")
_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


class EnvelopeError(UsageError):
    """An envelope is not well formed; the message names the field."""


class MessageType(StrEnum):
    """What a message is about."""

    TASK = "task"  #: run these commands
    RESULT = "result"  #: the answer to an earlier message
    HANDOFF = "handoff"  #: take over the task that it names
    QUERY = "query"  #: a question, or, with no response wanted, a note
    HEARTBEAT = "heartbeat"  #: are you there
    LEARN = "learn"  #: something worth remembering


@dataclass(frozen=True, kw_only=True)
class Payload:
    """What a message carries."""

    task_id: str | None = None
    action: str | None = None  #: what is asked for, as a word that code understands
    context: str | None = None  #: the same in prose
    memory_refs: tuple[str, ...] = ()
    run: tuple[tuple[str, ...] | str, ...] = ()  #: of a task: argument lists, or texts for bash
    data: Any = None  #: of an answer: any JSON


@dataclass(frozen=True, kw_only=True)
class Pai:
    """Where in the Algorithm the sender is, and what it expects."""

    algorithm_phase: str | None = None
    verification_criteria: tuple[str, ...] = ()
    learning_signals: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Envelope:
    """One message."""

    id: MessageId
    timestamp: datetime  #: aware, UTC, whole milliseconds
    source: str  #: an agent, or `person:LOGIN`
    target: str  #: an agent, a person (answers only), or `*` for every agent
    type: MessageType
    priority: int = 5  #: 1-10, 10 is handled first
    payload: Payload = field(default_factory=Payload)
    pai: Pai = field(default_factory=Pai)
    correlation_id: MessageId | None = None  #: the message that this one answers
    response_wanted: bool = False


@dataclass(frozen=True, kw_only=True)
class Signed:
    """A message as it travels: texts only."""

    envelope: str
    signature: str
    certificate: str


def now() -> datetime:
    """An instant as an envelope may carry it."""
    at = datetime.now(UTC)
    return at.replace(microsecond=at.microsecond // 1000 * 1000)


def is_party(text: str) -> bool:
    """Whether `text` can be the source of a message."""
    if text.startswith(PERSON):
        return _PERSON_NAME.fullmatch(text.removeprefix(PERSON)) is not None
    return is_name(text)


def dump(envelope: Envelope) -> str:
    """The text of an envelope. Raises EnvelopeError unless it is well formed."""
    _check(envelope)
    table: dict[str, Any] = {
        **vars(envelope),
        "timestamp": _time_text(envelope.timestamp),
        "payload": _given(vars(envelope.payload)),
        "pai": _given(vars(envelope.pai)),
    }
    text = canonical(table)
    if len(text) > MAX_BYTES:
        raise EnvelopeError(
            f"message {envelope.id} has {len(text)} bytes, more than {MAX_BYTES}; "
            "put the content into a file and send its path"
        )
    return text


def load(text: str) -> Envelope:
    """The envelope that `text` is. Raises EnvelopeError for anything dump() would not have written."""
    if len(text) > MAX_BYTES:
        raise EnvelopeError(f"the envelope has {len(text)} bytes, more than {MAX_BYTES}")
    table = _table(_parsed(text), "the envelope", Envelope)
    payload = _table(table.get("payload"), "payload", Payload)
    pai = _table(table.get("pai"), "pai", Pai)
    envelope = Envelope(
        id=MessageId(_text(table, "id")),
        timestamp=_read_time(_text(table, "timestamp")),
        source=_text(table, "source"),
        target=_text(table, "target"),
        type=_type(_text(table, "type")),
        priority=_any(table, "priority"),  # what is not read as text is checked below, as in any envelope
        payload=Payload(**{**payload, **_tuples(payload, "memory_refs"), **_commands(payload)}),
        pai=Pai(**{**pai, **_tuples(pai, "verification_criteria", "learning_signals")}),
        correlation_id=_any(table, "correlation_id"),
        response_wanted=_any(table, "response_wanted"),
    )
    if dump(envelope) != text:
        raise EnvelopeError("the envelope is not in its canonical form")
    return envelope


def canonical(value: Any) -> str:
    """Compact ASCII JSON with sorted keys. Raises EnvelopeError for what JSON cannot carry."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as exc:
        raise EnvelopeError(f"not JSON: {exc}") from exc


# -- checks -------------------------------------------------------------------------------------------------


def _check(envelope: Envelope) -> None:
    for name, problem in (*_head_problems(envelope), *_content_problems(envelope)):
        if problem:
            raise EnvelopeError(f"message {_shown(envelope.id)}: {name} {problem}")


def _head_problems(e: Envelope) -> Iterator[tuple[str, str | None]]:
    yield "id", _unless(is_id(e.id), f"{_shown(e.id)} is no id")
    yield "timestamp", _unless(e.timestamp == _whole_ms(e.timestamp), "must be UTC, in whole milliseconds")
    yield "source", _unless(is_party(e.source), f"{_shown(e.source)} is neither an agent nor person:LOGIN")
    to_whom = e.target == EVERYONE or is_party(e.target)
    yield "target", _unless(to_whom, f"{_shown(e.target)} is neither an agent nor '*'")
    yield "priority", _unless(_is_priority(e.priority), f"{_shown(e.priority)} is outside 1 to 10")
    yield "correlation_id", _unless(_is_id(e.correlation_id), f"{_shown(e.correlation_id)} is no id")
    yield "response_wanted", _unless(type(e.response_wanted) is bool, "must be true or false")


def _content_problems(e: Envelope) -> Iterator[tuple[str, str | None]]:
    p, pai = e.payload, e.pai
    yield "payload.task_id", _unless(_is_id(p.task_id), f"{_shown(p.task_id)} is no id")
    yield "payload.action", _unless(_is_action(p.action), f"{_shown(p.action)} is no word")
    yield "payload.context", _unless(p.context is None or _is_text(p.context), "must be text")
    yield "payload.run", next((found for command in p.run if (found := _command_problem(command))), None)
    yield "payload.memory_refs", _texts_problem(p.memory_refs)
    yield "payload.data", _json_problem(p.data)
    phase = pai.algorithm_phase
    yield "pai.algorithm_phase", _unless(phase is None or _is_text(phase), "must be text")
    yield "pai.verification_criteria", _texts_problem(pai.verification_criteria)
    yield "pai.learning_signals", _texts_problem(pai.learning_signals)


def _unless(good: bool, problem: str) -> str | None:
    return None if good else problem


def _is_id(value: object) -> bool:
    return value is None or (isinstance(value, str) and is_id(value))


def _is_action(value: object) -> bool:
    return value is None or (isinstance(value, str) and is_name(value))


def _is_priority(value: object) -> bool:
    return type(value) is int and MIN_PRIORITY <= value <= MAX_PRIORITY


def _is_text(value: object) -> bool:
    """Text that UTF-8 can carry."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _texts_problem(values: object) -> str | None:
    good = isinstance(values, tuple) and all(map(_is_text, values))
    return None if good else "must be a list of texts"


def _command_problem(command: object) -> str | None:
    words = (command,) if isinstance(command, str) else command
    if not isinstance(words, tuple) or not words or not all(map(_is_text, words)) or not words[0].strip():
        return "must hold argument lists, or texts for bash"
    return "holds a NUL byte" if any("\0" in word for word in words) else None


def _json_problem(value: Any) -> str | None:
    """Why `value` would not come back from JSON as it is."""
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > MAX_DEPTH:
            return f"is nested deeper than {MAX_DEPTH}"
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                if not all(map(_is_text, item)):
                    return "has a key that is no text"
                below += item.values()
            elif isinstance(item, list):
                below += item
            elif isinstance(item, float) and not math.isfinite(item):
                return "holds a number that JSON has no word for"
            elif not (item is None or isinstance(item, int | float) or _is_text(item)):
                return f"holds a {type(item).__name__}, which JSON has no word for"
        level = below
    return None


def _shown(value: object) -> str:
    return repr(value)[:80]


# -- reading ------------------------------------------------------------------------------------------------


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as exc:
        raise EnvelopeError(f"the envelope is not JSON: {str(exc)[:100]}") from exc


def _table(value: Any, what: str, kind: type) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise EnvelopeError(f"{what} must be a table")
    known = kind.__dataclass_fields__  # type: ignore[attr-defined]  # each is a dataclass
    if unknown := sorted(value.keys() - known.keys()):
        raise EnvelopeError(f"{what} has an unknown key {_shown(unknown[0])}")
    return value


def _text(table: Mapping[str, Any], name: str) -> str:
    value = table.get(name)
    if not isinstance(value, str):
        raise EnvelopeError(f"{name} must be text")
    return value


def _any(table: Mapping[str, Any], name: str) -> Any:
    return table.get(name)


def _type(text: str) -> MessageType:
    try:
        return MessageType(text)
    except ValueError:
        raise EnvelopeError(f"type {_shown(text)} is not one of {', '.join(MessageType)}") from None


def _tuples(table: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {n: tuple(table[n]) if isinstance(table[n], list) else table[n] for n in names if n in table}


def _commands(payload: Mapping[str, Any]) -> dict[str, Any]:
    if "run" not in payload:
        return {}
    if not isinstance(payload["run"], list):
        raise EnvelopeError("payload.run must be a list of commands")
    return {"run": tuple(tuple(c) if isinstance(c, list) else c for c in payload["run"])}


def _given(table: Mapping[str, Any]) -> dict[str, Any]:
    """What was said at all; the rest is left out of the text."""
    return {name: value for name, value in table.items() if value is not None and value != ()}


def _whole_ms(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=at.microsecond // 1000 * 1000) if at.tzinfo else now()


def _time_text(at: datetime) -> str:
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _read_time(text: str) -> datetime:
    try:
        if _TIMESTAMP.fullmatch(text):
            return datetime.fromisoformat(text.replace("Z", "+00:00"))
    except ValueError:
        pass
    raise EnvelopeError(f"timestamp {_shown(text)} is not ISO 8601 in UTC with milliseconds")
