"""Durable files: a reader sees the old content or the new, whatever dies in between.

Write beside, fsync, rename, fsync the folder. Files hold the owner's data only: mode 0600.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ai_infra.core.errors import SystemProblem

LEFT_S = 600.0  #: nobody takes so long to write a file
_TOKEN_BYTES = 4


def write_bytes(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Replace `path` by `data`; on disk when this returns. Raises SystemProblem (full, read-only)."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(_TOKEN_BYTES)}")
    try:
        fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.rename(beside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(beside)
            raise
        _sweep(path)
        fsync_dir(path.parent)
    except OSError as exc:
        raise system_problem(path, exc) from exc


def _sweep(path: Path) -> None:
    """Remove what writers of `path` left beside it when they were killed; who still writes is younger."""
    begin, length = f".{path.name}.", len(path.name) + 2 + 2 * _TOKEN_BYTES
    with os.scandir(path.parent) as entries:
        for entry in entries:
            if entry.name.startswith(begin) and len(entry.name) == length:
                with contextlib.suppress(FileNotFoundError):
                    if time.time() - entry.stat().st_mtime > LEFT_S:
                        os.unlink(entry.path)


def write_text(path: Path, text: str) -> None:
    """write_bytes for text, as UTF-8."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """write_bytes for one JSON object."""
    write_bytes(path, json.dumps(value, separators=(",", ":"), sort_keys=True).encode() + b"\n")


def read_json(path: Path) -> dict[str, Any] | None:
    """The object in `path`; None when it is absent or not a JSON object (it is then written anew)."""
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def fsync_dir(folder: Path) -> None:
    """Put a folder's names on disk."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def system_problem(path: Path, exc: OSError) -> SystemProblem:
    """An OSError in words a person can act on."""
    words = {
        errno.ENOSPC: "the disk is full; free some space and try again",
        errno.EDQUOT: "your disk quota is used up; free some space and try again",
        errno.EROFS: "the file system is read-only",
        errno.EACCES: "permission denied; it must belong to the user who runs ai-infra",
    }
    return SystemProblem(f"{path}: {words.get(exc.errno or 0, exc.strerror or str(exc))}")


class FileLock:
    """A lock the kernel gives back when its holder dies, whatever kills it.

    The file stays where it is; only the lock on it means anything.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._fd: int | None = None

    def try_acquire(self) -> bool:
        """Take the lock if nobody has it. Taking it twice in one object is an error of the caller."""
        assert self._fd is None, "already held"
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as exc:
            raise system_problem(self.path, exc) from exc
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)  # what stands there was said by a holder that is gone
        self._fd = fd
        return True

    def write(self, value: Mapping[str, Any]) -> None:
        """Say in the file who holds the lock. For readers only; not durable, not atomic."""
        assert self._fd is not None, "not held"
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, json.dumps(value).encode(), 0)

    def is_in_place(self) -> bool:
        """Whether the file is still the one that others look at; a person may have removed it."""
        try:
            return os.path.samestat(os.fstat(self.fileno()), os.stat(self.path))
        except OSError:
            return False

    def fileno(self) -> int:
        """The descriptor that holds the lock; a child that inherits it holds the lock, too."""
        assert self._fd is not None, "not held"
        return self._fd

    def release(self) -> None:
        """Give the lock back; twice is safe."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock on `path` right now. Any number may ask at once."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: two who ask must not see each other
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False
