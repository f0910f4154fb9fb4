"""Tracked files: what git has in the index (or in HEAD, for a bare repository), and their content.

Content comes from the working tree, since that is what the person works on; a bare repository has none,
there it comes from the objects. No symbolic link is followed, nothing but regular files is opened.
"""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from ai_infra.checkup.findings import shown
from ai_infra.checkup.git import GitFailed, Repo

READ_BYTES = 5_000_000  #: a larger file is measured by size only

FILE, EXECUTABLE, LINK, MODULE = 0o100644, 0o100755, 0o120000, 0o160000


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One name in the index; `mode` is git's, not the disk's."""

    path: str  #: relative, as os.fsdecode gives it
    mode: int
    blob: str

    @property
    def is_file(self) -> bool:
        """A regular file, executable or not."""
        return self.mode in (FILE, EXECUTABLE)

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What an entry holds now."""

    entry: Entry
    size_bytes: int | None  #: None: not there
    data: bytes | None  #: None: not there, not a regular file, not readable, or over READ_BYTES

    @property
    def shown(self) -> str:
        """The path for people."""
        return shown(self.entry.path)


@dataclass(frozen=True, kw_only=True)
class Tracked:
    """The tracked names of a repository."""

    repo: Repo
    entries: tuple[Entry, ...]
    unmerged: tuple[str, ...]  #: paths in the middle of a merge

    def contents(self) -> Iterator[Content]:
        """Every regular file with its content, in the order of the index; one in memory at a time."""
        files = [entry for entry in self.entries if entry.is_file]
        if not self.repo.bare:
            guard = _Folders(self.repo.top)
            yield from (_from_disk(entry, guard) for entry in files)
            return
        with _objects(self.repo) as fetch:
            yield from (_from_object(entry, fetch(entry.blob)) for entry in files)

    def link_targets(self) -> dict[str, str]:
        """path → target of every tracked symbolic link that is there."""
        links = [entry for entry in self.entries if entry.mode == LINK]
        if not self.repo.bare:
            return {e.path: t for e in links if (t := _readlink(self.repo.top / e.path)) is not None}
        with _objects(self.repo) as fetch:
            return {e.path: os.fsdecode(fetch(e.blob)[1] or b"") for e in links}


def list_tracked(repo: Repo) -> Tracked:
    """The index of a working tree, or the tree of a bare repository's HEAD. Empty before the first commit."""
    if repo.bare:
        raw = repo.git("ls-tree", "-r", "-z", "--full-tree", "HEAD") if repo.head else b""
        rows = [_tree_row(record) for record in raw.split(b"\0") if record]
        return Tracked(repo=repo, entries=tuple(rows), unmerged=())
    entries: dict[str, Entry] = {}
    unmerged: dict[str, None] = {}
    for record in repo.git("ls-files", "--stage", "-z").split(b"\0"):
        if record:
            entry, stage = _index_row(record)
            entries[entry.path] = entry
            if stage:
                unmerged[entry.path] = None
    return Tracked(repo=repo, entries=tuple(entries.values()), unmerged=tuple(unmerged))


def is_binary(data: bytes) -> bool:
    """Git's own test: a NUL byte near the start. UTF-16 text counts as binary here as it does there."""
    return b"\0" in data[:8000]


def _index_row(record: bytes) -> tuple[Entry, int]:
    meta, _, path = record.partition(b"\t")
    mode, blob, stage = meta.split()
    return Entry(path=os.fsdecode(path), mode=int(mode, 8), blob=blob.decode()), int(stage)


def _tree_row(record: bytes) -> Entry:
    meta, _, path = record.partition(b"\t")
    mode, _kind, blob = meta.split()
    return Entry(path=os.fsdecode(path), mode=int(mode, 8), blob=blob.decode())


class _Folders:
    """Answers whether a tracked path still lies inside the working tree (a folder may have become a link)."""

    def __init__(self, top: Path) -> None:
        self._top = os.path.realpath(top)
        self._known: dict[str, str | None] = {}

    def place(self, path: str) -> str | None:
        """The absolute path of a tracked name, or None when one of its folders leads outside."""
        folder, _, name = path.rpartition("/")
        if folder not in self._known:
            real = os.path.realpath(os.path.join(self._top, folder))
            inside = real == self._top or real.startswith(self._top.rstrip("/") + "/")
            self._known[folder] = real if inside else None
        parent = self._known[folder]
        return None if parent is None else os.path.join(parent, name)


def _from_disk(entry: Entry, guard: _Folders) -> Content:
    place = guard.place(entry.path)
    nothing = Content(entry=entry, size_bytes=None, data=None)
    if place is None:
        return nothing
    try:
        # Non-blocking: a FIFO put in the place of a file must not stop the check-up.
        fd = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return Content(entry=entry, size_bytes=_size(place), data=None)
    with os.fdopen(fd, "rb") as file:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return nothing
        fits = status.st_size <= READ_BYTES
        return Content(entry=entry, size_bytes=status.st_size, data=_read(file) if fits else None)


def _read(file: IO[bytes]) -> bytes | None:
    try:
        return file.read(READ_BYTES)
    except OSError:
        return None


def _size(place: str) -> int | None:
    try:
        status = os.lstat(place)
    except OSError:
        return None
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _readlink(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _from_object(entry: Entry, answer: tuple[int | None, bytes | None]) -> Content:
    return Content(entry=entry, size_bytes=answer[0], data=answer[1])


class _Fetch:
    """Asks a running `git cat-file --batch` for one object at a time."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        self._ask, self._answer = process.stdin, process.stdout

    def __call__(self, blob: str) -> tuple[int | None, bytes | None]:
        """Size and content; (None, None) for an object that is missing, content None when too large."""
        self._ask.write(blob.encode() + b"\n")
        self._ask.flush()
        header = self._answer.readline().split()
        if len(header) != 3:
            if header[1:] == [b"missing"]:
                return None, None
            raise GitFailed("git cat-file ended early; run `git fsck` in the repository")
        size = int(header[2])
        if size <= READ_BYTES:
            data = self._answer.read(size + 1)[:size]
            return size, data
        left = size + 1
        while left > 0 and (block := self._answer.read(min(left, 1 << 20))):
            left -= len(block)
        return size, None


@contextmanager
def _objects(repo: Repo) -> Iterator[_Fetch]:
    process = repo.start("cat-file", "--batch")
    try:
        yield _Fetch(process)
    finally:
        process.kill()
        process.communicate()
