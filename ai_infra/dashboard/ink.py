"""Ink: styled lines whose width is known, and which can hold no control character.

Every view is made of these, so that nothing a task, a log or a command says can move the cursor, change a
title, write the clipboard, turn text around or pretend to be another line. A frame of them costs a
fraction of what a general layout library takes, which counts for windows that are drawn for days.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ai_infra.dashboard.clean import cells, clean, cut


class Style(StrEnum):
    """How a piece of text looks; the value is the SGR code. Colour never says anything alone."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    GOOD = "32"
    WARN = "33"
    BAD = "1;31"
    ACCENT = "36"
    OTHER = "35"
    BANNER = "1;97;41"


@dataclass(frozen=True)
class Line:
    """One line: clean pieces of text, each with a style. Made by ink() and join()."""

    spans: tuple[tuple[str, Style], ...] = ()

    def __add__(self, other: Line) -> Line:
        return Line(self.spans + other.spans)

    @property
    def plain(self) -> str:
        """The text without styles."""
        return "".join(text for text, _ in self.spans)

    @property
    def width(self) -> int:
        """In cells."""
        return sum(cells(text) for text, _ in self.spans)

    def cut(self, width: int) -> Line:
        """At most `width` cells of it; a cut is shown by "…"."""
        if self.width <= width:
            return self
        kept: list[tuple[str, Style]] = []
        room = width
        for text, style in self.spans:
            if cells(text) >= room:  # more follows, or this piece is too long: it ends in "…" either way
                kept.append((cut(text + "…", room), style))
                break
            kept.append((text, style))
            room -= cells(text)
        return Line(tuple(kept))

    def pad(self, width: int, *, right: bool = False) -> Line:
        """Exactly `width` cells: cut, or filled with spaces (before the text, with `right`)."""
        line = self.cut(width)
        fill = Line(((" " * (width - line.width), Style.PLAIN),))
        return fill + line if right else line + fill

    def text(self, *, colour: bool) -> str:
        """As printed; without `colour` there is no escape sequence in it."""
        if not colour:
            return self.plain.rstrip()
        return "".join(f"\x1b[{style.value}m{text}\x1b[0m" if style else text for text, style in self.spans)


def ink(value: object, style: Style = Style.PLAIN) -> Line:
    """A line of one piece; anything is made text and cleaned."""
    return Line(((clean(str(value)), style),))


def join(parts: Iterable[Line], between: str = "  ") -> Line:
    """The lines that are not empty, one after the other."""
    out: list[tuple[str, Style]] = []
    for part in parts:
        if part.plain:
            out += [(between, Style.PLAIN), *part.spans] if out else part.spans
    return Line(tuple(out))


@dataclass(frozen=True)
class Page:
    """Several lines: what a view returns. Printed by `text()`; rich prints it as well."""

    lines: tuple[Line, ...] = ()

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __add__(self, other: Page) -> Page:
        return Page(self.lines + other.lines)

    def __str__(self) -> str:
        return self.text(colour=False)

    def __rich__(self) -> Any:
        from rich.text import Text

        return Text.from_ansi(self.text(colour=True))

    def text(self, *, colour: bool) -> str:
        """As printed, without a newline at the end."""
        return "\n".join(line.text(colour=colour) for line in self.lines)


def wants_colour(tty: bool, env: Mapping[str, str] = os.environ) -> bool:
    """Whether to colour: on a terminal that can, unless NO_COLOR says no."""
    return tty and not env.get("NO_COLOR") and env.get("TERM") != "dumb"
