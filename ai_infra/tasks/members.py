"""Members: a gzip file made of parts, each of which says in its header how long it is and what it holds.

Any gunzip reads such a file. Who knows the headers walks over it without unpacking, unpacks only the parts
that can matter, and finds where a write broke off: what stands behind the last whole one was never confirmed.
The note travels in an extra field (RFC 1952, 2.3.1.1), as bgzip's block size does.
"""

from __future__ import annotations

import json
import os
import re
import struct
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ai_infra.core.durable import fsync_dir, system_problem
from ai_infra.core.errors import SystemProblem

_HEAD = struct.Struct(
    "<4sIBBH"
)  # magic, method and flags; time; extra flags; system; length of the extra field
_MAGIC = b"\x1f\x8b\x08\x04"
_FIELD = struct.Struct("<2sHI")  # our mark, length of the field, length of the whole member
_MARK = b"AI"
_ANOTHER = re.compile(re.escape(_MAGIC) + b".{8}" + _MARK, re.DOTALL)
_LEVEL = 6


@dataclass(frozen=True, kw_only=True)
class Member:
    """One part of a file, not unpacked."""

    path: Path
    start: int
    size: int  #: of the whole part, in bytes
    note: Mapping[str, Any]

    def read(self) -> bytes:
        """What it holds. Raises ValueError when it is damaged, OSError."""
        with open(self.path, "rb") as file:
            file.seek(self.start)
            data = file.read(self.size)
        try:
            return zlib.decompress(data, wbits=31)
        except zlib.error as exc:
            raise ValueError(f"{self.path}: the part at byte {self.start} is damaged: {exc}") from exc


def pack(data: bytes, note: Mapping[str, Any]) -> bytes:
    """One member; the note must be short (60 KB)."""
    text = json.dumps(note, separators=(",", ":")).encode()
    packer = zlib.compressobj(_LEVEL, zlib.DEFLATED, -15)
    body = packer.compress(data) + packer.flush()
    extra = _FIELD.size + len(text)
    size = _HEAD.size + extra + len(body) + 8
    return b"".join(
        (
            _HEAD.pack(_MAGIC, 0, 0, 255, extra),
            _FIELD.pack(_MARK, 4 + len(text), size),
            text,
            body,
            struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF),
        )
    )


def members(path: Path) -> Iterator[Member]:
    """The whole members of a file, in order; ends where one broke off, or is not ours. Raises OSError."""
    with open(path, "rb") as file:
        end = os.fstat(file.fileno()).st_size
        start = 0
        while (member := _member_at(path, file, start, end)) is not None:
            yield member
            start += member.size


def _member_at(path: Path, file: IO[bytes], start: int, end: int) -> Member | None:
    file.seek(start)
    head = file.read(_HEAD.size + _FIELD.size)
    if len(head) < _HEAD.size + _FIELD.size:
        return None
    magic, _, _, _, extra = _HEAD.unpack_from(head)
    mark, length, size = _FIELD.unpack_from(head, _HEAD.size)
    if magic != _MAGIC or mark != _MARK or length + 4 != extra or start + size > end:
        return None
    try:
        note = json.loads(file.read(length - 4))
    except ValueError:
        return None
    return Member(path=path, start=start, size=size, note=note) if isinstance(note, dict) else None


def check_rest(path: Path, start: int) -> None:
    """Raise SystemProblem when what stands from `start` on, behind the last whole member, was confirmed once.

    The beginning of one member was not, nor what the disk never wrote. Raises OSError.
    """
    with open(path, "rb") as file:
        file.seek(start)
        rest = file.read()
        if not rest.strip(b"\0") or _member_at(path, file, start, start + len(rest)):  # it has just come
            return
    torn = rest[:4] == _MAGIC[: len(rest)] and not _ANOTHER.search(rest, 1)
    if torn and len(rest) >= _HEAD.size + _FIELD.size:
        mark, _, size = _FIELD.unpack_from(rest, _HEAD.size)
        torn = mark == _MARK and size > len(rest)
    if not torn:
        raise SystemProblem(
            f"{path}: is damaged at byte {start} or was changed by hand; what stands there cannot be read; "
            "move it away to go on without it"
        )


def append(path: Path, data: bytes, note: Mapping[str, Any]) -> None:
    """Add a member; on disk when this returns. One writer at a time. Raises SystemProblem.

    What a write that broke off has left at the end goes first: nobody was told that it was there. Anything
    else behind the last whole member was confirmed once, or is somebody's: then nothing is written.
    """
    try:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "r+b") as file:
            end = sum(member.size for member in members(path))
            check_rest(path, end)
            file.truncate(end)
            file.seek(end)
            file.write(pack(data, note))
            file.flush()
            os.fsync(file.fileno())
        if end == 0:
            fsync_dir(path.parent)
    except OSError as exc:
        raise system_problem(path, exc) from exc
