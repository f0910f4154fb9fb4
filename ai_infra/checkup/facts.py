"""Facts: what the inventory asks git, and reads from every tracked file once. No judgement here."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ai_infra.checkup import history, licences, remotes
from ai_infra.checkup.findings import shown
from ai_infra.checkup.git import GitFailed, Repo
from ai_infra.checkup.languages import Sort, count_lines, is_vendored, language_of
from ai_infra.checkup.tracked import LINK, MODULE, Tracked, is_binary, list_tracked

LARGEST = 10
_METADATA = ("pyproject.toml", "setup.cfg", "setup.py", "package.json", "composer.json", "Cargo.toml")


@dataclass(frozen=True, kw_only=True)
class Languages:
    """One row of the language table; vendored files are counted in a row of their own."""

    language: str
    sort: str
    files: int
    lines: int
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Files:
    """What the tracked files say."""

    languages: tuple[Languages, ...]
    files: int
    links: int
    modules: tuple[str, ...]
    known_modules: bool  #: there is a .gitmodules
    size_bytes: int
    binary: int
    vendored: int
    missing: int
    largest: tuple[tuple[str, int], ...]
    licence_files: tuple[tuple[str, str | None], ...]  #: file, SPDX name
    metadata: dict[str, str]  #: file → licence it names
    readme: bool


@dataclass(frozen=True, kw_only=True)
class Status:
    """What `git status` says; None where a bare repository has no answer."""

    staged: int
    modified: int
    untracked: int
    unmerged: tuple[str, ...]
    ahead: int
    behind: int


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Everything judge() needs."""

    bare: bool
    shallow: bool
    branch: str | None
    head: str | None
    default_branch: str | None
    branches: int
    remote_branches: int
    tags: int
    git_bytes: int
    history: history.History
    files: Files
    status: Status | None
    settings: tuple[tuple[str, str], ...]  #: may hold secrets: judge() says where, nothing stores them


def gather(repo: Repo, now_s: float) -> Facts:
    """Ask git and read every tracked file once."""
    refs = repo.git("for-each-ref", "--format=%(refname)").decode("utf-8", "replace").splitlines()
    return Facts(
        bare=repo.bare,
        shallow=repo.shallow,
        branch=repo.branch,
        head=repo.head,
        default_branch=_default_branch(repo, refs),
        branches=sum(ref.startswith("refs/heads/") for ref in refs),
        remote_branches=sum(ref.startswith("refs/remotes/") and not ref.endswith("/HEAD") for ref in refs),
        tags=sum(ref.startswith("refs/tags/") for ref in refs),
        git_bytes=_git_bytes(repo),
        history=history.summarize(history.read_commits(repo), now_s),
        files=read_files(list_tracked(repo)),
        status=None if repo.bare else _status(repo),
        settings=tuple(remotes.read_settings(repo)),
    )


def read_files(tracked: Tracked) -> Files:
    """Count every tracked file by language, and look at the few that say something about the whole."""
    rows: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
    sizes: list[tuple[str, int]] = []
    texts: dict[str, bytes] = {}
    binary = vendored = missing = total = 0
    for content in tracked.contents():
        path, data, size = content.entry.path, content.data, content.size_bytes
        if size is None:
            missing += 1
            continue
        total += size
        sizes.append((content.shown, size))
        if data is not None and (licences.is_licence_file(path) or path in _METADATA):
            texts[path] = data
        if is_vendored(path):
            vendored += 1
        elif data is not None and is_binary(data):
            binary += 1
        else:
            _add(rows, path, data, size)
    return Files(
        languages=_sorted_languages(rows),
        files=len(sizes) + missing,
        links=sum(entry.mode == LINK for entry in tracked.entries),
        modules=tuple(shown(entry.path) for entry in tracked.entries if entry.mode == MODULE),
        known_modules=any(entry.path == ".gitmodules" for entry in tracked.entries),
        size_bytes=total,
        binary=binary,
        vendored=vendored,
        missing=missing,
        largest=tuple(sorted(sizes, key=lambda row: -row[1])[:LARGEST]),
        licence_files=tuple(
            (shown(path), licences.licence_of(data.decode("utf-8", "replace")))
            for path, data in texts.items()
            if licences.is_licence_file(path)
        ),
        metadata=licences.metadata_licence({name: texts[name] for name in _METADATA if name in texts}),
        readme=any(
            e.path.lower().startswith("readme") or e.path.lower() in _READMES for e in tracked.entries
        ),
    )


_READMES = {"docs/readme.md", ".github/readme.md", "doc/readme.md"}


def _add(rows: dict[tuple[str, str], list[int]], path: str, data: bytes | None, size: int) -> None:
    language = language_of(path, data)
    key = (language.name, str(language.sort)) if language else ("other", str(Sort.DATA))
    row = rows[key]
    row[0] += 1
    row[1] += count_lines(data, None).lines if data else 0
    row[2] += size


def _sorted_languages(rows: dict[tuple[str, str], list[int]]) -> tuple[Languages, ...]:
    table = [
        Languages(language=name, sort=sort, files=row[0], lines=row[1], size_bytes=row[2])
        for (name, sort), row in rows.items()
    ]
    return tuple(sorted(table, key=lambda row: (row.sort != Sort.CODE, -row.lines, row.language)))


def _default_branch(repo: Repo, refs: Sequence[str]) -> str | None:
    raw = repo.git("symbolic-ref", "--quiet", "--short", "refs/remotes/origin/HEAD", ok=(0, 1, 128))
    if name := os.fsdecode(raw).strip():
        return name.removeprefix("origin/")
    known = [name for name in ("main", "master", "trunk", "develop") if f"refs/heads/{name}" in refs]
    return repo.branch if repo.bare or not known else known[0]


def _git_bytes(repo: Repo) -> int:
    """What the objects take on disk."""
    try:
        rows = repo.git("count-objects", "-v").decode("utf-8", "replace").splitlines()
    except GitFailed:
        return 0
    pairs = dict(row.split(": ", 1) for row in rows if ": " in row)
    return sum(int(pairs.get(key, "0")) for key in ("size", "size-pack", "size-garbage")) * 1024


def _status(repo: Repo) -> Status:
    raw = repo.git(
        "status", "--porcelain=v2", "--branch", "-z", "--untracked-files=normal", "--ignore-submodules=all"
    )
    staged = modified = untracked = ahead = behind = 0
    unmerged: list[str] = []
    records = iter(raw.split(b"\0"))
    for record in records:
        kind = record[:1]
        if kind in (b"1", b"2"):
            staged += record[2:3] != b"."
            modified += record[3:4] != b"."
            if kind == b"2":
                next(records, None)  # the name before the renaming
        elif kind == b"u":
            unmerged.append(shown(os.fsdecode(record.split(b" ", 10)[-1])))
        elif kind == b"?":
            untracked += 1
        elif record.startswith(b"# branch.ab "):
            ahead, behind = (abs(int(word)) for word in record.split()[2:4])
    return Status(
        staged=staged,
        modified=modified,
        untracked=untracked,
        unmerged=tuple(unmerged),
        ahead=ahead,
        behind=behind,
    )
