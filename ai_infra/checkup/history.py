"""History: who committed when, and how much of the project is in how few heads.

Pure, except read_commits().
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from ai_infra.checkup.git import Repo

MAX_COMMITS = 200_000
READ_S = 30.0
ACTIVE_DAYS = 90
RECENT_DAYS = 2 * 365  #: the bus factor looks at these, when they hold enough commits
ENOUGH_COMMITS = 50
DAY_S = 86_400

_BOT = re.compile(
    r"\[bot\]|^(dependabot|renovate|github-actions|greenkeeper|snyk|pre-commit|weblate|web-flow|pyup)"
    r"|[-_ ]bot$|^bot[-_ ]",
    re.IGNORECASE,
)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """What is kept of a commit; the author is the one .mailmap says."""

    author: str
    at_s: int  #: commit time, seconds since 1970


@dataclass(frozen=True, kw_only=True)
class History:
    """A summary of some commits."""

    commits: int
    first_at: str | None  #: ISO date
    last_at: str | None
    idle_days: int | None
    active_commits: int  #: in the last ACTIVE_DAYS
    active_authors: int
    authors: int
    bots: int
    top: tuple[tuple[str, int], ...]  #: author, commits
    bus_factor: int  #: fewest people who together made more than half of the commits; 0 without any
    bus_window: str  #: which commits the bus factor looks at


def read_commits(repo: Repo) -> list[Commit]:
    """Every commit of HEAD, newest first, bounded by MAX_COMMITS and READ_S."""
    if repo.head is None:
        return []
    wanted = (
        "log",
        "-z",
        "--use-mailmap",
        "--format=%aN%x1f%aE%x1f%ct",
        f"--max-count={MAX_COMMITS}",
        repo.head,
    )
    return [commit for record in repo.stream(*wanted, timeout_s=READ_S) if (commit := parse_commit(record))]


def parse_commit(record: bytes) -> Commit | None:
    """One record of read_commits(); None for something else."""
    fields = record.decode("utf-8", "replace").strip("\n").split("\x1f")
    if len(fields) != 3 or not fields[2].lstrip("-").isdigit():
        return None
    return Commit(author=fields[0].strip() or fields[1], at_s=int(fields[2]))


def summarize(commits: Sequence[Commit], now_s: float) -> History:
    """Count; people with one name and several addresses are one person, bots are nobody."""
    people = [commit for commit in commits if not _BOT.search(commit.author)]
    active = [commit for commit in commits if commit.at_s > now_s - ACTIVE_DAYS * DAY_S]
    recent = [commit for commit in people if commit.at_s > now_s - RECENT_DAYS * DAY_S]
    window, words = (recent, "last 2 years") if len(recent) >= ENOUGH_COMMITS else (people, "whole history")
    first, last = min((c.at_s for c in commits), default=None), max((c.at_s for c in commits), default=None)
    return History(
        commits=len(commits),
        first_at=None if first is None else _date(first),
        last_at=None if last is None else _date(last),
        idle_days=None if last is None else max(0, int((now_s - last) // DAY_S)),
        active_commits=len(active),
        active_authors=len({commit.author.casefold() for commit in active}),
        authors=len(_by_author(people)),
        bots=len(_by_author(commits)) - len(_by_author(people)),
        top=tuple(_by_author(commits)[:10]),
        bus_factor=bus_factor([count for _, count in _by_author(window)]),
        bus_window=words,
    )


def bus_factor(counts: Sequence[int]) -> int:
    """How few authors made more than half of the commits."""
    total, reached = sum(counts), 0
    for number, count in enumerate(sorted(counts, reverse=True), 1):
        reached += count
        if 2 * reached > total:
            return number
    return 0


def _by_author(commits: Sequence[Commit]) -> list[tuple[str, int]]:
    counts = Counter(commit.author.casefold() for commit in commits)
    names = {commit.author.casefold(): commit.author for commit in reversed(commits)}
    return [(names[key], count) for key, count in counts.most_common()]


def _date(at_s: int) -> str:
    try:
        return datetime.fromtimestamp(at_s, UTC).date().isoformat()
    except (ValueError, OverflowError, OSError):
        return "unknown"
