"""Credentials: which texts are credentials, by their shape or by what they are called. Pure.

A known shape (a token with a prefix of its own, a private key, an address with a password) is reported
wherever it stands. A value without a shape is reported only when a name calls it a secret, it is a literal,
and it looks random; examples, placeholders, references to variables and test data are left alone. A hit
never holds more of the secret than hint() shows.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import unquote_to_bytes

HINT_CHARS = 4
VALUE_CHARS = 512  #: a longer literal is data, not a credential

ALLOWED = re.compile(
    rb"pragma:\s*allowlist|gitleaks:allow|noqa:?\s*secret|nosec\b|trufflehog:ignore|checkup:allow", re.I
)


@dataclass(frozen=True, kw_only=True)
class Hit:
    """A credential in a text; `value` is the secret itself and must not leave this process."""

    kind: str
    value: bytes
    at: int  #: offset in the text
    token: bool  #: issued by a service, with a form of its own: hardly ever an accident

    def __repr__(self) -> str:
        return f"Hit({self.kind}, {hint(self.value)})"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A credential that can be told by its form; group 1 is the secret."""

    kind: str
    needle: bytes  #: stands in every text that has one; looking for it is quick
    pattern: re.Pattern[bytes]
    entropy: float  #: bits a character; less is a made-up example


def _shape(kind: str, needle: bytes, pattern: bytes, entropy: float = 3.2) -> Shape:
    return Shape(kind=kind, needle=needle, pattern=re.compile(pattern), entropy=entropy)


