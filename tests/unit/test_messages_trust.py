"""Trust: what a signature, a certificate and the key files hold, and what they refuse."""

from __future__ import annotations

import base64
import json
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ai_infra.core.errors import SystemProblem
from ai_infra.core.home import Home
from ai_infra.messages.envelope import Envelope, MessageId, MessageType, Payload, Signed, dump, now
from ai_infra.messages.keys import check_keys, installation_key, trusted_key, user_key
from ai_infra.messages.trust import (
    FRESH_S,
    Identity,
    Kind,
    Untrusted,
    Verifier,
    identity_of_agent,
    identity_of_command,
)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return new_home(tmp_path / "state")


def new_home(root: Path) -> Home:
    found = Home(root)
    found.ensure()
    return found


def message(source: str = "qa", target: str = "code") -> Envelope:
    return Envelope(
        id=MessageId("m-1"),
        timestamp=now(),
        source=source,
        target=target,
        type=MessageType.QUERY,
        payload=Payload(context="hello"),
    )


def signed_by(sender: Identity, envelope: Envelope) -> Signed:
    return sender.sign(dump(envelope))


def refusal(home: Home, signed: Signed, **more: object) -> str:
    with pytest.raises(Untrusted) as caught:
        Verifier(home).verify(signed, reader="code", **more)  # type: ignore[arg-type]
    return str(caught.value)


# -- what holds ---------------------------------------------------------------------------------------------


def test_an_agents_message_is_the_agents(home: Home) -> None:
    envelope = message()
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), envelope)
    trusted = Verifier(home).verify(signed, reader="code", id=envelope.id, sent_at=now())
    assert trusted.envelope == envelope
    assert (trusted.sender.kind, trusted.sender.name, trusted.sender.holder) == (Kind.AGENT, "qa", "qa.1")


def test_a_persons_message_is_marked_as_a_persons(home: Home) -> None:
    person = identity_of_command(home, {}, "ada")
    trusted = Verifier(home).verify(signed_by(person, message("person:ada")), reader="code")
    assert (trusted.sender.kind, trusted.sender.holder) == (Kind.PERSON, "ada")
    again = identity_of_command(home, {}, "ada")
    assert again.key_id == person.key_id  # the user's key, not one of the moment


def test_a_task_that_types_a_command_does_not_pass_as_a_person(home: Home) -> None:
    marks = {"AI_INFRA_HOME": str(home.root), "AI_INFRA_AGENT": "qa", "AI_INFRA_TASK_ID": "t-1"}
    task = identity_of_command(home, marks, "ada")
    trusted = Verifier(home).verify(signed_by(task, message("qa")), reader="code")
    assert (trusted.sender.kind, trusted.sender.name, trusted.sender.holder) == (Kind.TASK, "qa", "t-1")
    assert "it says it is from person:ada, but qa (task) signed it" in refusal(
        home, signed_by(task, message("person:ada"))
    )


@pytest.mark.parametrize(
    "marks",
    [
        {"AI_INFRA_AGENT": "qa", "AI_INFRA_TASK_ID": "t-1"},
        {"AI_INFRA_AGENT": "qa", "AI_INFRA_TASK_ID": "t-1", "AI_INFRA_HOME": "/another"},
        {"AI_INFRA_AGENT": "person:x", "AI_INFRA_TASK_ID": "t-1", "AI_INFRA_HOME": "HOME"},
        {"AI_INFRA_AGENT": "qa", "AI_INFRA_TASK_ID": "", "AI_INFRA_HOME": "HOME"},
    ],
)
def test_marks_of_another_installation_or_of_nobody_are_none(home: Home, marks: dict[str, str]) -> None:
    env = {name: str(home.root) if value == "HOME" else value for name, value in marks.items()}
    assert identity_of_command(home, env, "ada").certificate.kind is Kind.PERSON


def test_an_odd_login_is_a_person_without_a_name(home: Home) -> None:
    assert identity_of_command(home, {}, "a b\n").certificate.name == "person:unnamed"


def test_a_broadcast_is_for_every_reader(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message(target="*"))
    for reader in ("code", "data"):
        assert Verifier(home).verify(signed, reader=reader).envelope.target == "*"


# -- what is refused ----------------------------------------------------------------------------------------


