"""Templates: `{{ params.x }}` and its siblings in a workflow file (all are in names.py).

A text is filled once, with all its values: when the file is read, or, if it names an upstream's result, when
the task is claimed. So no value is ever read as a template. Names are known beforehand or it is an error;
there are no expressions. A value goes into an argv as it is, into a bash text quoted for the shell, into a
pattern escaped. Where quoting could not hold (inside quotes, comments, here-documents) a template is refused.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Iterator, Mapping

_HOLE = re.compile(r"\{\{(.*?)\}\}", re.DOTALL)
_HEREDOC = re.compile(r"(?<!<)<<(?!<)")


class TemplateError(ValueError):
    """What is wrong with a template; the caller adds file and line."""


def fill(text: str, values: Mapping[str, str]) -> str:
    """`text` with every template replaced. Raises TemplateError for an unknown name or a `{{` left open."""
    return _replace(text, values, lambda value: value)


def only_hole(text: str) -> str | None:
    """The name in a text that is one template and nothing else."""
    match = _HOLE.fullmatch(text.strip())
    return match[1].strip() if match and "}}" not in match[1] else None


def fill_pattern(text: str, values: Mapping[str, str]) -> str:
    """The same for a regular expression: values match literally."""
    return _replace(text, values, re.escape)


def fill_bash(text: str, values: Mapping[str, str]) -> str:
    """The same for a bash text: every value is one word, whatever it holds."""
    for hole, mode, bare in _scan(text):
        place = _place(text, hole, mode, bare)
        if place is not None:
            raise TemplateError(
                f"{hole[0]} stands {place}, where its value could not be quoted safely; "
                "the value is quoted already, so write it bare, or pass it by env"
            )
    return _replace(text, values, shlex.quote)


def _replace(text: str, values: Mapping[str, str], quote: Callable[[str], str]) -> str:
    def value_of(hole: re.Match[str]) -> str:
        name = hole[1].strip()
        if name not in values:
            raise TemplateError(f"unknown template {{{{ {name} }}}}; {_hint(name, values)}")
        return quote(values[name])

    if "{{" in _HOLE.sub("", text):
        raise TemplateError("a template is opened with {{ and not closed with }}")
    return _HOLE.sub(value_of, text)


def _hint(name: str, values: Mapping[str, str]) -> str:
    near = difflib.get_close_matches(name, values, n=1)
    return f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(values))}"


def _place(text: str, hole: re.Match[str], mode: str, bare: str) -> str | None:
    """Where bash stands at a template, in words; None: where a quoted word may stand."""
    if _HEREDOC.search(text, 0, hole.start()):
        return "after a here-document"
    if mode:
        return _PLACES[mode]
    compared = _NUMBERS_BEFORE.search(bare) or _NUMBERS_AFTER.match(text, hole.end())
    if _COUNTED.search(bare) or (compared and _TEST.search(bare)):
        return "in arithmetic, an index or ${…}"
    return None


_PLACES = {
    "'": "inside single quotes",
    "$'": "inside single quotes",
    '"': "inside double quotes",
    "`": "inside backquotes",
    "#": "inside a comment",
    "\\": "behind a backslash",
}


#: What stands before a place that bash evaluates, quoted or not: there it would run the command of `a[$(…)]`.
_COUNTED = re.compile(
    r"""(?: \(\((?:(?!\)\)).)*                             # ((…)), $((…))
      | \$\[[^\]]* | \$\{[^}]*                             # $[…], ${V:…}
      | (?:[\w(]\[ | \[(?![\[\s]))[^\]]*                   # a[…]=, ([…]=…)
      | (?:\A|[;&|({\n]|\b(?:do|then|else|if|while)\s)\s*(?:let|read|unset)\s[^;&|\n]*
      | \b(?:declare|typeset|local|export|readonly)\s[^;&|\n]*-\w*i\w*\s[^;&|\n]*
      | (?:\b(?:printf|test)|\[\[?)\s+(?:!\s+)?-v\s+
    )\Z""",
    re.DOTALL | re.VERBOSE,
)
_TEST = re.compile(r"\[\[(?:(?!\]\]).)*\Z", re.DOTALL)
_NUMBERS_BEFORE = re.compile(r"\s-(?:eq|ne|lt|le|gt|ge)\s+\S*\Z")
_NUMBERS_AFTER = re.compile(r"\S*\s+-(?:eq|ne|lt|le|gt|ge)\s")


def _scan(text: str) -> Iterator[tuple[re.Match[str], str, str]]:
    """Each template; the quote that is open there (`#` for a comment, `\\` for an escape, or none); and the
    text before it without what is quoted, escaped or a comment.
    """
    bare: list[str] = []
    mode, i = "", 0
    for hole in _HOLE.finditer(text):
        while i < hole.start():
            now, after = _step(text, i, mode)
            if not mode and not now and after == i + 1:
                bare.append(text[i])
            mode, i = now, after
        yield hole, mode if i == hole.start() else "\\", "".join(bare)
        bare.append("_")
        i = hole.end()


def _step(text: str, i: int, mode: str) -> tuple[str, int]:
    char = text[i]
    if mode == "#":
        return ("" if char == "\n" else "#"), i + 1
    if mode == "'":
        return ("" if char == "'" else "'"), i + 1
    if char == "\\":
        return mode, i + 2
    if mode:
        return ("" if char == mode[-1] else mode), i + 1
    return _open(text, i, char)


def _open(text: str, i: int, char: str) -> tuple[str, int]:
    if char == "$" and text[i + 1 : i + 2] == "'":
        return "$'", i + 2
    if char in "'\"`":
        return char, i + 1
    if char == "#" and (i == 0 or text[i - 1] in " \t\n;&|("):
        return "#", i + 1
    return "", i + 1
