"""Reports: Markdown drawn for a terminal by rich. What they quote is as hostile as any text."""

from __future__ import annotations

from ai_infra.dashboard.clean import clean


def report_text(markdown: str, width: int, *, colour: bool) -> str:
    """The report with headings, lists and tables laid out in `width` cells."""
    from io import StringIO

    from rich.color import ColorSystem
    from rich.console import Console
    from rich.markdown import Markdown
    from rich.style import Style

    # Cleaned before, so that the layout counts what is shown, and after: `&#27;` is Markdown for a character.
    safe = "\n".join(clean(line) for line in markdown.splitlines())
    console = Console(file=StringIO(), width=width, force_terminal=colour, legacy_windows=False)
    drawn = []
    for line in console.render_lines(Markdown(safe, hyperlinks=False), pad=False):
        pieces = [(clean(segment.text), segment.style or Style.null()) for segment in line]
        shown = [
            style.render(text, color_system=ColorSystem.STANDARD) if colour else text
            for text, style in pieces
        ]
        drawn.append("".join(shown).rstrip())
    return "\n".join(drawn)