# No whole token stands in here: a prefix, then what follows it.
SHAPES = (
    _shape("AWS access key id", b"AKIA", rb"(?<![A-Za-z0-9/+])(AKIA[A-Z2-7]{16})(?![A-Za-z0-9/+=])", 2.8),
    _shape("AWS session key id", b"ASIA", rb"(?<![A-Za-z0-9/+])(ASIA[A-Z2-7]{16})(?![A-Za-z0-9/+=])", 2.8),
    *(
        _shape("GitHub token", prefix, rb"\b(" + prefix + rb"[A-Za-z0-9]{36,251})\b")
        for prefix in (b"ghp_", b"gho_", b"ghu_", b"ghs_", b"ghr_")
    ),
    _shape("GitHub fine-grained token", b"github_pat_", rb"\b(github_pat_[A-Za-z0-9]{22}_[A-Za-z0-9]{59})\b"),
    _shape("GitLab token", b"glpat-", rb"\b(glpat-[A-Za-z0-9_\-]{20,64})(?![A-Za-z0-9_\-])"),
    _shape(
        "GitLab token",
        b"gl",
        rb"\b(gl(?:dt|rt|ptt|cbt|oas|soat|agent)-[A-Za-z0-9_\-]{20,64})(?![A-Za-z0-9_\-])",
    ),
    _shape("Slack token", b"xox", rb"\b(xox[abposr]-(?:\d{9,}-)+[A-Za-z0-9\-]{10,})", 2.8),
    _shape(
        "Slack webhook",
        b"hooks.slack.com/services/",
        rb"services/(T[A-Z0-9]{8,}/B[A-Z0-9]{8,}/[A-Za-z0-9]{20,})",
        2.8,
    ),
    _shape("Stripe live key", b"k_live_", rb"\b([sr]k_live_[A-Za-z0-9]{20,247})\b"),
    _shape("Anthropic API key", b"sk-ant-", rb"\b(sk-ant-[a-z]+\d\d-[A-Za-z0-9_\-]{80,120})", 3.5),
    _shape("OpenAI API key", b"T3BlbkFJ", rb"\b(sk-[A-Za-z0-9_\-]{20,}T3BlbkFJ[A-Za-z0-9_\-]{20,})", 3.5),
    _shape("Google API key", b"AIza", rb"\b(AIza[0-9A-Za-z_\-]{35})(?![0-9A-Za-z_\-])"),
    _shape("Google OAuth secret", b"GOCSPX-", rb"\b(GOCSPX-[0-9A-Za-z_\-]{28})(?![0-9A-Za-z_\-])"),
    _shape("npm token", b"npm_", rb"\b(npm_[A-Za-z0-9]{36})\b"),
    _shape("PyPI token", b"pypi-AgE", rb"\b(pypi-AgE[A-Za-z0-9_\-]{60,})", 3.5),
    _shape("SendGrid key", b"SG.", rb"\b(SG\.[A-Za-z0-9_\-]{22}\.[A-Za-z0-9_\-]{43})(?![A-Za-z0-9_\-])", 3.5),
    _shape("Hugging Face token", b"hf_", rb"\b(hf_[A-Za-z0-9]{34})\b"),
    _shape("DigitalOcean token", b"_v1_", rb"\b(do[opr]_v1_[a-f0-9]{64})\b", 3.0),
    _shape(
        "Telegram bot token", b":AA", rb"(?<![0-9A-Za-z_])(\d{8,10}:AA[A-Za-z0-9_\-]{33})(?![A-Za-z0-9_\-])"
    ),
    _shape("Discord webhook", b"/api/webhooks/", rb"/api/webhooks/(\d{17,20}/[A-Za-z0-9_\-]{60,})"),
    _shape("Azure storage key", b"AccountKey=", rb"AccountKey=([A-Za-z0-9+/]{86}==)", 3.5),
    _shape("age secret key", b"AGE-SECRET-KEY-1", rb"\b(AGE-SECRET-KEY-1[A-Z0-9]{58})\b"),
)
_KEY = re.compile(
    rb"-----BEGIN ((?:[A-Z0-9]+ )*)PRIVATE KEY(?: BLOCK)?-----(?:\\r|\\n|[\s\"'+,;]|Proc-Type[^\n]*"
    rb"|DEK-Info[^\n]*|(?:Version|Comment):[^\n]*)*([A-Za-z0-9+/=]{40,})"
)
_JWT = re.compile(rb"(eyJ[A-Za-z0-9_\-]{10,}\.eyJ[A-Za-z0-9_\-]{10,}\.[A-Za-z0-9_\-]{20,})")
_SCHEME = re.compile(rb"[a-zA-Z][a-zA-Z0-9+.\-]{1,20}\Z")
_URL = re.compile(rb"://([^\s/:@\"'<>`{}$\\]{0,64}):([^\s/@\"'<>`\\]{3,128})@([A-Za-z0-9.\-]{1,100})")
_CALLED = re.compile(
    rb"secret|token|passw(?:or)?d|(?:api|access|auth|private|encryption|signing)[_\-]?key|credential"
)
_ASSIGNED = re.compile(
    rb"[A-Za-z0-9_\-]{0,20}[\"']?\s{0,8}(?::=|=>|[:=])\s{0,8}"
    rb"(?:[bru]{0,2}([\"'`])([^\"'`\s]{12,512})\1|([A-Za-z0-9_+/=~.\-]{16,512})(?=[\s,;]|$))"
)
_BEFORE = re.compile(rb"[A-Za-z0-9_.\-]{0,40}\Z")
_AFTER = re.compile(rb"[A-Za-z0-9_\-]{0,20}")
_PLACEHOLDER = re.compile(
    rb"(?i)example|sample|placeholder|change[_\-]?me|dummy|fake|mock|your[_\-]|my[_\-]|insert|replace|redacted|foobar"
    rb"|xxxx|\*\*\*|\.\.\.|1234567|abcdef|deadbeef|0{8}|test[_\-]|[_\-]test|lorem|todo|undefined|localhost|secret[_\-]?key"
    rb"|password|passwd|qwerty|s3cr3t|hunter2|default|aaaa|<[a-z]|not[_\-]a[_\-]|some[_\-]"
)
# The examples that the standards print, and everybody copies.
_PUBLISHED = {
    b"ad180jjd733klru7", b"kkk9d7dh3k39sjv7", b"dpf43f3p2l4k3l03", b"kd94hf93k423kf44", b"pfkkdhi9sl3r4s00",
    b"nnch734d00sl2jdk", b"hh5s93j4hdidpola", b"hdhd0244k9j7ao03", b"2YotnFZFEjr1zCsicMWpAA",
    b"tGzv3JOkF0XG5Qx2TlKWIA", b"SplxlOBeZQQYbYS6WxSbIA", b"mF_9.B5f-4.1JqM", b"czZCaGRSa3F0MzpnWDFmQmF0M2JW",
}  # fmt: skip
_REFERENCE = re.compile(
    rb"^\$|^\{[^}]*\}$|\$\{|\$\(|\{\{|\{%|%\(|%[sd]|^<|^@|^!|^env[.(:]|process\.env|os\.environ|getenv|^vault:"
    rb"|^arn:|^ref\+"
)
_WORDY = re.compile(
    rb"^[a-z]+(?:[A-Z][a-z]+)+$|^[A-Za-z]+(?:[_\-.:/ ][A-Za-z]+)+\d{0,2}$|^[A-Z]+(?:_[A-Z0-9]+)+$"
)
_CODE = re.compile(
    rb"[()\[\]{};]|^\.|/.*/|\.(py|js|ts|go|rb|php|json|ya?ml|txt|md|html|pem|crt|key|com|org|net|io)$"
)
_NOT_SECRET_NAME = re.compile(
    rb"(?i)(public|pub)_?-?key|key_?-?(id|name|path|file|type|size|length|word|ring|code|map)|_?(file|path|name|url|uri|type"
    rb"|id|ids|hash|field|label|header|regex|pattern|length|size|class|endpoint|provider|prefix|suffix|count|limit|index"
    rb"|version|format|algorithm|expiry|ttl|policy|env|var|arn|hint|help|text|title|message|error|prompt|template|selector"
    rb"|address|contract|csrf|page|next|continuation|cancel|sync)s?$|tokeni[sz]|^(csrf|page|next|continuation|sync|cancel)"
    rb"|secretary|passwordless"
)
_HASH = re.compile(
    rb"^[0-9a-f]{32}$|^[0-9a-f]{40}$|^[0-9a-f]{64}$|^[0-9a-f]{96}$|^[0-9a-f]{128}$|^sha\d+[-:]|^\$2[aby]\$|^\$(argon|5|6|1)"
)


