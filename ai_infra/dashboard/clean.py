"""Clean text: what a task, a log or a command says, made safe to show, and measured in cells.

Standard library only: every agent's window prints through it.
"""

from __future__ import annotations

import re
import unicodedata

TAB = "    "
MAX_MARKS = 2  #: combining marks kept on one character
_DROPPED = frozenset("\u200d\ufe0e\ufe0f")  # joiners and variants: terminals disagree about their width

# Complete sequences only: an unfinished one loses its ESC to clean() and hides nothing.
_SEQUENCE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # CSI: colours, cursor
    r"|\x1b[\]PX^_][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)"  # OSC, DCS, SOS, PM, APC: titles, links, clipboard
    r"|\x1b[ -/]+[0-~]"  # character sets
    r"|\x1b[=>78cDEHMNOZ]"  # single characters
)


def clean(text: str) -> str:
    """`text` on one line: control, format and unknown characters become visible escapes. Twice is safe."""
    if text.isascii() and text.isprintable():
        return text
    out: list[str] = []
    marks = 0
    for char in text:
        marks = marks + 1 if unicodedata.category(char) in ("Mn", "Me") else 0
        if marks > MAX_MARKS or char in _DROPPED:
            continue
        out.append(char if char.isprintable() else _escape(char))
    return "".join(out)


def _escape(char: str) -> str:
    if char == "\t":
        return TAB
    if unicodedata.category(char) == "Zs":
        return " "
    return char.encode("unicode_escape").decode("ascii")


def output_line(text: str) -> str:
    """A line of a command's output as it was meant to be seen: no colours, a progress bar's last state."""
    if text.isascii() and text.isprintable():
        return text
    plain = _SEQUENCE.sub("", text).rstrip("\r\n")
    return clean(plain.rpartition("\r")[2])


def cells(text: str) -> int:
    """How many cells of a terminal a clean text takes."""
    return len(text) if text.isascii() else sum(map(_char_cells, text))


def _char_cells(char: str) -> int:
    if char < "\u0300":
        return 1
    if unicodedata.category(char) in ("Mn", "Me") or "\u1160" <= char <= "\u11ff":
        return 0
    return 2 if unicodedata.east_asian_width(char) in "WF" else 1


def cut(text: str, width: int) -> str:
    """A clean text in at most `width` cells; a cut is shown by "…"."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    used = 0
    for i, char in enumerate(text):
        used += _char_cells(char)
        if used > width - 1:
            return text[:i] + "…"
    return text


def wrap(text: str, width: int) -> list[str]:
    """A clean text in lines of at most `width` cells, broken between words; a longer word is cut."""
    lines: list[str] = []
    for word in text.split():
        if lines and cells(lines[-1]) + 1 + cells(word) <= width:
            lines[-1] += " " + word
        else:
            lines.append(cut(word, width))
    return lines
