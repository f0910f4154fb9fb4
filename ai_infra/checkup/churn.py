"""Churn: how often, by how many, and when last each path was changed, from one pass over `git log`.

Newest commits come first, so a pass that must be cut still tells the truth about the recent past. A file
that was renamed without a change keeps its history; one that was renamed and edited in the same commit
begins anew there.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

from ai_infra.checkup.git import Repo

MAX_COMMITS = 100_000
READ_S = 12.0
_HEADER = b"\x01"


@dataclass(kw_only=True)
class Change:
    """What happened to one path."""

    commits: int = 0
    last_s: int = 0
    authors: set[str] = field(default_factory=set)


@dataclass(frozen=True, kw_only=True)
class Churn:
    """The outcome of one pass."""

    changes: dict[str, Change]
    commits: int
    oldest_s: int | None
    cut: bool  #: older commits exist that were not read
    shallow: bool = False  #: they are not in this clone


def read_churn(repo: Repo, max_commits: int = MAX_COMMITS, read_s: float = READ_S) -> Churn:
    """Read the history of HEAD, bounded by a number of commits and by time; merges are left out."""
    if repo.head is None:
        return Churn(changes={}, commits=0, oldest_s=None, cut=False)
    # At the edge of a shallow clone every file looks new, so that commit says nothing about changes.
    edge = ["--not", *_shallow_edge(repo)] if repo.shallow else []
    total = int(repo.git("rev-list", "--count", "--no-merges", repo.head, *edge))
    command = (
        "log", "-z", "--no-merges", "--use-mailmap", "--name-status", "-M100%", "--no-ext-diff",
        "--format=%x01%ct%x1f%aN", f"--max-count={max_commits}", repo.head, *edge,
    )  # fmt: skip
    churn = parse_churn(repo.stream(*command, timeout_s=read_s), total)
    return replace(churn, cut=True, shallow=True) if repo.shallow else churn


def parse_churn(records: Iterable[bytes], total: int) -> Churn:
    """Count over the records of `git log -z --name-status`; `total` commits exist."""
    changes: dict[str, Change] = defaultdict(Change)
    renamed: dict[bytes, bytes] = {}  # a name in the past → its name now
    commits, at_s, author = 0, 0, ""
    words = iter(records)
    for word in words:
        word = word.lstrip(b"\n")
        if word.startswith(_HEADER):
            at_s, author = _header(word)
            commits += 1
        elif word:
            for path in _paths(word, words, renamed):
                change = changes[os.fsdecode(path)]
                change.commits += 1
                change.last_s = max(change.last_s, at_s)
                change.authors.add(author)
    return Churn(
        changes=dict(changes), commits=commits, oldest_s=at_s if commits else None, cut=commits < total
    )


def _shallow_edge(repo: Repo) -> list[str]:
    try:
        return (repo.common_dir / "shallow").read_text("ascii").split()
    except OSError:
        return []


def _header(word: bytes) -> tuple[int, str]:
    seconds, _, author = word[1:].partition(b"\x1f")
    return int(seconds), author.decode("utf-8", "replace").casefold()


def _paths(status: bytes, words: Iterator[bytes], renamed: dict[bytes, bytes]) -> list[bytes]:
    """The path a status word is about, as it is called today; a renaming is remembered."""
    path = next(words, b"")
    if status[:1] in (b"R", b"C"):
        old, path = path, next(words, b"")
        if status[:1] == b"R" and path:
            renamed[old] = renamed.get(path, path)
    return [renamed.get(path, path)] if path else []
