"""Remotes: hosts are said, credentials never."""

from __future__ import annotations

import pytest

from ai_infra.checkup.remotes import judge_settings, parse_remotes

TOKEN = "gh" + "p_" + "Qx7Lm2Zt9" * 4  # put together here, so that no file holds one


@pytest.mark.parametrize(
    ("address", "host", "credential"),
    [
        ("https://example.org/a.git", "example.org", False),
        ("git@example.org:a/b.git", "example.org", False),
        ("ssh://git@example.org:22/a", "example.org", False),
        ("ssh://git:pw@example.org/a", "example.org", True),
        ("https://user@example.org/a", "example.org", False),
        ("https://user:word@example.org/a", "example.org", True),
        (f"https://{TOKEN}@example.org/a", "example.org", True),
        ("/srv/git/a.git", "a local path", False),
        ("C:/src/a", "a local path", False),
        ("file:///srv/a", "a local path", False),
        ("https://user:pw@[bad/a", "an unreadable address", True),
    ],
)
def test_an_address_has_a_host_and_maybe_a_credential(address: str, host: str, credential: bool) -> None:
    (remote,) = parse_remotes([("remote.origin.url", address)])
    assert (remote.host, remote.credential) == (host, credential)
    assert "word" not in repr(remote)
    assert TOKEN not in repr(remote)


def test_a_credential_is_a_failure_that_does_not_show_it() -> None:
    settings = [
        ("remote.origin.url", "https://me:s3cretword@example.org/a"),
        ("url.https://me:s3cretword@example.org/.insteadof", "gh:"),
        ("http.https://example.org/.extraheader", "Authorization: Basic czNjcmV0d29yZA=="),
        ("remote.clean.url", "https://example.org/a"),
    ]
    findings = judge_settings(settings)
    assert [finding.severity for finding in findings] == ["fail"] * 3
    assert not any("s3cretword" in finding.message or "czNjc" in finding.message for finding in findings)
    assert "origin" in findings[0].message
