"""Secret scan: credentials in the tracked files as they are now, and in what recent commits added.

A secret is never printed or stored: a finding has its kind, its place, its first characters and its length.
One that is in the current files fails; one that only the history has is a warning; test data is a remark.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ai_infra.checkup.credentials import ALLOWED, Hit, find, hint
from ai_infra.checkup.findings import (
    Finding,
    PartResult,
    Severity,
    Verdict,
    bounded,
    found,
    plural,
    verdict_of,
)
from ai_infra.checkup.git import Repo
from ai_infra.checkup.languages import is_generated, is_test, is_vendored
from ai_infra.checkup.patches import Added, parse_patches
from ai_infra.checkup.tracked import Tracked, is_binary, list_tracked

MAX_COMMITS = 5000
HISTORY_S = 12.0
MAX_HITS = 500  #: of one file: a file with more is a list of something else

_SKIPPED = re.compile(
    r"(^|/)(package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|poetry\.lock|uv\.lock|Pipfile\.lock|Cargo\.lock"
    r"|composer\.lock|Gemfile\.lock|go\.sum|flake\.lock|bun\.lock|pubspec\.lock|mix\.lock|Package\.resolved)$"
    r"|\.(min\.js|map|svg|po|pot|ipynb|csv|tsv|patch|diff|snap|lock)$"
)
_DOCUMENT = re.compile(
    r"\.(md|mdx|rst|txt|adoc|html?|po)$|(^|/)(docs?|documentation|man|wiki)/|(^|/)CHANGE|\.(sample|example|dist|template|tmpl)$",
    re.IGNORECASE,
)
_CREDENTIAL_FILE = re.compile(
    r"(^|/)(\.env(\.(local|production|prod|staging|development))?|id_(rsa|dsa|ecdsa|ed25519)|\.npmrc|\.pypirc|\.netrc|\.htpasswd"
    r"|\.git-credentials|\.dockercfg|credentials\.json|service[-_]account[^/]*\.json|\.aws/credentials|\.kube/config"
    r"|kubeconfig)$|\.(p12|pfx|jks|keystore|kdbx|ppk|ovpn)$",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A hit and where it is; `commit` is None for the current files."""

    hit: Hit
    path: str
    line: int
    commit: str | None = None


@dataclass(kw_only=True)
class Scan:
    """What was looked at, and what was found."""

    current: list[Place] = field(default_factory=list)
    past: list[Place] = field(default_factory=list)
    credential_files: list[str] = field(default_factory=list)
    files: int = 0
    commits: int = 0
    allowed: int = 0  #: marked as harmless in the line itself
    cut: bool = False  #: older commits exist that were not looked at


def run(repo: Repo, out: Path, say: Any) -> PartResult:
    """The part `secrets`."""
    scan = Scan()
    scan_files(list_tracked(repo), scan)
    scan_history(repo, scan)
    return judge(scan)


def scan_files(tracked: Tracked, scan: Scan) -> None:
    """Look at every tracked text file."""
    for content in tracked.contents():
        path, data = content.entry.path, content.data
        if _is_credential_file(path, data):
            scan.credential_files.append(path)
        if data is None or is_binary(data):
            continue
        scan.files += 1
        for number, hit in enumerate(_find_in(path, data)):
            if number >= MAX_HITS:
                break
            if _is_allowed(data, hit.at):
                scan.allowed += 1
            else:
                line = data.count(b"\n", 0, hit.at) + 1
                scan.current.append(Place(hit=hit, path=path, line=line))


def scan_history(repo: Repo, scan: Scan, max_commits: int = MAX_COMMITS, read_s: float = HISTORY_S) -> None:
    """Look at the lines that the newest commits of HEAD added, newest first."""
    if repo.head is None:
        return
    total = int(repo.git("rev-list", "--count", repo.head))
    command = (
        "log", "-p", "-U0", "--no-ext-diff", "--no-textconv", "--no-renames", "--no-color",
        "--src-prefix=a/", "--dst-prefix=b/", "--format=%x01%H", f"--max-count={max_commits}", repo.head,
    )  # fmt: skip
    started, commits = time.monotonic(), set()
    for added in parse_patches(repo.stream(*command, timeout_s=read_s, separator=b"\n")):
        commits.add(added.commit)
        scan.past += _places(added)
    # Commits without added lines are not seen one by one; only the bound and the clock can have cut the pass.
    scan.commits = min(total, max_commits)
    if time.monotonic() - started >= read_s:
        scan.commits = len(commits)
    scan.cut = scan.commits < total


