"""Hostile text is shown, not obeyed; widths are what a terminal makes of them."""

from __future__ import annotations

import pytest
from dashboard_data import BIDI, HOSTILE
from hypothesis import given
from hypothesis import strategies as st

from ai_infra.dashboard.clean import cells, clean, cut, output_line, wrap
from ai_infra.dashboard.ink import Line, Page, Style, ink, join, wants_colour

ANY_TEXT = st.text(st.characters(exclude_categories=[]))


@given(ANY_TEXT)
def test_no_text_survives_that_a_terminal_would_obey(text: str) -> None:
    shown = clean(text)
    assert shown.isprintable()
    assert not set(shown) & set(BIDI)
    assert clean(shown) == shown
    shown.encode("utf-8")  # lone surrogates are gone


@given(ANY_TEXT, st.integers(0, 40))
def test_a_cut_text_fits_and_a_text_that_fits_is_not_cut(text: str, width: int) -> None:
    shown = clean(text)
    assert cells(cut(shown, width)) <= width
    if cells(shown) <= width:
        assert cut(shown, width) == shown


@given(st.lists(st.tuples(ANY_TEXT, st.sampled_from(Style)), max_size=5), st.integers(0, 30))
def test_a_line_of_many_pieces_is_cut_and_padded_exactly(pieces: list[tuple[str, Style]], width: int) -> None:
    line = join((ink(text, style) for text, style in pieces), " ")
    assert line.cut(width).width <= width
    assert line.pad(width).width == line.pad(width, right=True).width == width
    assert (
        line.cut(width) == line if line.width <= width else line.cut(width).plain.endswith("…") or width == 0
    )


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a\nb", r"a\nb"),
        ("\x1b[31m", r"\x1b[31m"),
        ("\u202eevil", r"\u202eevil"),
        ("\x9b2J", r"\x9b2J"),
        ("a\tb\u00a0c", "a    b c"),
        ("e" + "\u0301" * 50, "e\u0301\u0301"),
        ("👩\u200d🚀", "👩🚀"),
        ("\ud800", r"\ud800"),
    ],
)
def test_what_is_escaped_can_be_read(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_wide_and_combining_characters_are_counted_as_a_terminal_does() -> None:
    assert [cells(text) for text in ("abc", "日本", "é", "e\u0301", "🚀", "●✓…")] == [3, 4, 1, 1, 2, 3]
    assert cut("日本語", 4) == "日…"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m text", "red text"),
        ("\x1b]0;title\x07\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;ZXZpbA==\x07done", "done"),
        (" 10%\r 50%\r100%", "100%"),
        ("windows line\r", "windows line"),
        ("\x1b(B\x1b[?25hprompt", "prompt"),
        ("\x1b]52;c;unfinished hides nothing", r"\x1b]52;c;unfinished hides nothing"),
        ("plain", "plain"),
    ],
)
def test_output_is_shown_as_it_was_meant(written: str, shown: str) -> None:
    assert output_line(written) == shown


def test_wrapping_keeps_words_and_the_width() -> None:
    lines = wrap("the quick brown fox jumps over " + "x" * 50, 12)
    assert lines[:2] == ["the quick", "brown fox"]
    assert all(cells(line) <= 12 for line in lines)


def test_colour_is_only_added_to_clean_text() -> None:
    page = Page((ink(HOSTILE, Style.BAD) + ink(" end"),))
    assert "\x1b" not in page.text(colour=False)
    assert page.text(colour=True).count("\x1b") == 2  # our own colour, on and off
    assert Line().text(colour=True) == ""


def test_rich_prints_a_page_too() -> None:
    from rich.console import Console

    console = Console(width=40, force_terminal=False)
    with console.capture() as caught:
        console.print(Page((ink("[bold]literal", Style.GOOD), ink("second"))))
    assert caught.get().split("\n")[:2] == ["[bold]literal", "second"]


def test_colour_needs_a_terminal_that_can_and_nobody_who_objects() -> None:
    assert wants_colour(True, {"TERM": "xterm"})
    assert not wants_colour(False, {"TERM": "xterm"})
    assert not wants_colour(True, {"TERM": "dumb"})
    assert not wants_colour(True, {"TERM": "xterm", "NO_COLOR": "1"})
    assert wants_colour(True, {"TERM": "xterm", "NO_COLOR": ""})
