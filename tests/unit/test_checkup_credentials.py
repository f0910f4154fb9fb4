"""Credentials: found by shape and by name, never shown; made-up values are left alone.

Every secret-shaped value is put together at run time, so that this file holds none.
"""

from __future__ import annotations

import base64
import json
import random
import string

import pytest

from ai_infra.checkup.credentials import entropy, find, hint, is_placeholder, looks_random
from ai_infra.checkup.languages import is_test
from ai_infra.checkup.secret_scan import Scan, _is_credential_file, judge

CHANCE = random.Random(7)
LETTERS = string.ascii_letters + string.digits


def chance(length: int, alphabet: str = LETTERS) -> str:
    return "".join(CHANCE.choice(alphabet) for _ in range(length))


def jwt() -> str:
    parts = [json.dumps({"alg": "HS256", "typ": "JWT"}), json.dumps({"sub": chance(12)})]
    encoded = [base64.urlsafe_b64encode(part.encode()).decode().rstrip("=") for part in parts]
    return ".".join([*encoded, chance(43)])


def key_block(kind: str = "RSA ") -> str:
    body = "\n".join(chance(64) for _ in range(4))
    return f"-----BEGIN {kind}PRIVATE " + f"KEY-----\n{body}\n-----END {kind}PRIVATE KEY-----\n"


UPPER = string.ascii_uppercase + "234567"
TOKENS = {
    "AWS access key id": "AK" + "IA" + chance(16, UPPER),
    "GitHub token": "gh" + "p_" + chance(36),
    "GitHub fine-grained token": "github_" + "pat_" + chance(22) + "_" + chance(59),
    "GitLab token": "gl" + "pat-" + chance(20),
    "Slack token": "xo" + "xb-" + chance(12, "123456789") + "-" + chance(12, "123456789") + "-" + chance(24),
    "Slack webhook": "hooks.slack.com/" + f"services/T{chance(9, UPPER)}/B{chance(9, UPPER)}/{chance(24)}",
    "Stripe live key": "sk_" + "live_" + chance(24),
    "Anthropic API key": "sk-" + "ant-api03-" + chance(93) + "AA",
    "OpenAI API key": "sk-" + "proj-" + chance(40) + "T3Blbk" + "FJ" + chance(40),
    "Google API key": "AI" + "za" + chance(35),
    "npm token": "np" + "m_" + chance(36),
    "PyPI token": "py" + "pi-AgE" + chance(80),
    "Hugging Face token": "h" + "f_" + chance(34),
    "DigitalOcean token": "do" + "p_v1_" + chance(64, "0123456789abcdef"),
    "Telegram bot token": chance(9, "123456789") + ":A" + "A" + chance(33),
    "JSON web token": jwt(),
}  # fmt: skip


@pytest.mark.parametrize("kind", TOKENS)
def test_a_token_is_known_by_its_shape_wherever_it_stands(kind: str) -> None:
    for text in (f"x = '{TOKENS[kind]}'\n", TOKENS[kind], f"- curl -H 'A: {TOKENS[kind]}' \\\n"):
        (hit,) = find(text.encode(), names=False)
        assert hit.kind == kind
        assert text.encode()[hit.at :].startswith(hit.value)


@pytest.mark.parametrize("kind", ["RSA ", "EC ", "", "OPENSSH ", "ENCRYPTED "])
def test_a_private_key_is_known_on_several_lines_and_inside_a_string(kind: str) -> None:
    block = key_block(kind)
    for text in (block, json.dumps({"private_key": block}), 'k = """\n' + block + '"""'):
        (hit,) = find(text.encode(), names=False)
        assert hit.kind.endswith("private key")


def test_the_words_of_a_key_block_without_a_key_are_nothing() -> None:
    text = (
        'if "-----BEGIN RSA PRIVATE '
        + 'KEY-----" in text:\n    raise Refused("-----END RSA PRIVATE KEY-----")\n'
    )
    assert list(find(text.encode(), names=True)) == []


def test_a_password_in_an_address() -> None:
    password = chance(14)
    (hit,) = find(f"url = postgresql://app:{password}@db.acme.io:5432/x".encode(), names=True)
    assert (hit.kind, hit.value) == ("password in an address (postgresql)", password.encode())


@pytest.mark.parametrize(
    "address",
    [
        "postgres://user:password@db.acme.io/x",
        "postgres://app:" + "s3cret9x" + "@localhost/x",
        "redis://default:" + "k8Jq2mZ4" + "@redis:6379",
        "https://user:${PASSWORD}@acme.io",
        "https://user:{password}@acme.io",
        "https://user:{TOKEN9x}@acme.io",
        "https://user:%s@acme.io",
        "https://me:me@acme.io",
        "https://me:" + "x7Kq93mZ" + "@example.com",
        "https://host.acme.io:8080/path@v2",
        "see http://a.io: b@c.io",
    ],
)
def test_an_address_that_gives_nothing_away(address: str) -> None:
    assert list(find(address.encode(), names=True)) == []