def find(text: bytes, *, names: bool) -> Iterator[Hit]:
    """The credentials in a text; `names` also judges values by what they are called."""
    shaped = list(_find_shapes(text))
    yield from shaped
    if names:
        known = {hit.value for hit in shaped}
        yield from (hit for hit in _find_assigned(text) if hit.value not in known)


def hint(value: bytes) -> str:
    """What may be shown of a secret.

    Its first characters, never more than a quarter of it, and its length.
    """
    shown = value[: min(HINT_CHARS, len(value) // 4)].decode("ascii", "replace")
    return f"{shown}… ({len(value)} characters)"


def entropy(value: bytes) -> float:
    """Shannon entropy of a value's own characters, in bits a character."""
    total = len(value)
    return -sum(n / total * math.log2(n / total) for n in Counter(value).values()) if total else 0.0


def is_placeholder(value: bytes) -> bool:
    """Whether a value says itself that it is not real: words, one repeated character, a counted row."""
    if value in _PUBLISHED or len(set(value)) < 5 or _is_row(value):
        return True
    return _PLACEHOLDER.search(value) is not None


def looks_random(value: bytes) -> bool:
    """Whether a literal is more likely made by a machine than by a person naming something."""
    if not 12 <= len(value) <= VALUE_CHARS or is_placeholder(value) or _REFERENCE.search(value):
        return False
    if _WORDY.search(value) or _CODE.search(value) or _HASH.search(value):
        return False
    sorts = sum(bool(re.search(sort, value)) for sort in (rb"[a-z]", rb"[A-Z]", rb"[0-9]", rb"[^A-Za-z0-9]"))
    digits = len(re.findall(rb"[0-9]", value))
    wanted = 3.0 if len(value) < 20 else 3.5
    return sorts >= 2 and digits >= 2 and entropy(value) >= wanted and _changes(value) >= len(value) // 4


def _find_shapes(text: bytes) -> Iterator[Hit]:
    for shape in SHAPES:
        if shape.needle in text:
            for match in shape.pattern.finditer(text):
                if entropy(match[1]) >= shape.entropy and not is_placeholder(match[1]):
                    yield Hit(kind=shape.kind, value=match[1], at=match.start(1), token=True)
    if b"PRIVATE KEY" in text:
        yield from _find_keys(text)
    if b"eyJ" in text:
        yield from _find_jwts(text)
    if b"://" in text and b"@" in text:
        yield from _find_urls(text)


def _find_keys(text: bytes) -> Iterator[Hit]:
    for match in _KEY.finditer(text):
        if not is_placeholder(match[2][:40]) and entropy(match[2][:200]) > 3.5:
            sort = match[1].decode().strip()
            words = {"ENCRYPTED": "encrypted", "OPENSSH": "OpenSSH"}.get(sort, sort)
            yield Hit(kind=f"{words} private key".strip(), value=match[2], at=match.start(), token=False)


def _find_jwts(text: bytes) -> Iterator[Hit]:
    for match in _JWT.finditer(text):
        if _is_jwt_header(match[1].split(b".", 1)[0]):
            yield Hit(kind="JSON web token", value=match[1], at=match.start(1), token=False)


def _is_jwt_header(part: bytes) -> bool:
    try:
        header = json.loads(base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4)))
    except (ValueError, binascii.Error):
        return False
    return isinstance(header, dict) and "alg" in header


