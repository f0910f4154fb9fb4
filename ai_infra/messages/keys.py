"""Keys: the installation's and the user's Ed25519 keys in `$AI_INFRA_HOME/keys`, and the keys of processes.

    installation.key   signs certificates; made at first use (PEM, mode 0600)
    installation.pub   what every certificate is checked against
    user.key           what a person's messages are signed with

Made once, whoever comes first; a file that others may read is not used. Keys of processes are never
written. This module imports `cryptography`, 10 MB and 20 ms: it is imported by those who sign or verify, at
that moment.
"""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ai_infra.core.durable import fsync_dir, system_problem, write_bytes
from ai_infra.core.errors import SystemProblem
from ai_infra.core.home import Home

_RAW = serialization.Encoding.Raw, serialization.PublicFormat.Raw


class SigningKey:
    """A private key. It never leaves this object."""

    def __init__(self, private: Ed25519PrivateKey | None = None) -> None:
        self._private = private or Ed25519PrivateKey.generate()
        self.public = PublicKey(self._private.public_key())

    def sign(self, data: bytes) -> str:
        """The signature, as base64."""
        return base64.b64encode(self._private.sign(data)).decode()


class PublicKey:
    """A public key, and the short name that messages call it by."""

    def __init__(self, public: Ed25519PublicKey) -> None:
        self._public = public
        raw = public.public_bytes(*_RAW)
        self.text = base64.b64encode(raw).decode()
        self.id = hashlib.sha256(raw).hexdigest()[:32]

    @classmethod
    def read(cls, text: str) -> PublicKey:
        """The key whose `text` this is. Raises ValueError."""
        return cls(Ed25519PublicKey.from_public_bytes(base64.b64decode(text, validate=True)))

    def has_signed(self, signature: str, data: bytes) -> bool:
        """Whether `signature` is this key's, of exactly these bytes."""
        try:
            self._public.verify(base64.b64decode(signature, validate=True), data)
        except (InvalidSignature, ValueError):
            return False
        return True

    @property
    def pem(self) -> bytes:
        """As openssl reads it."""
        return self._public.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )


def installation_key(home: Home) -> SigningKey:
    """The key that signs certificates; made if there is none. Raises SystemProblem."""
    key = _ensure_key(home.keys / "installation.key")
    if not _public_path(home).exists():
        write_bytes(_public_path(home), key.public.pem)
    else:
        _check_pair(home, key)
    return key


def user_key(home: Home) -> SigningKey:
    """The key of the person whose installation this is; made if there is none. Raises SystemProblem."""
    return _ensure_key(home.keys / "user.key")


def trusted_key(home: Home) -> PublicKey:
    """What certificates are checked against. Raises SystemProblem when it is not there or no such key."""
    path = _public_path(home)
    try:
        found = serialization.load_pem_public_key(path.read_bytes())
    except OSError as exc:
        raise system_problem(path, exc) from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise SystemProblem(f"{path}: holds no public key; restore it from a backup") from exc
    if not isinstance(found, Ed25519PublicKey):
        raise SystemProblem(f"{path}: is not an Ed25519 key; restore it from a backup")
    return PublicKey(found)


def check_keys(home: Home) -> str:
    """What there is, in words; changes nothing. Raises SystemProblem for what cannot be used."""
    found = [name for name in ("installation.key", "user.key") if (home.keys / name).exists()]
    if not found:
        return "none yet; made with the first message"
    keys = {name: _read_private(home.keys / name) for name in found}
    if "installation.key" in keys and _public_path(home).exists():
        _check_pair(home, keys["installation.key"])
    return f"{', '.join(found)}, readable by you alone"


def _check_pair(home: Home, key: SigningKey) -> None:
    if trusted_key(home).text != key.public.text:
        raise SystemProblem(
            f"{_public_path(home)}: is not the public half of installation.key; restore the folder from a "
            "backup, or remove both files: new ones are made"
        )


def _public_path(home: Home) -> Path:
    return home.keys / "installation.pub"


def _ensure_key(path: Path) -> SigningKey:
    if not path.exists():
        key = SigningKey()
        _create(path, key._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ))  # fmt: skip
    return _read_private(path)


def _create(path: Path, data: bytes) -> None:
    """Write a new file, whole or not at all; one that somebody else has made meanwhile stays."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        write_bytes(beside, data)
        try:
            with contextlib.suppress(FileExistsError):
                os.link(beside, path)
        finally:
            os.unlink(beside)
        fsync_dir(path.parent)
    except OSError as exc:
        raise system_problem(path, exc) from exc


def _read_private(path: Path) -> SigningKey:
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            data = file.read(10_000)
    except OSError as exc:
        raise system_problem(path, exc) from exc
    if info.st_uid != os.geteuid() or stat.S_IMODE(info.st_mode) & 0o077:
        raise SystemProblem(f"{path}: others may have read it; make new keys, or `chmod 600` if you are sure")
    try:
        found = serialization.load_pem_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise SystemProblem(f"{path}: holds no private key; restore it from a backup") from exc
    if not isinstance(found, Ed25519PrivateKey):
        raise SystemProblem(f"{path}: is not an Ed25519 key; restore it from a backup")
    return SigningKey(found)
