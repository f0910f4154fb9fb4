"""Outlet: the way into our own window, which never waits for it: its server may stall, we may not.

What the terminal does not take at once is kept, up to a bound, and goes on as soon as it takes more; lines
beyond are counted, and the count is shown. A window that is gone or closed is no reason to stop working.
"""

from __future__ import annotations

import asyncio
import os
import select
import stat

WAITING_BYTES = 65536  #: kept for a terminal that does not take them
PATIENCE_S = 0.1  #: for a terminal that takes nothing, where there is no event loop to tell us when it does


class Outlet:
    """A terminal of ours."""

    def __init__(self, fd: int = 1) -> None:
        self._fd = _opened_again(fd)
        self._waiting = b""
        self._dropped = 0
        self._loop: asyncio.AbstractEventLoop | None = None  #: tells us when it takes more

    @property
    def is_busy(self) -> bool:
        """Whether the terminal has not taken all that was sent."""
        return bool(self._waiting)

    def write(self, text: str) -> None:
        """Show one line, now or later."""
        if len(self._waiting) < WAITING_BYTES and not self._dropped:
            self.send(text + "\n")
        else:
            self._dropped += 1
            self.send("")

    def send(self, text: str) -> None:
        """Text as it is, now or later, all of it: whoever sends much asks is_busy first."""
        self._waiting += text.encode("utf-8", "backslashreplace")
        if not self._flush():
            self._flush_later()

    def _flush(self) -> bool:
        """Write what it takes; whether that was all."""
        try:
            while self._waiting or self._dropped:
                if not self._waiting:
                    self._waiting = f"… {self._dropped} lines not shown, this window was too slow\n".encode()
                    self._dropped = 0
                self._waiting = self._waiting[os.write(self._fd, self._waiting) :]
        except BlockingIOError:
            return False
        except OSError:
            self._waiting, self._dropped = b"", 0
        return True

    def _flush_later(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # before or after our work: nobody waits for us
            if select.select([], [self._fd], [], PATIENCE_S)[1]:
                self._flush()
            return
        if self._loop is not loop:
            self._loop = loop
            loop.add_writer(self._fd, self._go_on)

    def _go_on(self) -> None:
        if self._flush() and self._loop is not None:
            self._loop.remove_writer(self._fd)
            self._loop = None


def _opened_again(fd: int) -> int:
    """A terminal or pipe as an open file of our own, that never waits: its flags are not our children's."""
    try:
        if not (os.isatty(fd) or stat.S_ISFIFO(os.fstat(fd).st_mode)):
            return fd
        return os.open(f"/dev/fd/{fd}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return fd
