"""The terminal under a live view: its size, a whole window of lines, or a block of lines below a prompt.

A line is written only when it changed, in place, all changes of a frame in one write: nothing flickers, and a
window that shows the same costs nothing. A whole window is never waited for: while its terminal takes
nothing, frames are left out. A person's own terminal is waited for, as by any command.
"""

from __future__ import annotations

import contextlib
import os
import sys
import termios
from collections.abc import Sequence
from typing import Any

from ai_infra.dashboard.ink import Line
from ai_infra.dashboard.outlet import Outlet

FALLBACK = (80, 24)
_START = "\x1b[?25l\x1b[?7l\x1b[2J"  # no cursor, no wrapping, empty
_END = "\x1b[?7h\x1b[?25h"


def terminal_size(fd: int | None = None) -> tuple[int, int]:
    """Columns and rows now; 80x24 where nobody can say."""
    try:
        columns, rows = os.get_terminal_size(sys.stdout.fileno() if fd is None else fd)
    except (OSError, ValueError):
        return FALLBACK
    return (columns or FALLBACK[0], rows or FALLBACK[1])


def terminal_width() -> int | None:
    """Columns of our terminal; None where the output goes elsewhere and must not be cut."""
    try:
        return terminal_size()[0] if sys.stdout.isatty() else None
    except ValueError:
        return None


class Screen:
    """A whole window, which is ours. Open it with `with`."""

    def __init__(self, fd: int = 1, *, colour: bool = True) -> None:
        self._fd, self._colour = fd, colour
        self._outlet = Outlet(fd)
        self._shown: list[str] = []
        self._size: tuple[int, int] | None = None
        self._modes: list[Any] | None = None

    def __enter__(self) -> Screen:
        self._modes = set_modes(self._fd, echo=False)
        return self

    def __exit__(self, *_: object) -> None:
        self._outlet.send(f"{_END}\x1b[{self.size[1]};1H\r\n")
        if self._modes is not None:
            with contextlib.suppress(termios.error):
                termios.tcsetattr(self._fd, termios.TCSADRAIN, self._modes)

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows now."""
        return terminal_size(self._fd)

    def draw(self, lines: Sequence[Line]) -> None:
        """Show a frame; what does not fit is not shown, nor is a frame before the last one was taken."""
        if self._outlet.is_busy:
            return
        width, height = self.size
        out = ""
        if self._size != (width, height):
            self._size, self._shown, out = (width, height), [], _START
        frame = [self._rendered(line, width) for line in lines[:height]]
        frame += [self._rendered(Line(), width)] * (len(self._shown) - len(frame))
        for row, text in enumerate(frame):
            if row >= len(self._shown) or self._shown[row] != text:
                out += f"\x1b[{row + 1};1H{text}\x1b[0m"
        self._shown = frame
        if out:
            self._outlet.send(out)

    def _rendered(self, line: Line, width: int) -> str:
        """The rest of the row is cleared, except after its last cell, where clearing would take that one."""
        line = line.cut(width)
        return line.text(colour=self._colour) + ("\x1b[0m\x1b[K" if line.width < width else "")


class Block:
    """Lines below the prompt that are drawn again in place; the last drawing stays."""

    def __init__(self, fd: int = 1, *, colour: bool = True) -> None:
        self._fd, self._colour = fd, colour
        self._shown: list[str] = []

    @property
    def size(self) -> tuple[int, int]:
        """Columns and rows that a block may take."""
        columns, rows = terminal_size(self._fd)
        return columns - 1, max(2, rows - 1)

    def draw(self, lines: Sequence[Line]) -> None:
        """Replace what was drawn before."""
        width = self.size[0]
        texts = [line.cut(width).text(colour=self._colour) for line in lines]
        if texts == self._shown:
            return
        up = f"\x1b[{len(self._shown)}A" if self._shown else ""
        _write(self._fd, up + "\r" + "".join(f"{text}\x1b[0m\x1b[K\n" for text in texts) + "\x1b[J")
        self._shown = texts


def set_modes(fd: int, *, echo: bool) -> list[Any] | None:
    """Let Ctrl-S no longer stop what writes here, and without `echo` show no typed keys; the modes before.

    None, and nothing done, where there is no terminal or it belongs to another job of a shell.
    """
    try:
        if os.tcgetpgrp(fd) != os.getpgrp():
            return None
        before = termios.tcgetattr(fd)
        modes = [*before]
        modes[0] &= ~termios.IXON
        modes[3] = modes[3] | termios.ECHO if echo else modes[3] & ~termios.ECHO
        termios.tcsetattr(fd, termios.TCSADRAIN, modes)
    except (termios.error, OSError):
        return None
    return before


def _write(fd: int, text: str) -> None:
    """All of it; a terminal that is gone is no reason to fail."""
    data = text.encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):
        while data:
            data = data[os.write(fd, data) :]
