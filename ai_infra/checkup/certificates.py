"""Certificates: where a machine and a repository keep them, and when they end.

The end date is read straight from the DER structure: validity has a fixed place in it, so a few lines do,
without a process for every file and without a private interface of the ssl module. Bundles of many
certificates (the roots a machine trusts) are looked at by nobody, here neither.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ai_infra.checkup.findings import Finding, Severity, found

WARN_DAYS = 30
BUNDLE = 10  #: a file with more certificates is a bundle
READ_BYTES = 1_000_000
CONFIG_FILES = 500  #: of one server's configuration, how many are read

_PEM = re.compile(rb"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----\s*([A-Za-z0-9+/=\s]+?)-----END ")
_SERVER_SETTINGS = {
    "nginx": re.compile(r"^[ \t]*ssl_certificate\s+[\"']?([^\s;\"'$]+)[\"']?\s*;", re.MULTILINE),
    "apache2": re.compile(r"^[ \t]*SSLCertificateFile\s+[\"']?([^\s\"'$]+)", re.MULTILINE | re.IGNORECASE),
    "httpd": re.compile(r"^[ \t]*SSLCertificateFile\s+[\"']?([^\s\"'$]+)", re.MULTILINE | re.IGNORECASE),
    "postfix": re.compile(r"^[ \t]*smtpd_tls_(?:cert|chain)_files?\s*=\s*([^\s,$]+)", re.MULTILINE),
    "dovecot": re.compile(r"^[ \t]*ssl_(?:server_)?cert(?:_file)?\s*=\s*<?\s*([^\s$]+)", re.MULTILINE),
    "haproxy": re.compile(r"\bcrt\s+([^\s$]+)"),
}
_PLACES = (
    "letsencrypt/live/*/fullchain.pem",
    "letsencrypt/live/*/cert.pem",
    *(f"ssl/{folder}*.{kind}" for folder in ("", "private/", "certs/") for kind in ("pem", "crt")),
    *(f"pki/tls/certs/*.{kind}" for kind in ("pem", "crt")),
    *(f"nginx/{folder}*.{kind}" for folder in ("", "ssl/", "certs/") for kind in ("pem", "crt")),
)
_NAMES = (".pem", ".crt", ".cer", ".cert", ".der")


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """One certificate, as far as it matters here."""

    file: str
    name: str  #: common name of its subject; empty without one
    ends_at: datetime
    in_repo: bool = False


def machine_files(etc: Path) -> list[Path]:
    """Where servers on this machine have their certificates: usual places, and those their settings name."""
    found_files: dict[str, Path] = {}
    for pattern in _PLACES:
        for path in sorted(etc.glob(pattern)):
            # The roots a machine trusts are links into a package's folder.
            if path.suffix in _NAMES and not ("ssl/certs" in pattern and path.is_symlink()):
                found_files.setdefault(os.path.realpath(path), path)
    for path in _configured(etc):
        if path.is_file():
            found_files.setdefault(os.path.realpath(path), path)
    return list(found_files.values())


def read_certificates(path: Path) -> list[Certificate]:
    """The certificates in a file; none for a bundle, another format, or a file one may not read."""
    try:
        with path.open("rb") as file:
            data = file.read(READ_BYTES)
    except OSError:
        return []
    return parse_certificates(str(path), data)


def parse_certificates(name: str, data: bytes, *, in_repo: bool = False) -> list[Certificate]:
    """The certificates in PEM or DER bytes; damaged ones are left out."""
    blocks = list(_der_blocks(data))
    if len(blocks) > BUNDLE:
        return []
    found_here = []
    for block in blocks:
        try:
            common_name, ends_at = read_der(block)
        except (ValueError, IndexError, OverflowError):
            continue
        found_here.append(Certificate(file=name, name=common_name, ends_at=ends_at, in_repo=in_repo))
    return found_here


def is_certificate_name(path: str) -> bool:
    """Whether a tracked file may be a certificate."""
    return path.lower().endswith(_NAMES)


def judge_certificates(certificates: Iterable[Certificate], now: datetime) -> Iterator[Finding]:
    """Expired and soon to expire; those in the repository may be old on purpose, so one step milder."""
    for certificate in certificates:
        days = (certificate.ends_at - now).total_seconds() / 86_400
        who = f"certificate {certificate.name or 'without a name'}"
        if days < 0:
            severity = Severity.WARN if certificate.in_repo else None
            words = f"{who} expired on {certificate.ends_at:%Y-%m-%d}"
            yield found("certificate-expired", words, certificate.file, severity=severity)
        elif days < WARN_DAYS:
            severity = Severity.INFO if certificate.in_repo else None
            words = f"{who} expires on {certificate.ends_at:%Y-%m-%d}, in {int(days)} days"
            yield found("certificate-expires", words, certificate.file, severity=severity)


def read_der(der: bytes) -> tuple[str, datetime]:
    """(common name of the subject, end of validity).

    Raises ValueError for anything but an X.509 certificate.
    """
    _, certificate, _ = _element(der, 0x30)
    _, tbs, _ = _element(certificate, 0x30)
    if tbs[:1] == b"\xa0":  # version
        tbs = _element(tbs, 0xA0)[2]
    for tag in (0x02, 0x30, 0x30):  # serial number, signature algorithm, issuer
        tbs = _element(tbs, tag)[2]
    _, validity, rest = _element(tbs, 0x30)
    _, _, end = _element(validity)
    tag, text, _ = _element(end)
    return _common_name(_element(rest, 0x30)[1]), _time(tag, text)


def _der_blocks(data: bytes) -> Iterator[bytes]:
    if b"-----BEGIN" not in data:
        if data[:1] == b"\x30":
            yield data
        return
    for match in _PEM.finditer(data):
        try:
            yield base64.b64decode(match[1])
        except binascii.Error:
            continue


def _element(data: bytes, wanted: int | None = None) -> tuple[int, bytes, bytes]:
    """(tag, content, what follows) of the first element."""
    tag, length, start = data[0], data[1], 2
    if length >= 0x80:
        size = length & 0x7F
        if not 1 <= size <= 4:
            raise ValueError("length of an element is not definite")
        length, start = int.from_bytes(data[2 : 2 + size], "big"), 2 + size
    if (wanted is not None and tag != wanted) or len(data) < start + length:
        raise ValueError("not an X.509 certificate")
    return tag, data[start : start + length], data[start + length :]


def _common_name(name: bytes) -> str:
    found_name = ""
    while name:
        _, pairs, name = _element(name, 0x31)
        _, pair, _ = _element(pairs, 0x30)
        _, oid, value = _element(pair, 0x06)
        if oid == b"\x55\x04\x03":
            found_name = _element(value)[1].decode("utf-8", "replace")
    return found_name


def _time(tag: int, text: bytes) -> datetime:
    said = text.decode("ascii")
    if tag == 0x17:  # UTCTime: two digits for the year, 1950 to 2049
        said = ("19" if int(said[:2]) >= 50 else "20") + said
    return datetime.strptime(said, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC)


def _configured(etc: Path) -> Iterator[Path]:
    for server, pattern in _SERVER_SETTINGS.items():
        files = (path for path in sorted((etc / server).rglob("*")) if path.is_file())
        for number, path in enumerate(files):
            if number >= CONFIG_FILES:
                break
            for said in pattern.findall(_text(path)):
                yield etc / server / said  # an absolute path stays itself


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return file.read(READ_BYTES).decode("utf-8", "replace")
    except OSError:
        return ""
