"""What is taken back of a workflow, and what stays, in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from ai_infra.dashboard.clean import clean, wrap
from ai_infra.dashboard.ink import Line, Style, ink
from ai_infra.tasks.task import Undoing, WorkflowView

MAX_NAMED = 50
MAX_REASON_CHARS = 100


def undo_word(view: WorkflowView) -> str:
    """The same in a word or two, for a line of a list; "" for a workflow that nobody undoes."""
    if view.undo is None:
        return ""
    if not view.undo.begun:
        return "will be undone"
    return "was undone" if view.ended else "is being undone"


def undo_lines(view: WorkflowView, width: int) -> list[Line]:
    """Nothing for a workflow that nobody undoes."""
    undo = view.undo
    if undo is None:
        return []
    stays = [f"{name} ({why[:MAX_REASON_CHARS]})" for name, why in undo.not_undone.items()]
    said = [
        (_head(undo, bool(view.tasks)), Style.WARN),
        (_listed("undone", undo.undone), Style.GOOD),
        (_listed("to be undone", undo.waiting), Style.WARN),
        (_listed("could not be undone", stays), Style.BAD),
        (_listed("may have left something when it ended", undo.half_done), Style.WARN),
    ]
    return [ink(f"  {line}", style) for text, style in said for line in wrap(clean(text), max(10, width - 2))]


def _head(undo: Undoing, whole: bool) -> str:
    why = f"because {undo.why}"
    if not undo.begun:
        return f"will be undone when what runs has ended, {why}"
    if undo.waiting:
        return f"is being undone, {why}"
    if whole and not undo.undone and not undo.not_undone:
        return f"nothing had to be undone, {why}"
    return f"was undone, {why}"


def _listed(lead: str, names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return f"{lead}: {', '.join(names[:MAX_NAMED])}{more}" if names else ""
