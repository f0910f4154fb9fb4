"""Patches: the added lines in the output of `git log -p -U0`, by commit and file. Pure.

The lines of one file in one commit are put together to one text, so that what stands on several lines (a
private key) is seen whole.
"""

from __future__ import annotations

import os
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

FILE_BYTES = 1_000_000  #: of the added lines of one file in one commit, what is kept

_HUNK = re.compile(rb"@@ -\d+(?:,\d+)? \+(\d+)(?:,(\d+))? @@")
_ESCAPES = {
    b"n": b"\n",
    b"t": b"\t",
    b"r": b"\r",
    b'"': b'"',
    b"\\": b"\\",
    b"a": b"\a",
    b"b": b"\b",
    b"f": b"\f",
    b"v": b"\v",
}


@dataclass(frozen=True, kw_only=True)
class Added:
    """What one commit added to one file."""

    commit: str
    path: str
    text: bytes
    starts: tuple[int, ...]  #: offset in `text` where each line begins
    numbers: tuple[int, ...]  #: its line number in the file of that commit

    def line_of(self, at: int) -> int:
        """The line number of an offset in `text`."""
        return self.numbers[max(0, bisect_right(self.starts, at) - 1)]


def parse_patches(lines: Iterable[bytes]) -> Iterator[Added]:
    """The added lines of every commit and file, in the order they come."""
    commit, current = "", _Collector("", "")
    left = 0  # added lines that belong to the hunk; a line of content may look like anything
    for line in lines:
        if left:
            if line.startswith(b"+"):
                current.add(line[1:])
                left -= 1
                continue
            if line.startswith((b"-", b"\\")):
                continue
        if line.startswith(b"\x01"):
            yield from current.finish()
            commit, current = line[1:].decode("ascii", "replace"), _Collector("", "")
        elif line.startswith(b"+++ "):
            yield from current.finish()
            current = _Collector(commit, _path(line[4:]))
        elif match := _HUNK.match(line):
            current.at(int(match[1]))
            left = int(match[2]) if match[2] is not None else 1
    yield from current.finish()


class _Collector:
    """Gathers the added lines of one file in one commit."""

    def __init__(self, commit: str, path: str) -> None:
        self._commit, self._path = commit, path
        self._lines: list[bytes] = []
        self._numbers: list[int] = []
        self._next = self._size = 0

    def at(self, number: int) -> None:
        """The next added line has this number."""
        self._next = number

    def add(self, line: bytes) -> None:
        """Keep one line."""
        if self._path and self._size < FILE_BYTES:
            self._lines.append(line)
            self._numbers.append(self._next)
            self._size += len(line) + 1
        self._next += 1

    def finish(self) -> Iterator[Added]:
        """What was gathered, if anything."""
        if not self._lines:
            return
        starts, offset = [], 0
        for line in self._lines:
            starts.append(offset)
            offset += len(line) + 1
        text = b"\n".join(self._lines)
        if b"\0" not in text[:8000]:
            yield Added(
                commit=self._commit,
                path=self._path,
                text=text,
                starts=tuple(starts),
                numbers=tuple(self._numbers),
            )


def _path(said: bytes) -> str:
    """The path of a `+++` line; git quotes names with special bytes, and ends names with blanks by a tab."""
    if said.startswith(b'"'):
        said = re.sub(rb"\\([0-7]{3}|.)", _unescape, said[1 : said.rindex(b'"')])
    else:
        said = said.removesuffix(b"\t")
    return "" if said == b"/dev/null" else os.fsdecode(said.removeprefix(b"b/"))


def _unescape(match: re.Match[bytes]) -> bytes:
    said = match[1]
    return bytes([int(said, 8)]) if len(said) == 3 else _ESCAPES.get(said, said)
