"""Trust: who wrote a message. Certificates say whose a key is, signatures that a text was written with it.

A process makes its key when it first speaks, and the installation's key certifies it: this key is that of the
agent `code`, in this life; of a command of one of its tasks; or of a person. Who verifies needs the envelope,
its signature, the certificate that came with it and the installation's public key *file*: nothing that
Redis says is believed because Redis says it.

What this holds: nobody who has only Redis (its address, its password, its files, a connection of another
installation) can forge a message, change one, or pass off one sender's as another's. What it cannot hold yet:
all processes run as one user, so a command that an agent runs can read `keys/` and certify what it likes, or
drop its marks and speak as a person. That ends where the sandbox hides `keys/` from commands.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from ai_infra.core.errors import Failed, SystemProblem
from ai_infra.core.home import Home
from ai_infra.core.orphans import MARK_HOME, task_in
from ai_infra.messages.envelope import (
    EVERYONE,
    PERSON,
    Envelope,
    EnvelopeError,
    MessageId,
    Signed,
    canonical,
    is_party,
    load,
)
from ai_infra.messages.keys import PublicKey, SigningKey, installation_key, trusted_key, user_key

FRESH_S = 600.0  #: a message is sent so soon after it was written; replays are remembered for longer

_CERTIFICATES_KEPT = 200
_CERTIFICATE, _ENVELOPE = (
    b"ai-infra certificate 1\n",
    b"ai-infra message 1\n",
)  # no text can pass as the other


class Untrusted(Failed):
    """A message is not what it says it is; the reason stands in the words."""


class Kind(StrEnum):
    """What a sender is."""

    AGENT = "agent"  #: the process of an agent
    TASK = "task"  #: a command of a task that an agent runs
    PERSON = "person"


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """The installation's word for whose a key is."""

    kind: Kind
    name: str  #: the source that its messages must name
    holder: str  #: the life (worker id), the task, or the person's login
    key: str  #: the public key


@dataclass(frozen=True, kw_only=True)
class Trusted:
    """A message whose sender is known."""

    envelope: Envelope
    sender: Certificate


class Identity:
    """One sender: its key, and the certificate for it."""

    def __init__(self, home: Home, kind: Kind, name: str, holder: str, key: SigningKey) -> None:
        self._key = key
        self.certificate = Certificate(kind=kind, name=name, holder=holder, key=key.public.text)
        body = canonical(vars(self.certificate))
        signature = installation_key(home).sign(_CERTIFICATE + body.encode())
        self.key_id = key.public.id
        self.certificate_text = canonical({"certificate": body, "signature": signature})

    def is_trusted(self, home: Home) -> bool:
        """Whether readers believe it; they do not any more when the installation's key was replaced."""
        try:
            _checked(self.certificate_text, trusted_key(home))
        except (Untrusted, SystemProblem):
            return False
        return True

    def sign(self, envelope: str) -> Signed:
        """The text of an envelope, signed."""
        signature = self._key.sign(_ENVELOPE + envelope.encode())
        return Signed(envelope=envelope, signature=signature, certificate=self.certificate_text)


def identity_of_agent(home: Home, agent: str, worker: str) -> Identity:
    """This life of an agent; its key is made here and is never written anywhere. Raises SystemProblem."""
    return Identity(home, Kind.AGENT, agent, worker, SigningKey())


def identity_of_command(home: Home, env: Mapping[str, str], login: str) -> Identity:
    """Who typed a command: a task of an agent, where it carries the marks of one; else the person."""
    if (of := task_in(env)) is not None and env.get(MARK_HOME) == str(home.root):
        return Identity(home, Kind.TASK, *of, SigningKey())
    name = PERSON + login
    return Identity(home, Kind.PERSON, name if is_party(name) else PERSON + "unnamed", login, user_key(home))


class Verifier:
    """Checks messages against the installation's public key."""

    def __init__(self, home: Home) -> None:
        self._home = home
        #: certificates found good, by the installation's key and their text
        self._known: dict[tuple[str, str], Certificate] = {}

    def verify(
        self, signed: Signed, *, reader: str, id: MessageId | None = None, sent_at: datetime | None = None
    ) -> Trusted:
        """The message, if it is whole, from who it says, for `reader`, and written when it was sent.

        `id` and `sent_at` are what the inbox says. Raises Untrusted with the reason.
        """
        sender = self._certificate(signed.certificate)
        if not PublicKey.read(sender.key).has_signed(signed.signature, _ENVELOPE + _bytes(signed.envelope)):
            raise Untrusted(f"its text is not what {sender.name} signed")
        try:
            envelope = load(signed.envelope)
        except EnvelopeError as exc:
            raise Untrusted(f"it is not well formed: {exc}") from exc
        if id is not None and envelope.id != id:
            raise Untrusted(f"it is a copy of {envelope.id}, under another id")
        if envelope.source != sender.name:
            raise Untrusted(
                f"it says it is from {envelope.source}, but {sender.name} ({sender.kind}) signed it"
            )
        if envelope.target not in (reader, EVERYONE):
            raise Untrusted(f"it is for {envelope.target}, not for {reader}")
        if sent_at is not None and abs(sent_at - envelope.timestamp) > timedelta(seconds=FRESH_S):
            written, sent = f"{envelope.timestamp:%Y-%m-%d %H:%M:%S}", f"{sent_at:%Y-%m-%d %H:%M:%S}"
            raise Untrusted(
                f"it was written at {written} UTC, but sent at {sent}: an old one, or clocks differ"
            )
        return Trusted(envelope=envelope, sender=sender)

    def _certificate(self, text: str) -> Certificate:
        trusted = trusted_key(self._home)  # read each time: whoever replaces it is believed at once
        known = trusted.id, text
        if known not in self._known:
            if len(self._known) >= _CERTIFICATES_KEPT:
                self._known.clear()
            self._known[known] = _checked(text, trusted)
        return self._known[known]


def _checked(text: str, trusted: PublicKey) -> Certificate:
    """The certificate, if `trusted` has signed it."""
    try:
        outer = json.loads(text)
        body, signature = outer["certificate"], outer["signature"]
        good = trusted.has_signed(signature, _CERTIFICATE + body.encode())
    except (ValueError, RecursionError, TypeError, KeyError, AttributeError) as exc:
        raise Untrusted("it carries no certificate that can be read") from exc
    if not good:
        raise Untrusted("its sender's key is unknown: this installation has not certified it")
    table = json.loads(body)
    return Certificate(**{**table, "kind": Kind(table["kind"])})


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
