"""Output: what the commands of one attempt wrote: a file up to a bound, the end of it in memory, a watcher.

What is checked is the copy in memory: a task can neither remove it nor write into it.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import IO

from ai_infra.core.durable import system_problem

SEARCHED_BYTES = 1_000_000  #: of the end of the output that a pattern is looked for in
TAIL_BYTES = 8192  #: of the output that travels with the result; the whole is in the log file


class OutputLog:
    """The output of one attempt."""

    def __init__(self, path: Path, max_bytes: int, show: Callable[[bytes], None]) -> None:
        self.path, self._max_bytes, self._show = path, max_bytes, show
        self.total_bytes = 0
        self._kept_bytes = 0
        self._end = bytearray()  # at least the last SEARCHED_BYTES, at most twice as much and a chunk
        self.problem = ""
        try:
            self._file: IO[bytes] | None = open(path, "wb", opener=_private)  # noqa: SIM115 closed by close()
        except OSError as exc:
            raise system_problem(path, exc) from exc

    def write(self, chunk: bytes) -> None:
        """Keep what fits; a full disk is noted in `problem`, the command goes on."""
        self.total_bytes += len(chunk)
        self._end += chunk
        if len(self._end) > 2 * SEARCHED_BYTES:
            del self._end[:-SEARCHED_BYTES]
        self._show(chunk)
        room = self._max_bytes - self._kept_bytes
        if room <= 0 or self._file is None or self.problem:
            return
        try:
            self._file.write(chunk[:room])
            self._file.flush()
            self._kept_bytes += len(chunk[:room])
        except OSError as exc:
            self.problem = str(system_problem(self.path, exc))

    def end(self) -> bytes:
        """The last SEARCHED_BYTES, whatever the file holds."""
        return bytes(self._end[-SEARCHED_BYTES:])

    def tail(self) -> str:
        """The last TAIL_BYTES as text; what is not UTF-8 is replaced."""
        return self._end[-TAIL_BYTES:].decode("utf-8", errors="replace")

    def close(self) -> None:
        """Note in the file how much was left out, and close it. Twice is safe."""
        if self._file is None:
            return
        left_out = self.total_bytes - self._kept_bytes
        with contextlib.suppress(OSError):
            if left_out:
                self._file.write(f"\n[{left_out} more bytes were not kept]\n".encode())
            self._file.close()
        self._file = None


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