def _find_urls(text: bytes) -> Iterator[Hit]:
    for match in _URL.finditer(text):
        scheme = _SCHEME.search(text, max(0, match.start() - 21), match.start())
        password = unquote_to_bytes(match[2])
        if scheme and not _is_local(match[3].lower()) and not _is_weak(match[1], password):
            kind = f"password in an address ({scheme[0].decode().lower()})"
            yield Hit(kind=kind, value=password, at=match.start(2), token=False)


def _is_local(host: bytes) -> bool:
    """A host only this machine or a container knows, or one that cannot exist."""
    return (
        b"." not in host
        or host.startswith(b"127.")
        or host.endswith((b".local", b".test"))
        or b"example" in host
    )


def _is_weak(user: bytes, password: bytes) -> bool:
    """Documentation rather than a credential: a word, the user's name again, a variable."""
    if len(password) < 6 or password.lower() == user.lower() or password.isalpha():
        return True
    return is_placeholder(password) or _REFERENCE.search(password) is not None


def _find_assigned(text: bytes) -> Iterator[Hit]:
    done = 0
    for called in _CALLED.finditer(text.lower()):
        match = _ASSIGNED.match(text, called.end())
        if match is None or match.start() < done:
            continue
        done = match.end()
        before, after = (
            _BEFORE.search(text, max(0, called.start() - 40), called.start()),
            _AFTER.match(text, match.start()),
        )
        name = (
            (before[0] if before else b"")
            + text[called.start() : called.end()]
            + (after[0] if after else b"")
        )
        value = match[2] or match[3]
        if _NOT_SECRET_NAME.search(name) or not looks_random(value):
            continue
        if match[2] is None and not _stands_alone(
            text, called.start() - len(before[0] if before else b""), match.end()
        ):
            continue
        kind = f"value of {name.decode('ascii', 'replace').strip('-_.')}"
        yield Hit(kind=kind, value=value, at=match.start(2 if match[2] else 3), token=False)


def _stands_alone(text: bytes, begin: int, end: int) -> bool:
    """Whether an unquoted assignment is a whole line, as in .env and .ini: code would quote the value."""
    before = text[text.rfind(b"\n", 0, begin) + 1 : begin]
    stop = text.find(b"\n", end)
    after = text[end : stop if stop >= 0 else len(text)]
    return before.strip() in (b"", b"export", b"-", b"set") and not after.strip()


def _is_row(value: bytes) -> bool:
    """`abcdefgh…` or `12345678…`: most characters follow the one before."""
    steps = sum(b - a == 1 for a, b in pairwise(value))
    return len(value) > 4 and steps * 2 > len(value)


def _changes(value: bytes) -> int:
    """How often neighbours are of different sorts: words change seldom, random texts often."""
    sorts = [0 if 97 <= c <= 122 else 1 if 65 <= c <= 90 else 2 if 48 <= c <= 57 else 3 for c in value]
    return sum(a != b for a, b in pairwise(sorts))
