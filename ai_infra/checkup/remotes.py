"""Remotes: where a repository is pushed to, and whether its configuration carries credentials.

A credential is never returned, printed or stored: only that there is one, where, and for which host.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import urlsplit

from ai_infra.checkup.findings import Finding, found, shown
from ai_infra.checkup.git import Repo

_SCP = re.compile(r"(?:[^@/\\]+@)?(\[[0-9a-fA-F:.]+\]|[^:/\\@]{2,}):(?!//)")
_TOKEN_USER = re.compile(
    r"^(gh[pousr]_|github_pat_|glpat-|gldt-|glcbt-|x-token-auth$|oauth2:)|^[0-9a-f]{40}$|^[A-Za-z0-9_-]{36,}$"
)
_LOGIN_USERS = {"git", "x-access-token", "oauth2"}


@dataclass(frozen=True, kw_only=True)
class Remote:
    """One address in the configuration, without its secrets."""

    key: str  #: `remote.origin.url`
    host: str  #: a host name, or `a local path`
    scheme: str
    credential: bool  #: the address holds a password or token


def read_settings(repo: Repo) -> list[tuple[str, str]]:
    """(key, value) of the repository's own settings that can hold an address or an authorization."""
    pattern = r"^(remote\..*\.(push)?url|url\..*\.(push)?insteadof|http\.(.*\.)?extraheader|credential\..*)$"
    raw = repo.git("config", "--local", "-z", "--get-regexp", pattern, ok=(0, 1))
    pairs = (os.fsdecode(record).partition("\n") for record in raw.split(b"\0") if record)
    return [(key, value) for key, _, value in pairs]


def parse_remotes(settings: Iterable[tuple[str, str]]) -> list[Remote]:
    """The addresses among the settings."""
    remotes = []
    for key, value in settings:
        if key.startswith("remote."):
            remotes.append(_remote(key, value))
        elif key.startswith("url."):
            address, _, last = key.removeprefix("url.").rpartition(".")
            remotes.append(_remote(f"url.…{'.' + last}", address))
    return remotes


def name_of(remote: Remote) -> str:
    """`origin` for `remote.origin.url`."""
    return shown(remote.key.removeprefix("remote.").rpartition(".")[0])


def judge_settings(settings: Iterable[tuple[str, str]]) -> list[Finding]:
    """A finding for every credential in the configuration; the credential itself is not in it."""
    pairs = list(settings)
    findings = [
        found(
            "remote-credential",
            f"{shown(remote.key)} holds a credential in its address (host {remote.host})",
            ".git/config",
        )
        for remote in parse_remotes(pairs)
        if remote.credential
    ]
    for key, value in pairs:
        if key.lower().endswith("extraheader") and re.match(
            r"\s*(proxy-)?authorization\s*:", value, re.IGNORECASE
        ):
            findings.append(
                found("remote-credential", "http.extraHeader holds an authorization", ".git/config")
            )
    return findings


def _remote(key: str, address: str) -> Remote:
    if "://" not in address:
        match = _SCP.match(address)
        host = match[1] if match else "a local path"
        return Remote(key=key, host=shown(host), scheme="ssh" if match else "file", credential=False)
    try:
        parts = urlsplit(address)
        host, user, password = parts.hostname or "a local path", parts.username or "", parts.password or ""
    except ValueError:  # a bad port or bracket: say nothing of the text, it may hold the secret
        return Remote(key=key, host="an unreadable address", scheme="?", credential="@" in address)
    web = parts.scheme in ("http", "https", "ftp", "ftps")
    credential = bool(password) or (web and user not in _LOGIN_USERS and _TOKEN_USER.search(user) is not None)
    return Remote(key=key, host=shown(host), scheme=parts.scheme, credential=credential)