def judge(scan: Scan) -> PartResult:
    """Findings over what was found; the same secret counts once, where it matters most."""
    now = _once(scan.current)
    known = {place.hit.value for place in scan.current}
    past = _once([place for place in scan.past if place.hit.value not in known])
    findings = [_current(place) for place in now] + [_past(place) for place in past]
    findings += [_file(path) for path in scan.credential_files]
    if scan.cut:
        findings.append(
            found("scan-bounded", f"history: only the newest {plural(scan.commits, 'commit')} were scanned")
        )
    kept, counts = bounded(findings)
    return PartResult(
        part="secrets",
        verdict=verdict_of(findings) if scan.files or scan.commits else Verdict.UNKNOWN,
        summary=_summary(scan, findings),
        findings=kept,
        data={
            "files": scan.files,
            "commits": scan.commits,
            "history_cut": scan.cut,
            "marked_harmless": scan.allowed,
            "counts": counts,
        },
    )


def _find_in(path: str, data: bytes) -> Iterator[Hit]:
    """Hits in one text; values without a shape are judged only where people write settings and code."""
    if _SKIPPED.search(path):
        return
    quiet = (
        is_test(path) or is_vendored(path) or _DOCUMENT.search(path) is not None or is_generated(path, data)
    )
    yield from find(data, names=not quiet)


def _places(added: Added) -> list[Place]:
    hits = _find_in(added.path, added.text)
    return [
        Place(hit=hit, path=added.path, line=added.line_of(hit.at), commit=added.commit)
        for number, hit in enumerate(hits)
        if number < MAX_HITS and not _is_allowed(added.text, hit.at)
    ]


def _is_allowed(data: bytes, at: int) -> bool:
    start, end = data.rfind(b"\n", 0, at) + 1, data.find(b"\n", at)
    return ALLOWED.search(data, start, end if end >= 0 else len(data)) is not None


def _is_credential_file(path: str, data: bytes | None) -> bool:
    if _CREDENTIAL_FILE.search(path) is None or is_test(path) or not data:
        return False
    if path.endswith(".npmrc"):
        return b"_auth" in data
    if path.rpartition("/")[2].lower().startswith(".env"):
        return re.search(rb"(?im)^[^#\n]*(secret|token|passw|key)[^=\n]*=[^\s$]{6,}", data) is not None
    return True


def _once(places: list[Place]) -> list[Place]:
    """One place for each secret: the first in the files, the newest in the history."""
    first: dict[bytes, Place] = {}
    for place in places:
        first.setdefault(place.hit.value, place)
    return list(first.values())


def _current(place: Place) -> Finding:
    return _found("secret", place, _words(place.hit))


def _past(place: Place) -> Finding:
    where = f"added in {(place.commit or '')[:10]}, no longer in the files"
    return _found("secret-in-history", place, f"{_words(place.hit)}, {where}")


def _found(kind: str, place: Place, words: str) -> Finding:
    """A finding.

    In tests and documents keys and passwords are usually made up, tokens of a service less so.
    """
    if not _is_harmless(place.path):
        return found(kind, words, place.path, place.line)
    severity = Severity.WARN if place.hit.token else Severity.INFO
    return found("secret-in-test", words, place.path, place.line, severity)


def _words(hit: Hit) -> str:
    """The kind, and the little of the value that helps to find it; of a private key nothing."""
    return hit.kind if hit.kind.endswith("private key") else f"{hit.kind}: {hint(hit.value)}"


def _is_harmless(path: str) -> bool:
    return is_test(path) or is_vendored(path) or _DOCUMENT.search(path) is not None


def _file(path: str) -> Finding:
    return found("credential-file", "is tracked, and files of this name usually hold credentials", path)


def _summary(scan: Scan, findings: list[Finding]) -> str:
    looked = f"{plural(scan.files, 'file')} and {plural(scan.commits, 'commit')} scanned"
    counts = {
        "in the files": sum(f.kind == "secret" for f in findings),
        "in the history only": sum(f.kind == "secret-in-history" for f in findings),
        "in tests and examples": sum(f.kind == "secret-in-test" for f in findings),
    }
    said = [f"{count} {where}" for where, count in counts.items() if count]
    if not scan.files and not scan.commits:
        return "no tracked files and no commits, so nothing to scan"
    severe = any(f.severity != Severity.INFO for f in findings)
    return f"{looked}: {', '.join(said) or ('see below' if severe else 'no credentials found')}"
