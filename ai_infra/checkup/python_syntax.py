"""Python syntax: parse and compile a source, and say what a failure means.

Only the running interpreter can judge, so syntax that a newer Python knows is told apart from a mistake as
well as a message and a line allow; Python 2 is told apart from both.
"""

from __future__ import annotations

import ast
import re
import sys
import warnings
from dataclasses import dataclass

from ai_infra.checkup.findings import Finding, found
from ai_infra.checkup.languages import is_fixture

HERE = f"Python {sys.version_info[0]}.{sys.version_info[1]}"

_PYTHON_2 = re.compile(
    rb"^[ \t]*(?:[^#\n]*:\s*)?print\s+[^\s=(.,)\]:]|^[ \t]*print\s*>>|^[ \t]*print\s*$|^[ \t]*exec\s+[\"'\w]"
    rb"|^[ \t]*except\s+[\w.]+\s*,\s*[a-z]\w*\s*:|^[ \t]*except\s*\([^)]*\)\s*,\s*\w+\s*:"
    rb"|^[ \t]*raise\s+[\w.]+\s*,\s*\S|\bur[\"']|\b(?:0x[0-9a-fA-F]+|\d+)[lL]\b|[=(,]\s*0[0-7]+\b"
    rb"|\w\s*<>\s*\w|[=(%,]\s*`[^`\n]+`|^[ \t]*def\s+\w+\([^)\n]*\(\w+\s*,",
    re.MULTILINE,
)
_NEWER = (  # first version, pattern of the line, pattern of the message
    ((3, 12), re.compile(r"^[ \t]*(async\s+def|def|class|type)\s+\w+\s*[\[=]"), None),
    ((3, 12), None, re.compile(r"f-string|unterminated string literal|unexpected character after line cont")),
    ((3, 13), re.compile(r"^[ \t]*(def|class|type)\s+\w+\["), None),
    # `except A, b:` is how Python 2 named the exception.
    (
        (3, 14),
        re.compile(r"except[^,]*,\s*[A-Z(]"),
        re.compile(r"multiple exception types must be parenthesized"),
    ),
    ((3, 14), re.compile(r"\bt[\"']"), None),
)
_TEMPLATE = re.compile(rb"^[^#\n]*(\{%|\{\{\s*[\w.]+(\s*\||\s*\}\})|<%|\$\{)", re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Parsed:
    """A source that could be read, or the reason why not; `warnings` are the compiler's own."""

    tree: ast.Module | None
    findings: tuple[Finding, ...]


def parse(path: str, data: bytes, oldest: tuple[int, int] | None = None) -> Parsed:
    """Parse and compile; `oldest` is the oldest Python the project supports, when it says so."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            tree = ast.parse(data, filename="source")
            compile(tree, "source", "exec", dont_inherit=True)
        except SyntaxError as exc:
            return Parsed(tree=None, findings=tuple(_failure(path, data, exc, oldest)))
        except (ValueError, RecursionError, MemoryError, OverflowError) as exc:
            message = "is nested too deeply for the compiler" if not isinstance(exc, ValueError) else str(exc)
            return Parsed(tree=None, findings=(_found("python-syntax", message, path),))
    if is_fixture(path):
        return Parsed(tree=tree, findings=())
    return Parsed(tree=tree, findings=tuple(_warning(path, warning) for warning in caught))


def oldest_supported(files: dict[str, bytes]) -> tuple[int, int] | None:
    """The lower bound of requires-python in pyproject.toml or setup.cfg."""
    for name in ("pyproject.toml", "setup.cfg", "setup.py"):
        text = files.get(name, b"").decode("utf-8", "replace")
        match = re.search(
            r"""(?:requires-python|python_requires)\s*=\s*["']?[^\n"']*?[>~=]=?\s*3\.(\d+)""", text
        )
        if match:
            return 3, int(match[1])
    return None


def _failure(path: str, data: bytes, exc: SyntaxError, oldest: tuple[int, int] | None) -> list[Finding]:
    if is_fixture(path) and _TEMPLATE.search(data):
        return []
    if (newer := _newer(exc, oldest)) is not None:
        return [
            found("not-judged", f"seems to need Python {newer}; this check-up runs {HERE}", path, exc.lineno)
        ]
    if "leading zeros in decimal" in (exc.msg or "") or _PYTHON_2.search(data):
        return [_found("python-2", f"is Python 2: {exc.msg}", path, exc.lineno)]
    return [_found("python-syntax", f"not valid {HERE}: {exc.msg}", path, exc.lineno)]


def _newer(exc: SyntaxError, oldest: tuple[int, int] | None) -> str | None:
    """The version that knows this syntax, when it is newer than the one that runs."""
    here = sys.version_info[:2]
    if oldest is not None and oldest > here:
        return f"{oldest[0]}.{oldest[1]}"
    for version, line, message in _NEWER:
        if version <= here:
            continue
        if (line is None or line.search(exc.text or "")) and (
            message is None or message.search(exc.msg or "")
        ):
            return f"{version[0]}.{version[1]}"
    return None


def _warning(path: str, warning: warnings.WarningMessage) -> Finding:
    text = str(warning.message)
    kind = (
        "invalid-escape"
        if text.startswith(("invalid escape", '"\\')) or "octal escape" in text
        else "likely-bug"
    )
    return found(kind, text, path, warning.lineno)


def _found(kind: str, message: str, path: str, line: int | None = None) -> Finding:
    return found("broken-test-data" if is_fixture(path) else kind, message, path, line)