@pytest.mark.parametrize(
    "line",
    [
        "API_TOKEN={}",
        "export DB_PASSWORD={}",
        'client_secret = "{}"',
        "'apiKey': '{}',",
        "authToken: `{}`",
        "  secret: {}",
        'password := "{}"',
        '"accessKey": "{}"',
    ],
)
def test_a_value_that_is_called_a_secret_and_looks_random(line: str) -> None:
    value = "q7W" + chance(12) + "9zX4"
    hits = list(find((line.format(value) + "\n").encode(), names=True))
    assert [hit.value for hit in hits] == [value.encode()]
    assert list(find(line.format(value).encode(), names=False)) == []


@pytest.mark.parametrize(
    "line",
    [
        'password = "correct horse battery"',
        'password = "changeme1234567"',
        'API_KEY = "your-api-key-here-1234"',
        'token = "xxxxxxxxxxxxxxxxxxxx"',
        'secret = os.environ["APP_SECRET_2024_PROD"]',
        "secret = config.get_secret_value_v2_now()",
        'PASSWORD_FIELD = "user_password_confirmation_2"',
        'secret_name = "prod/db/Credential9Store2x"',
        'TOKEN_URL = "https://acme.io/oauth2/v1/token99"',
        "token: ${{ secrets.DEPLOY_TOKEN_2024 }}",
        "password: '{{ vault_db_password_9x }}'",
        'tokenizer = "cl100k_base_9X2k1LmQ"',
        'key_id = "9f8e7d6c5b4a39281706"',
        'csrf_token = "' + "q7Wm2Zx9Kp4Lt8" + '"',
        'password_hash = "$2b$12$' + "q7Wm2Zx9Kp4Lt8Rv3Nc6" + '"',
        'token = "AbcDefGhiJklMnoPqr"',
        'secret = "' + "0123456789abcdef" * 2 + '"',
        'passwordPlaceholder = "Enter4Your9Password1x"',
        "if token == other_token_value_2024_x:",
        'public_key = "' + "q7Wm2Zx9Kp4Lt8Rv3Nc6Yd1S" + '"',
        'oauth_token="ad180jjd733klru7"',
    ],
)
def test_a_value_that_only_looks_like_a_secret(line: str) -> None:
    assert list(find((line + "\n").encode(), names=True)) == []


def test_an_unquoted_value_in_code_is_not_a_literal() -> None:
    assert list(find(b"x = f(token=" + b"q7Wm2Zx9Kp4Lt8Rv3Nc6" + b", y)\n", names=True)) == []


def test_made_up_tokens_are_left_alone() -> None:
    for made_up in (
        "AK" + "IAIOSFODNN7EXAMPLE",
        "gh" + "p_" + "x" * 36,
        "sk_" + "live_" + "abcdefghijklmnopqrstuvwx",
    ):
        assert list(find(made_up.encode(), names=True)) == []


def test_a_hint_shows_four_characters_and_never_more_than_a_quarter() -> None:
    assert hint(b"abcdefghijklmnopqrst") == "abcd… (20 characters)"
    assert hint(b"abcdefgh") == "ab… (8 characters)"
    assert hint(b"abc") == "… (3 characters)"


def test_a_hit_does_not_show_its_value() -> None:
    (hit,) = find(TOKENS["GitHub token"].encode(), names=False)
    assert TOKENS["GitHub token"] not in repr(hit)


def test_entropy_and_placeholders() -> None:
    assert entropy(b"") == 0
    assert entropy(b"aaaa") == 0
    assert entropy(b"abcd") == 2
    assert is_placeholder(b"my-secret-token")
    assert is_placeholder(b"aaaabbbb")
    assert not looks_random(b"shortA1")
    assert looks_random(b"q7Wm2Zx9Kp4Lt8Rv3Nc6")


@pytest.mark.parametrize(
    ("path", "data", "expected"),
    [
        (".env", b"API_TOKEN=abcdef123\n", True),
        (".env", b"# PASSWORD=\nDEBUG=1\n", False),
        (".env.example", b"API_TOKEN=abcdef123\n", False),
        ("deploy/id_rsa", b"x", True),
        ("deploy/id_rsa.pub", b"x", False),
        (".npmrc", b"save-exact=true\n", False),
        (".npmrc", b"//registry/:_authToken=x\n", True),
        ("certs/server.p12", b"x", True),
        ("tests/certs/server.p12", b"x", False),
        ("server.p12", b"", False),
    ],
)
def test_files_that_hold_credentials_by_their_name(path: str, data: bytes, expected: bool) -> None:
    assert _is_credential_file(path, data) is expected


def test_nothing_scanned_is_unknown_and_clean_is_ok() -> None:
    assert judge(Scan()).verdict == "unknown"
    clean = judge(Scan(files=3, commits=2))
    assert (clean.verdict, clean.summary) == ("ok", "3 files and 2 commits scanned: no credentials found")


def test_this_file_is_a_test() -> None:
    assert is_test("tests/unit/test_checkup_credentials.py")