def test_a_changed_body(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    changed = replace(signed, envelope=signed.envelope.replace("hello", "hullo"))
    assert refusal(home, changed) == "its text is not what qa signed"


def test_every_single_changed_byte(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    verifier = Verifier(home)
    for i, char in enumerate(signed.envelope):
        text = signed.envelope[:i] + chr(ord(char) ^ 1) + signed.envelope[i + 1 :]
        with pytest.raises(Untrusted):
            verifier.verify(replace(signed, envelope=text), reader="code")


@pytest.mark.parametrize(
    "signature", ["", "AAAA", "no base64!", "é", base64.b64encode(bytes(64)).decode(), "=" * 88]
)
def test_a_signature_that_is_none(home: Home, signature: str) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    assert refusal(home, replace(signed, signature=signature)) == "its text is not what qa signed"


def test_a_sender_that_is_not_who_it_says(home: Home) -> None:
    qa = identity_of_agent(home, "qa", "qa.1")
    for said in ("data", "person:ada"):
        assert refusal(home, signed_by(qa, message(said))) == (
            f"it says it is from {said}, but qa (agent) signed it"
        )


def test_another_installations_sender(home: Home, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    installation_key(home)
    signed = signed_by(identity_of_agent(other, "qa", "qa.1"), message())
    words = "its sender's key is unknown: this installation has not certified it"
    assert refusal(home, signed) == words


def test_a_key_put_into_a_good_certificate(home: Home) -> None:
    good = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    thief = identity_of_agent(home, "data", "data.1")
    outer = json.loads(good.certificate)
    body = json.loads(outer["certificate"]) | {"key": thief.certificate.key}
    outer["certificate"] = json.dumps(body, sort_keys=True, separators=(",", ":"))
    forged = replace(signed_by(thief, message()), certificate=json.dumps(outer))
    assert "is unknown" in refusal(home, forged)
    swapped = replace(signed_by(thief, message()), certificate=good.certificate)
    assert refusal(home, swapped) == "its text is not what qa signed"


@pytest.mark.parametrize(
    "certificate",
    ["", "null", "[]", "{}", '{"certificate":1,"signature":2}', '{"certificate":"{}","signature":null}',
     '{"certificate":"{}","signature":"AAAA"}', "[" * 100_000, '{"certificate":"\\ud800","signature":"A"}'],
)  # fmt: skip
def test_a_certificate_that_is_none(home: Home, certificate: str) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    words = refusal(home, replace(signed, certificate=certificate))
    assert "no certificate that can be read" in words or "is unknown" in words


def test_a_certificate_signed_as_a_message_is_none(home: Home) -> None:
    """Texts for one purpose never serve the other, whatever they hold."""
    person = identity_of_command(home, {}, "ada")
    forged = person.sign(json.loads(person.certificate_text)["certificate"])
    assert "is not well formed" in refusal(home, forged)


def test_a_message_for_somebody_else(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message(target="data"))
    assert refusal(home, signed) == "it is for data, not for code"


def test_a_copy_under_another_id(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    assert refusal(home, signed, id="m-2") == "it is a copy of m-1, under another id"


@pytest.mark.parametrize("late_s", [FRESH_S + 2, -FRESH_S - 2])
def test_a_message_that_was_not_sent_when_it_was_written(home: Home, late_s: float) -> None:
    envelope = message()
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), envelope)
    sent_at = envelope.timestamp + timedelta(seconds=late_s)
    assert "it was written at" in refusal(home, signed, sent_at=sent_at)


def test_a_signed_text_that_is_not_an_envelope(home: Home) -> None:
    signed = identity_of_agent(home, "qa", "qa.1").sign('{"source":"qa"}')
    assert "it is not well formed" in refusal(home, signed)


def test_when_the_installations_key_is_replaced_the_old_one_is_worth_nothing(home: Home) -> None:
    verifier, sender = Verifier(home), identity_of_agent(home, "qa", "qa.1")
    signed = signed_by(sender, message())
    verifier.verify(signed, reader="code")
    assert sender.is_trusted(home)
    for path in home.keys.iterdir():
        path.unlink()
    assert not sender.is_trusted(home)
    again = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    verifier.verify(again, reader="code")
    assert not sender.is_trusted(home)
    with pytest.raises(Untrusted, match="its sender's key is unknown"):
        verifier.verify(signed, reader="code")


# -- key files ----------------------------------------------------------------------------------------------


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_keys_are_made_once_and_are_the_owners_alone(home: Home) -> None:
    first, person = installation_key(home), user_key(home)
    assert installation_key(home).public.id == first.public.id != person.public.id
    assert user_key(home).public.id == person.public.id
    assert trusted_key(home).id == first.public.id
    assert {p.name for p in home.keys.iterdir()} == {"installation.key", "installation.pub", "user.key"}
    assert {mode(p) for p in home.keys.iterdir()} == {0o600}
    assert mode(home.keys) == 0o700


def test_a_look_at_the_keys_changes_nothing(home: Home) -> None:
    assert check_keys(home) == "none yet; made with the first message"
    assert list(home.keys.iterdir()) == []
    installation_key(home)
    (home.keys / "installation.pub").unlink()
    assert check_keys(home) == "installation.key, readable by you alone"
    assert [path.name for path in home.keys.iterdir()] == ["installation.key"]


def test_whoever_comes_first_makes_the_key_all_use(home: Home) -> None:
    code = (
        "import sys; from pathlib import Path; from ai_infra.core.home import Home\n"
        "from ai_infra.messages.keys import installation_key\n"
        "print(installation_key(Home(Path(sys.argv[1]))).public.id)"
    )
    with ThreadPoolExecutor() as pool:
        words = [sys.executable, "-c", code, str(home.root)]
        made = pool.map(lambda _: subprocess.check_output(words, text=True, timeout=60).strip(), range(4))
    assert set(made) == {trusted_key(home).id}
    assert [p.name for p in home.keys.iterdir() if p.name.startswith(".")] == []


def test_a_public_file_that_was_lost_is_written_again(home: Home) -> None:
    first = installation_key(home)
    (home.keys / "installation.pub").unlink()
    assert installation_key(home).public.id == first.public.id == trusted_key(home).id


def test_without_the_public_file_nothing_is_trusted(home: Home) -> None:
    signed = signed_by(identity_of_agent(home, "qa", "qa.1"), message())
    (home.keys / "installation.pub").unlink()
    with pytest.raises(SystemProblem, match=r"installation\.pub: No such file"):
        Verifier(home).verify(signed, reader="code")


def test_a_public_file_of_another_installation(home: Home, tmp_path: Path) -> None:
    other = new_home(tmp_path / "other")
    installation_key(home), installation_key(other)
    os.replace(other.keys / "installation.pub", home.keys / "installation.pub")
    for look in (installation_key, check_keys):
        with pytest.raises(SystemProblem, match=r"installation\.pub: is not the public half"):
            look(home)


@pytest.mark.parametrize("content", [b"", b"not a key", b"\xff" * 100])
def test_a_damaged_key_file(home: Home, content: bytes) -> None:
    installation_key(home)
    (home.keys / "user.key").write_bytes(content)
    (home.keys / "user.key").chmod(0o600)
    with pytest.raises(SystemProblem, match=r"user\.key: holds no private key"):
        user_key(home)
    (home.keys / "installation.pub").write_bytes(content)
    with pytest.raises(SystemProblem, match=r"installation\.pub: holds no public key"):
        trusted_key(home)


def test_a_key_of_another_kind(home: Home) -> None:
    key = home.keys / "user.key"
    other = ec.generate_private_key(ec.SECP256R1())
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    key.write_bytes(other.private_bytes(pem, pkcs8, serialization.NoEncryption()))
    key.chmod(0o600)
    with pytest.raises(SystemProblem, match=r"user\.key: is not an Ed25519 key"):
        user_key(home)


def test_a_key_that_others_may_read_is_not_used(home: Home) -> None:
    user_key(home)
    (home.keys / "user.key").chmod(0o640)
    with pytest.raises(SystemProblem, match=r"user\.key: others may have read it"):
        user_key(home)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_reads_the_keys_and_checks_a_signature(home: Home, tmp_path: Path) -> None:
    """The files are in no format of ours."""
    signature = installation_key(home).sign(b"hello")
    (tmp_path / "text").write_bytes(b"hello")
    (tmp_path / "signature").write_bytes(base64.b64decode(signature))
    words = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", home.keys / "installation.pub"]
    done = subprocess.run(
        [*words, "-in", tmp_path / "text", "-sigfile", tmp_path / "signature"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "Verified Successfully" in done.stdout
