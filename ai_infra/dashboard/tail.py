"""Tails: the log files of all processes as one stream of entries, through rotation, cut lines and rubbish.

Reads only. A line counts once its newline is there; whatever cannot be read is an entry that says so.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

Entry = dict[str, Any]

SUFFIX = ".jsonl"
OLD_SUFFIX = ".1.jsonl"  #: the one old file that a rotation leaves
MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16


class Tail:
    """One process's log, read from where the last call stopped."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name.removesuffix(SUFFIX)
        self._fd: int | None = None
        self._part = b""
        self._last_at = ""  # sorts an entry without a time beside the one before it

    def close(self) -> None:
        """Let go of the file. Twice is safe."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def backlog(self, lines: int) -> list[tuple[str, Entry]]:
        """The last entries, of the old file too if it takes that; later calls of new() go on from here."""
        self.close()
        found: list[bytes] = []
        if self._open():
            assert self._fd is not None
            found, self._part = _last_lines(self._fd, lines)
        if len(found) < lines:
            found = _old_lines(self.path.with_suffix(OLD_SUFFIX), lines - len(found)) + found
        return [self._entry(line) for line in found]

    def new(self) -> list[tuple[str, Entry]]:
        """The entries written since, each with the key it sorts by; follows the log into its new file."""
        lines: list[bytes] = []
        if self._fd is None and not self._open():
            return []
        lines += self._read()
        while self._turned_over():
            self._part = b""
            lines += self._read()
        return [self._entry(line) for line in lines]

    def _open(self, path: Path | None = None) -> bool:
        with contextlib.suppress(OSError):
            fd = os.open(path or self.path, os.O_RDONLY | os.O_CLOEXEC)
            self.close()
            self._fd = fd
            return True
        return False

    def _turned_over(self) -> bool:
        """Open the file that came after ours, if ours is not the newest any more."""
        assert self._fd is not None
        ours = os.fstat(self._fd).st_ino
        newest, old = _inode(self.path), _inode(self.path.with_suffix(OLD_SUFFIX))
        if newest in (ours, None):
            return False
        # Two rotations since the last look: the old file is not ours but the one in between.
        skipped = old is not None and old != ours and os.fstat(self._fd).st_nlink == 0
        return self._open(self.path.with_suffix(OLD_SUFFIX) if skipped else self.path)

    def _read(self) -> list[bytes]:
        """Whole lines up to the end of the open file."""
        assert self._fd is not None
        if os.fstat(self._fd).st_size < os.lseek(self._fd, 0, os.SEEK_CUR):
            os.lseek(self._fd, 0, os.SEEK_SET)  # somebody emptied it
            self._part = b""
        lines: list[bytes] = []
        while block := os.read(self._fd, _BLOCK_BYTES):
            *whole, self._part = (self._part + block).split(b"\n")
            lines += whole
            if len(self._part) > MAX_LINE_BYTES:
                self._part = self._part[:MAX_LINE_BYTES]
        return lines

    def _entry(self, line: bytes) -> tuple[str, Entry]:
        entry = parse(line, self.name)
        at = entry.get("at")
        self._last_at = at if isinstance(at, str) else self._last_at
        return self._last_at, entry


class Tails:
    """The logs of a folder, or of some processes, merged by time."""

    def __init__(self, folder: Path, names: Collection[str] | None = None) -> None:
        self._folder, self._names = folder, names
        self._tails: dict[str, Tail] = {}

    def close(self) -> None:
        """Let go of all files. Twice is safe."""
        for tail in self._tails.values():
            tail.close()

    def backlog(self, lines: int) -> list[Entry]:
        """The last entries of every file, by time."""
        self._find()
        return _merged(tail.backlog(lines) for tail in self._tails.values())

    def new(self) -> list[Entry]:
        """What was written since, by time."""
        self._find()
        return _merged(tail.new() for tail in self._tails.values())

    def _find(self) -> None:
        for path in _logs(self._folder):
            name = path.name.removesuffix(SUFFIX)
            if name not in self._tails and (self._names is None or name in self._names):
                self._tails[name] = Tail(path)


def _logs(folder: Path) -> Iterator[Path]:
    with contextlib.suppress(OSError), os.scandir(folder) as found:
        for item in found:
            if item.name.endswith(SUFFIX) and not item.name.endswith(OLD_SUFFIX) and item.is_file():
                yield Path(item.path)


def _merged(batches: Iterable[list[tuple[str, Entry]]]) -> list[Entry]:
    """One list by time; entries of one process stay in their order."""
    return [entry for _, entry in sorted((pair for batch in batches for pair in batch), key=lambda p: p[0])]


def parse(line: bytes, name: str) -> Entry:
    """A line of `NAME.jsonl`; rubbish becomes an entry that shows it."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        entry = None
    if isinstance(entry, dict):
        return entry
    text = line[:300].decode("utf-8", "backslashreplace")
    return {"level": "warning", "process": name, "event": "unreadable_line", "text": text}


def _inode(path: Path) -> int | None:
    try:
        return os.stat(path).st_ino
    except OSError:
        return None


def _old_lines(path: Path, lines: int) -> list[bytes]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return []
    try:
        return _last_lines(fd, lines)[0]
    finally:
        os.close(fd)


def _last_lines(fd: int, lines: int) -> tuple[list[bytes], bytes]:
    """The last whole lines, and the unfinished one after them; the position is at the end then."""
    start = end = os.lseek(fd, 0, os.SEEK_END)
    data = b""
    while start > 0 and data.count(b"\n") <= lines and len(data) < lines * MAX_LINE_BYTES:
        size = min(_BLOCK_BYTES, start)
        start -= size
        data = os.pread(fd, size, start) + data
    os.lseek(fd, start + len(data) if data else end, os.SEEK_SET)
    *whole, part = data.split(b"\n")
    return whole[-lines:] if lines else [], part
